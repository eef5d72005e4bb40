//! The settings of a run: a TOML file, changed by `key=value` overrides, checked as a whole.

use super::overrides::apply;
use super::stage::Stage;
use crate::data::Augmentation;
use copriv_ir::{Activation, Architecture};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
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
    /// Plain training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<ScheduleConfig>,
    /// Weights and alphas trained together under the communication loss.
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
    /// Crops and flips.
    #[serde(default)]
    pub augmentation: Augmentation,
}

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
    /// Learn from another network's answers too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
}

/// The loss `weight * KL(teacher, student) + (1 - weight) * cross entropy`, at temperature 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationConfig {
    /// A checkpoint's path, or `unpruned`: the network as it was before the search.
    pub teacher: String,
    /// Share of the teacher in the loss.
    #[serde(default = "distillation_weight")]
    pub weight: f64,
}

impl DistillationConfig {
    /// The name of the teacher that the run itself provides.
    pub const UNPRUNED: &'static str = "unpruned";
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("{name} is no training configuration: {reason}")]
    Parse { name: String, reason: String },
    #[error("`--set {setting}`: {reason}")]
    Override { setting: String, reason: String },
    #[error("{key}: expected {expected}, found {found}")]
    Value { key: String, expected: String, found: String },
}

impl ConfigError {
    pub(super) fn value(
        key: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Value { key: key.into(), expected: expected.to_string(), found: found.to_string() }
    }
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
            Stage::Search => self.search.as_ref().map(|search| ScheduleConfig {
                epochs: search.epochs,
                learning_rate: search.learning_rate,
                warmup_epochs: search.warmup_epochs,
            }),
            Stage::Finetune => self.finetune.as_ref().map(|finetune| ScheduleConfig {
                epochs: finetune.epochs,
                learning_rate: finetune.learning_rate,
                warmup_epochs: finetune.warmup_epochs,
            }),
        }
    }

    /// The teacher of the last stage, if it has one.
    #[must_use]
    pub fn distillation(&self, stage: Stage) -> Option<&DistillationConfig> {
        let finetune = self.finetune.as_ref().filter(|_| stage == Stage::Finetune)?;
        finetune.distillation.as_ref()
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
        for (key, limit) in
            [("data.train_limit", self.data.train_limit), ("data.test_limit", self.data.test_limit)]
        {
            within(key, limit.unwrap_or(1) as f64, 1.0..=1e9)?;
        }
        within(
            "data.augmentation.crop_padding",
            self.data.augmentation.crop_padding as f64,
            0.0..=64.0,
        )?;
        within("optimiser.momentum", self.optimiser.momentum, 0.0..=0.999)?;
        within("optimiser.weight_decay", self.optimiser.weight_decay, 0.0..=1.0)?;
        within("optimiser.label_smoothing", self.optimiser.label_smoothing, 0.0..=0.9)?;
        for stage in self.stages() {
            self.check_stage(stage)?;
        }
        Ok(())
    }

    fn check_stage(&self, stage: Stage) -> Result<(), ConfigError> {
        let Some(schedule) = self.schedule(stage) else { return Ok(()) };
        within(&format!("{stage}.epochs"), schedule.epochs as f64, 1.0..=100_000.0)?;
        within(&format!("{stage}.learning_rate"), schedule.learning_rate, 1e-9..=100.0)?;
        let warmup = format!("{stage}.warmup_epochs");
        within(&warmup, schedule.warmup_epochs, 0.0..=schedule.epochs as f64)?;
        if let Some(search) = self.search.as_ref().filter(|_| stage == Stage::Search) {
            within("search.budget", search.budget, 0.0..=1.0)?;
            within("search.mu", search.mu, 0.0..=1000.0)?;
            within("search.alpha_learning_rate", search.alpha_learning_rate, 0.0..=100.0)?;
            within("search.alpha_start", search.alpha_start, 0.0..=1.0)?;
        }
        if let Some(distillation) = self.distillation(stage) {
            within("finetune.distillation.weight", distillation.weight, 0.0..=1.0)?;
            if distillation.teacher == DistillationConfig::UNPRUNED && self.search.is_none() {
                let expected = "a checkpoint's path, as this run has no [search] to prune";
                let found = DistillationConfig::UNPRUNED;
                return Err(ConfigError::value("finetune.distillation.teacher", expected, found));
            }
        }
        Ok(())
    }
}

