//! The search for the gates to keep.

use super::ScheduleConfig;
use super::check::{ConfigError, within};
use serde::{Deserialize, Serialize};

/// Which gates a search may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchedGates {
    /// Those of residual blocks; stem and head stay.
    Blocks,
    /// All of them.
    All,
}

/// The search for the gates to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Highest learning rate of the weights.
    pub learning_rate: f64,
    /// Epochs before the highest learning rate is reached.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Fraction of the searched gates that stays.
    pub budget: f64,
    /// Weight of the communication loss: the alphas' share of all bytes in question, 0 to 1 (a gate
    /// whose removal adds bytes counts negatively).
    pub mu: f64,
    /// Learning rate of the alphas, constant.
    #[serde(default = "tenth")]
    pub alpha_learning_rate: f64,
    /// Value of every searched alpha when the search begins.
    #[serde(default = "half")]
    pub alpha_start: f64,
    /// Which gates may go.
    #[serde(default = "blocks")]
    pub gates: SearchedGates,
}

impl SearchConfig {
    /// Length and learning rate of the weights.
    pub(super) fn schedule(&self) -> ScheduleConfig {
        let Self { epochs, learning_rate, warmup_epochs, .. } = *self;
        ScheduleConfig { epochs, learning_rate, warmup_epochs }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("search.budget", self.budget, 0.0..=1.0)?;
        within("search.mu", self.mu, 0.0..=1000.0)?;
        within("search.alpha_learning_rate", self.alpha_learning_rate, 0.0..=100.0)?;
        within("search.alpha_start", self.alpha_start, 0.0..=1.0)
    }
}

const fn tenth() -> f64 {
    0.1
}

const fn half() -> f64 {
    0.5
}

const fn blocks() -> SearchedGates {
    SearchedGates::Blocks
}
