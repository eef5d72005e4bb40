//! Training after the search.

use super::ScheduleConfig;
use super::check::{ConfigError, within};
use copriv_ir::fixed_point;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

/// The widths that a plan of mixed precision will use: the same for all layers, or layer by layer those of a plan that there is. And
/// what tells how large values get: measured before the first epoch and after each, as `copriv compile --calibrate` does on the same
/// images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantiseConfig {
    /// Bits of a weight, sign included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bits: Option<u32>,
    /// Bits of the largest value between layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_bits: Option<u32>,
    /// In place of both a plan, or its folder, of the network that fine-tuning begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PathBuf>,
    /// How many of the first training images tell how large values get.
    #[serde(default = "calibration_images")]
    pub calibration_images: usize,
}

impl QuantiseConfig {
    fn check(&self) -> Result<(), ConfigError> {
        match (self.weight_bits, self.activation_bits, &self.plan) {
            (Some(weight), Some(activation), None) => {
                within("finetune.quantise.weight_bits", f64::from(weight), 2.0..=16.0)?;
                within("finetune.quantise.activation_bits", f64::from(activation), 2.0..=16.0)?;
            }
            (None, None, Some(_)) => {}
            (weight, activation, plan) => {
                let given = [
                    weight.map(|_| "weight_bits"),
                    activation.map(|_| "activation_bits"),
                    plan.as_ref().map(|_| "plan"),
                ];
                let given: Vec<&str> = given.into_iter().flatten().collect();
                let found = if given.is_empty() { "neither".into() } else { given.join(", ") };
                let expected = "weight_bits and activation_bits, or a plan";
                return Err(ConfigError::value("finetune.quantise", expected, found));
            }
        }
        let images = self.calibration_images as f64;
        within("finetune.quantise.calibration_images", images, 1.0..=1e6)
    }
}

impl FinetuneConfig {
    /// Length and learning rate.
    pub(super) fn schedule(&self) -> ScheduleConfig {
        let Self { epochs, learning_rate, warmup_epochs, .. } = *self;
        ScheduleConfig { epochs, learning_rate, warmup_epochs }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.quantise.as_ref().map_or(Ok(()), QuantiseConfig::check)
    }
}

const fn calibration_images() -> usize {
    fixed_point::CALIBRATION_IMAGES
}
