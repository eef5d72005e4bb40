//! The settings of a run: a TOML file, changed by `key=value` overrides, checked as a whole.

mod alpha_start;
mod check;
mod data;
mod distillation;
mod finetune;
mod optimiser;
mod search;

pub use alpha_start::AlphaStart;
pub use check::ConfigError;
pub use data::DataConfig;
pub use distillation::DistillationConfig;
pub use finetune::{FinetuneConfig, QuantiseConfig};
pub use optimiser::{Algorithm, OptimiserConfig};
pub use search::{ImportanceConfig, PenaltyConfig, SearchConfig, SearchedGates};

use super::overrides::apply;
use super::stage::Stage;
use check::within;
use copriv_ir::{Activation, Architecture};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// All settings of a training run.
///
/// A run goes through those of the stages [`Stage::ALL`] that are present, in that order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of initial weights, data order and augmentation.
    #[serde(default = "one")]
    pub seed: u64,
    /// `cpu`, `ndarray`, `wgpu:N` or `cuda:N`.
    #[serde(default = "cpu")]
    pub device: String,
    /// Images a step.
    pub batch_size: usize,
    /// Write a line of metrics every so many steps; 0 for epochs alone.
    #[serde(default)]
    pub log_every: usize,
    /// Checkpoint to begin from; then there is no `[network]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The network, where training begins with random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// What to train on.
    pub data: DataConfig,
    /// What all stages share in how weights move.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// Learn from another network's answers too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// Plain training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<ScheduleConfig>,
    /// The search for the gates to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchConfig>,
    /// Training with the gates that the search left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetune: Option<FinetuneConfig>,
}

/// A network to be made with random weights; classes, image size and statistics are the data's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Family, as in `mobilenet_v2`.
    pub name: Architecture,
    /// Multiplier of every layer's channels.
    #[serde(default = "full_width")]
    pub width: f64,
    /// `relu` or `relu6`.
    #[serde(default = "relu")]
    pub activation: Activation,
    /// Whether an activation follows each fused block.
    #[serde(default = "yes")]
    pub final_activation: bool,
}

/// Length and learning rate of a stage: linear warm-up, then half a cosine to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Highest learning rate, for this batch size.
    pub learning_rate: f64,
    /// Epochs before the highest learning rate is reached.
    #[serde(default)]
    pub warmup_epochs: f64,
}

impl TrainConfig {
    /// The configuration in `text`, changed by `overrides` (`search.budget=0.5`); `name` is the
    /// file's, for messages.
    ///
    /// # Errors
    /// [`ConfigError`] names the key that is unknown, missing or out of range.
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let bad = |reason: String| ConfigError::Parse { name: name.into(), reason };
        let mut table: toml::Table = text.parse().map_err(|e| bad(format!("{e}")))?;
        for setting in overrides {
            apply(&mut table, setting)
                .map_err(|reason| ConfigError::Override { setting: setting.clone(), reason })?;
        }
        let resolved = toml::to_string(&table).map_err(|e| bad(e.to_string()))?;
        let config: Self = toml::from_str(&resolved).map_err(|e| bad(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The stages of this run, in order.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        Stage::ALL.into_iter().filter(|&stage| self.schedule(stage).is_some()).collect()
    }

    /// Length and learning rate of a stage, if the run has it.
    #[must_use]
    pub fn schedule(&self, stage: Stage) -> Option<ScheduleConfig> {
        match stage {
            Stage::Pretrain => self.pretrain.clone(),
            Stage::Search => self.search.as_ref().map(SearchConfig::schedule),
            Stage::Finetune => self.finetune.as_ref().map(FinetuneConfig::schedule),
        }
    }

    /// Who teaches the network in this run, if anyone does.
    #[must_use]
    pub fn teacher(&self) -> Option<&DistillationConfig> {
        self.distillation.as_ref().filter(|distillation| distillation.weight > 0.0)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.start.is_some() == self.network.is_some() {
            let found = if self.start.is_some() { "both" } else { "neither" };
            let expected =
                "a [network] to begin with random weights, or the checkpoint to start from";
            return Err(ConfigError::value("network, start", expected, found));
        }
        if self.stages().is_empty() {
            let expected = "at least one of [pretrain], [search] and [finetune]";
            return Err(ConfigError::value("stages", expected, "none"));
        }
        within("batch_size", self.batch_size as f64, 2.0..=65536.0)?;
        self.data.check()?;
        self.optimiser.check()?;
        for stage in self.stages() {
            self.check_stage(stage)?;
        }
        if let Some(search) = &self.search {
            search.check()?;
        }
        if let Some(finetune) = &self.finetune {
            finetune.check()?;
        }
        if let Some(distillation) = &self.distillation {
            distillation.check(self)?;
        }
        Ok(())
    }

    fn check_stage(&self, stage: Stage) -> Result<(), ConfigError> {
        let Some(schedule) = self.schedule(stage) else { return Ok(()) };
        // A search that decides before its first epoch needs none.
        let search = self.search.as_ref().filter(|_| stage == Stage::Search);
        let needs_epochs = search.is_none_or(|search| search.method.needs_epochs());
        let least = if needs_epochs { 1.0 } else { 0.0 };
        within(&format!("{stage}.epochs"), schedule.epochs as f64, least..=100_000.0)?;
        if schedule.epochs == 0 {
            return Ok(());
        }
        within(&format!("{stage}.learning_rate"), schedule.learning_rate, 1e-9..=100.0)?;
        let warmup = format!("{stage}.warmup_epochs");
        within(&warmup, schedule.warmup_epochs, 0.0..=schedule.epochs as f64)
    }
}

const fn one() -> u64 {
    1
}

fn cpu() -> String {
    "cpu".into()
}

const fn full_width() -> f64 {
    1.0
}

const fn relu() -> Activation {
    Activation::Relu
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