/// Refuses what lies outside the range, NaN included.
fn within(key: &str, found: f64, range: RangeInclusive<f64>) -> Result<(), ConfigError> {
    if range.contains(&found) {
        return Ok(());
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(ConfigError::value(key, expected, found))
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

const fn tenth() -> f64 {
    0.1
}

const fn half() -> f64 {
    0.5
}

const fn blocks() -> SearchedGates {
    SearchedGates::Blocks
}

const fn distillation_weight() -> f64 {
    0.7
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        batch_size = 8
        [network]
        name = \"mobilenet_v2\"
        width = 0.25
        [data]
        name = \"tiny\"
        [pretrain]
        epochs = 2
        learning_rate = 0.1
        [search]
        epochs = 3
        learning_rate = 0.1
        budget = 0.5
        mu = 0.1
    ";

    fn parse(overrides: &[&str]) -> Result<TrainConfig, String> {
        let overrides: Vec<String> = overrides.iter().map(|&s| s.into()).collect();
        TrainConfig::parse(TEXT, "tiny.toml", &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn overrides_replace_and_add() {
        let config = parse(&[
            "search.budget=1",
            "data.name=other",
            "finetune.epochs=4",
            "finetune.learning_rate=0.01",
            "data.augmentation.flip=false",
            "device = ndarray",
        ])
        .expect("a good configuration");
        assert_eq!(config.search.as_ref().map(|s| s.budget), Some(1.0));
        assert_eq!((config.data.name.as_str(), config.device.as_str()), ("other", "ndarray"));
        assert_eq!(config.data.augmentation, Augmentation { crop_padding: 4, flip: false });
        assert_eq!(config.stages(), Stage::ALL);
        assert_eq!(parse(&[]).expect("good").stages(), [Stage::Pretrain, Stage::Search]);
    }

    #[test]
    fn a_resolved_configuration_reads_back() {
        let config = parse(&[]).expect("good");
        let text = toml::to_string(&config).expect("serialises");
        assert_eq!(TrainConfig::parse(&text, "again", &[]), Ok(config));
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            ("search.budgte=0.5", "budgte"),
            ("serach.budget=0.5", "serach"),
            ("search.budget=1.5", "search.budget"),
            ("search.budget=nan", "search.budget"),
            ("search.budget=half", "budget"),
            ("search.gates=none", "gates"),
            ("batch_size=0", "batch_size"),
            ("batch_size=-1", "batch_size"),
            ("network.name=vgg", "name"),
            ("pretrain.warmup_epochs=3", "pretrain.warmup_epochs"),
            ("optimiser.momentum=1", "optimiser.momentum"),
            ("start=a.safetensors", "start"),
            ("batch_size.x=1", "batch_size"),
            ("batch_size", "KEY=VALUE"),
            ("a..b=1", "a..b"),
        ];
        for (setting, named) in cases {
            let error = parse(&[setting]).expect_err(setting);
            assert!(error.contains(named), "{setting}: {error}");
        }
    }

    #[test]
    fn a_teacher_from_the_run_needs_a_search() {
        let settings = [
            "finetune={ epochs = 1, learning_rate = 0.1, distillation = { teacher = \"unpruned\" } }",
        ];
        assert!(parse(&settings).is_ok());
        let text = TEXT.split("[search]").next().unwrap_or_default();
        let overrides = settings.map(String::from);
        let error = TrainConfig::parse(text, "tiny.toml", &overrides).expect_err("no search");
        assert!(error.to_string().contains("finetune.distillation.teacher"), "{error}");
    }

    #[test]
    fn a_run_without_stages_or_network_is_refused() {
        for (from, named) in [("[pretrain]", "stages"), ("[network]", "network")] {
            let text = TEXT.split(from).next().unwrap_or_default();
            let text = if named == "network" {
                format!("{text}[data]\nname = \"t\"\n[pretrain]\nepochs = 1\nlearning_rate = 1.0")
            } else {
                text.into()
            };
            let error = TrainConfig::parse(&text, "t", &[]).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
