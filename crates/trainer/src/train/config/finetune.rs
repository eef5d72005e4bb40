//! Training after the search.

use super::ScheduleConfig;
use super::check::{ConfigError, within};
use crate::model::Bits;
use copriv_ir::fixed_point;
use serde::{Deserialize, Serialize};

/// Training after the search, with its gates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Epochs before the highest learning rate is reached.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Round weights and values as the compiler will, so that the network learns to bear it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantise: Option<QuantiseConfig>,
}

/// The widths that a plan of mixed precision will use, the same for all layers, and what tells how large values get: measured before
/// the first epoch and after each, as `copriv compile --calibrate` does on the same images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantiseConfig {
    /// Bits of a weight, sign included.
    pub weight_bits: u32,
    /// Bits of the largest value between layers.
    pub activation_bits: u32,
    /// How many of the first training images tell how large values get.
    #[serde(default = "calibration_images")]
    pub calibration_images: usize,
}

impl QuantiseConfig {
    pub(in crate::train) fn bits(&self) -> Bits {
        Bits { weight: self.weight_bits, activation: self.activation_bits }
    }
}

impl FinetuneConfig {
    /// Length and learning rate.
    pub(super) fn schedule(&self) -> ScheduleConfig {
        let Self { epochs, learning_rate, warmup_epochs, .. } = *self;
        ScheduleConfig { epochs, learning_rate, warmup_epochs }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(config) = self.quantise {
            let QuantiseConfig { weight_bits, activation_bits, calibration_images } = config;
            within("finetune.quantise.weight_bits", f64::from(weight_bits), 2.0..=16.0)?;
            within("finetune.quantise.activation_bits", f64::from(activation_bits), 2.0..=16.0)?;
            let images = calibration_images as f64;
            within("finetune.quantise.calibration_images", images, 1.0..=1e6)?;
        }
        Ok(())
    }
}

const fn calibration_images() -> usize {
    fixed_point::CALIBRATION_IMAGES
}
