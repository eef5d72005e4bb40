//! Which images a run learns from, and how they are varied.

use super::check::{ConfigError, within};
use crate::data::{Augmentation, Mixing, RandAugment};
use serde::{Deserialize, Serialize};

/// Which images, and how they are varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Name of the data set.
    pub name: String,
    /// Train on the first so many images alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_limit: Option<usize>,
    /// Measure on the first so many test images alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_limit: Option<usize>,
    /// Threads that prepare batches ahead.
    #[serde(default = "two")]
    pub workers: usize,
    /// What is done to each training image.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// What is done to the images of a batch among each other.
    #[serde(default)]
    pub mixing: Mixing,
}

impl DataConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, limit) in
            [("data.train_limit", self.train_limit), ("data.test_limit", self.test_limit)]
        {
            within(key, limit.unwrap_or(1) as f64, 1.0..=1e9)?;
        }
        within("data.workers", self.workers as f64, 1.0..=256.0)?;
        within("data.mixing.mixup", self.mixing.mixup, 0.0..=5.0)?;
        within("data.mixing.cutmix", self.mixing.cutmix, 0.0..=5.0)?;
        let Augmentation { crop_padding, resized_crop, rand_augment, erasing, .. } =
            self.augmentation;
        within("data.augmentation.crop_padding", crop_padding as f64, 0.0..=64.0)?;
        within("data.augmentation.erasing", erasing, 0.0..=1.0)?;
        if let Some(crop) = resized_crop {
            within("data.augmentation.resized_crop.min_area", crop.min_area, 0.01..=1.0)?;
            within("data.augmentation.resized_crop.max_aspect", crop.max_aspect, 1.0..=10.0)?;
        }
        if let Some(RandAugment { operations, magnitude }) = rand_augment {
            within("data.augmentation.rand_augment.operations", operations as f64, 0.0..=16.0)?;
            let largest = f64::from(RandAugment::LARGEST);
            let key = "data.augmentation.rand_augment.magnitude";
            within(key, f64::from(magnitude), 0.0..=largest)?;
        }
        Ok(())
    }
}

const fn two() -> usize {
    2
}
