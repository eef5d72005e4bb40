//! The search for the gates to keep.

use super::ScheduleConfig;
use super::check::{ConfigError, within};
use crate::train::methods::Method;
use serde::{Deserialize, Serialize};

/// Which gates a search may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchedGates {
    /// Those of residual blocks; stem and head stay.
    Blocks,
    /// All of them.
    All,
    /// One for each activation of the network, all of which may go. Blocks then have no final activation.
    Layers,
}

/// The search for the gates to keep. At least one limit (`budget...`, `threshold`) that the method knows is
/// given; where there are several, all hold. Settings of other methods than the chosen one are not looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// How the gates are found.
    #[serde(default = "copriv")]
    pub method: Method,
    /// Passes over the training images.
    #[serde(default)]
    pub epochs: usize,
    /// Highest learning rate of the weights.
    #[serde(default)]
    pub learning_rate: f64,
    /// Epochs before the highest learning rate is reached.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Largest fraction that stays: of the searched gates (`copriv`, `dp`), of the activated values
    /// (`deepreduce`) or of the bytes (`uniform`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
    /// Most bytes of one inference's blocks, both directions and phases, by the literature's formulae.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<f64>,
    /// Most activated values of one inference; of `deepreduce` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_relus: Option<u64>,
    /// Smallest alpha that stays; of `copriv` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Weight of the communication loss: the alphas' share of all bytes in question, 0 to 1 (a gate
    /// whose removal adds bytes counts negatively).
    #[serde(default = "fifth")]
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
    /// How importance is measured, where the method measures it.
    #[serde(default)]
    pub importance: ImportanceConfig,
}

/// The measurement of what a gate is worth: the rise in loss on training images when it alone is removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportanceConfig {
    /// Training images that are held out to measure on.
    pub images: usize,
    /// Batches of other training images that batch norms are calibrated on after the removal.
    pub calibration_batches: usize,
}

impl Default for ImportanceConfig {
    fn default() -> Self {
        Self { images: 2000, calibration_batches: 16 }
    }
}

impl SearchConfig {
    /// Length and learning rate of the weights.
    pub(super) fn schedule(&self) -> ScheduleConfig {
        let Self { epochs, learning_rate, warmup_epochs, .. } = *self;
        ScheduleConfig { epochs, learning_rate, warmup_epochs }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("search.budget", self.budget.unwrap_or(0.0), 0.0..=1.0)?;
        within("search.budget_bytes", self.budget_bytes.unwrap_or(0.0), 0.0..=1e18)?;
        within("search.threshold", self.threshold.unwrap_or(0.0), 0.0..=1.0)?;
        within("search.mu", self.mu, 0.0..=1000.0)?;
        within("search.alpha_learning_rate", self.alpha_learning_rate, 0.0..=100.0)?;
        within("search.alpha_start", self.alpha_start, 0.0..=1.0)?;
        within("search.importance.images", self.importance.images as f64, 1.0..=1e9)?;
        let batches = self.importance.calibration_batches as f64;
        within("search.importance.calibration_batches", batches, 0.0..=1e6)?;
        if self.method == Method::DeepReduce && self.gates != SearchedGates::Layers {
            let expected = "\"layers\" for the method deepreduce";
            return Err(ConfigError::value("search.gates", expected, "another choice"));
        }
        let is_given = |key: &&str| match *key {
            "budget" => self.budget.is_some(),
            "budget_bytes" => self.budget_bytes.is_some(),
            "budget_relus" => self.budget_relus.is_some(),
            _ => self.threshold.is_some(),
        };
        let keys = self.method.limits();
        if keys.iter().any(is_given) {
            return Ok(());
        }
        let expected = format!("a limit for the method {}", self.method);
        let keys: Vec<String> = keys.iter().map(|key| format!("search.{key}")).collect();
        Err(ConfigError::value(keys.join(" or "), expected, "none"))
    }
}

const fn copriv() -> Method {
    Method::Copriv
}

const fn fifth() -> f64 {
    0.2
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
