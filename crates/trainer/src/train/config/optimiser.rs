//! How weights move.

use super::check::{ConfigError, within};
use serde::{Deserialize, Serialize};

/// SGD with Nesterov momentum, and the loss on labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// Nesterov momentum.
    pub momentum: f64,
    /// Decay of the weights of convolutions and fully connected layers; nothing else decays.
    pub weight_decay: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { momentum: 0.9, weight_decay: 1e-5, label_smoothing: 0.1 }
    }
}

impl OptimiserConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("optimiser.momentum", self.momentum, 0.0..=0.999)?;
        within("optimiser.weight_decay", self.weight_decay, 0.0..=1.0)?;
        within("optimiser.label_smoothing", self.label_smoothing, 0.0..=0.9)
    }
}
