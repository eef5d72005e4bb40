//! The search for the gates to keep.

use super::check::{ConfigError, within};
use super::{AlphaStart, ScheduleConfig};
use crate::train::methods::Method;
use copriv_ir::Granularity;
use serde::{Deserialize, Serialize};

/// Which gates a search may remove. Those that are removed already stay so.
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

/// The search for the gates to keep. At least one limit (`budget...`, `threshold`) is given, and none that the method does
/// not know; where there are several, all hold. Other settings of other methods than the chosen one are not looked at.
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
    /// Largest fraction that stays of what the network has before: of the searched gates (`copriv`, `dp`), of the activated
    /// values (`deepreduce`, `snl`, `senet`) or of the bytes (`uniform`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
    /// Most bytes of one inference's blocks, both directions and phases, by the literature's formulae.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<f64>,
    /// Most activated values of one inference; of `deepreduce`, `snl` and `senet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_relus: Option<u64>,
    /// Smallest alpha that stays; of `copriv` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Weight of the communication loss: the alphas' share of all bytes in question, 0 to 1 (a gate
    /// whose removal adds bytes counts negatively). Alphas compete within the limits in any case; this says how
    /// much bytes count in it beyond that.
    #[serde(default = "fifth")]
    pub mu: f64,
    /// Highest learning rate of the alphas. Without one it is 0.005 for those of gates, which move by SGD at a rate that rises and
    /// falls with that of the weights, so that the choice settles; and 0.001 for those of channels and values, which move by
    /// Adam at a constant rate, as their penalty grows instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_learning_rate: Option<f64>,
    /// The searched alphas when the search begins; of `copriv` alone.
    #[serde(default = "half")]
    pub alpha_start: AlphaStart,
    /// Which gates may go.
    #[serde(default = "blocks")]
    pub gates: SearchedGates,
    /// How importance is measured, where the method measures it.
    #[serde(default)]
    pub importance: ImportanceConfig,
    /// How finely activations are chosen; of `snl` and `senet`.
    #[serde(default = "channel")]
    pub granularity: Granularity,
    /// What makes alphas fall; of `snl` alone.
    #[serde(default)]
    pub penalty: PenaltyConfig,
}

/// The penalty on activated values, which grows until few enough are left. The search ends with the first epoch after which the
/// budget holds; if none does, the largest alphas stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PenaltyConfig {
    /// What the loss charges for each activated value, times its alpha, in the first epoch.
    pub weight: f64,
    /// Factor on that weight after an epoch in which the count stalls.
    pub growth: f64,
    /// The count stalls where less than this share of all values has gone.
    pub stall: f64,
    /// Alphas above this one count as left.
    pub threshold: f64,
}

/// As the authors of SNL have it: 1000 of the 557 thousand values of a ResNet-18 are about 0.002 of all.
impl Default for PenaltyConfig {
    fn default() -> Self {
        Self { weight: 1e-5, growth: 1.1, stall: 0.002, threshold: 0.01 }
    }
}

impl PenaltyConfig {
    fn check(&self) -> Result<(), ConfigError> {
        within("search.penalty.weight", self.weight, 0.0..=1e6)?;
        within("search.penalty.growth", self.growth, 1.0..=1e6)?;
        within("search.penalty.stall", self.stall, 0.0..=1.0)?;
        within("search.penalty.threshold", self.threshold, 0.0..=0.999)
    }
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

    /// Learning rate of the alphas in a step in which that of the weights is `rate`.
    pub(in crate::train) fn alpha_rate(&self, rate: f64) -> f64 {
        let share = if self.method.trains_alphas() { rate / self.learning_rate } else { 1.0 };
        share * self.highest_alpha_rate()
    }

    fn highest_alpha_rate(&self) -> f64 {
        let usual = if self.method.chooses_parts() { 0.001 } else { 0.005 };
        self.alpha_learning_rate.unwrap_or(usual)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("search.budget", self.budget.unwrap_or(0.0), 0.0..=1.0)?;
        within("search.budget_bytes", self.budget_bytes.unwrap_or(0.0), 0.0..=1e18)?;
        within("search.threshold", self.threshold.unwrap_or(0.0), 0.0..=1.0)?;
        within("search.mu", self.mu, 0.0..=1000.0)?;
        within("search.alpha_learning_rate", self.highest_alpha_rate(), 0.0..=100.0)?;
        self.alpha_start.check()?;
        within("search.importance.images", self.importance.images as f64, 1.0..=1e9)?;
        let batches = self.importance.calibration_batches as f64;
        within("search.importance.calibration_batches", batches, 0.0..=1e6)?;
        self.penalty.check()?;
        if self.method.needs_layers() && self.gates != SearchedGates::Layers {
            let expected = format!("\"layers\" for the method {}", self.method);
            return Err(ConfigError::value("search.gates", expected, "another choice"));
        }
        self.check_limits()
    }

    /// Refuses a search without a limit, and limits that would not hold.
    fn check_limits(&self) -> Result<(), ConfigError> {
        let given = [
            ("budget", self.budget),
            ("budget_bytes", self.budget_bytes),
            ("budget_relus", self.budget_relus.map(|relus| relus as f64)),
            ("threshold", self.threshold),
        ];
        let given: Vec<(&str, f64)> =
            given.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect();
        let known = self.method.limits();
        let keys: Vec<String> = known.iter().map(|key| format!("search.{key}")).collect();
        let keys = keys.join(" or ");
        if given.is_empty() {
            return Err(ConfigError::value(
                keys,
                format!("a limit for the method {}", self.method),
                "none",
            ));
        }
        let Some((key, limit)) = given.iter().find(|(key, _)| !known.contains(key)) else {
            return Ok(());
        };
        let expected = format!("no such limit for the method {}, but {keys}", self.method);
        Err(ConfigError::value(format!("search.{key}"), expected, limit))
    }
}

const fn copriv() -> Method {
    Method::Copriv
}

const fn fifth() -> f64 {
    0.2
}

const fn channel() -> Granularity {
    Granularity::Channel
}

const fn half() -> AlphaStart {
    AlphaStart::Alike(0.5)
}

const fn blocks() -> SearchedGates {
    SearchedGates::Blocks
}
