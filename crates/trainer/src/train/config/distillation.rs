//! What a run learns from another network.

use super::TrainConfig;
use super::check::{ConfigError, within};
use crate::train::stage::Stage;
use serde::{Deserialize, Serialize};

/// The loss `weight * KL(teacher, student) + (1 - weight) * cross entropy`, at temperature 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationConfig {
    /// A checkpoint's path, or `unpruned`: the network as it was before the search.
    pub teacher: String,
    /// Share of the teacher in the loss; with 0 there is no teacher.
    #[serde(default = "usual_weight")]
    pub weight: f64,
    /// When there is a teacher.
    #[serde(default = "in_the_end")]
    pub stages: Vec<Stage>,
}

impl DistillationConfig {
    /// The name of the teacher that the run itself provides.
    pub const UNPRUNED: &'static str = "unpruned";

    /// Refuses a teacher in stages that the run does not have, or in ones that come before there is that teacher.
    pub(super) fn check(&self, run: &TrainConfig) -> Result<(), ConfigError> {
        within("distillation.weight", self.weight, 0.0..=1.0)?;
        let stages = run.stages();
        if let Some(stage) = self.stages.iter().find(|stage| !stages.contains(stage)) {
            let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
            let expected = format!("stages of this run: {}", names.join(", "));
            return Err(ConfigError::value("distillation.stages", expected, stage));
        }
        let has_one = run.search.is_some() && !self.stages.contains(&Stage::Pretrain);
        if self.teacher == Self::UNPRUNED && !has_one {
            let expected = "a checkpoint's path, as there is no network from before the search";
            return Err(ConfigError::value("distillation.teacher", expected, Self::UNPRUNED));
        }
        Ok(())
    }
}

const fn usual_weight() -> f64 {
    0.7
}

fn in_the_end() -> Vec<Stage> {
    vec![Stage::Finetune]
}
