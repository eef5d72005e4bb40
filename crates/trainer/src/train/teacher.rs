//! The network that another one learns from.

use super::config::{ConfigError, DistillationConfig};
use super::error::TrainError;
use crate::model::{GateValue, Mode, Model};
use burn::tensor::{Device, Tensor};
use copriv_ir::{Checkpoint, Network};
use std::path::Path;

/// A trained network that is only asked.
pub(super) struct Teacher {
    model: Model,
    gates: Vec<GateValue>,
    /// Its share in the loss.
    pub(super) weight: f64,
}

impl Teacher {
    /// Reads the teacher that `config` names; `unpruned` is the file of the run's own.
    pub(super) fn read(
        config: &DistillationConfig,
        unpruned: &Path,
        student: &Network,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let own = config.teacher == DistillationConfig::UNPRUNED;
        let checkpoint = Checkpoint::read(if own { unpruned } else { Path::new(&config.teacher) })?;
        check(checkpoint.network(), student)?;
        Ok(Self {
            model: Model::from_checkpoint(&checkpoint, device),
            gates: GateValue::fixed(checkpoint.gates().kept()),
            weight: config.weight,
        })
    }

    /// Its logits for normalised images, without autodiff.
    pub(super) fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        self.model.forward(images, &self.gates, Mode::Evaluate)
    }
}

/// Reads and checks a teacher that must be there before the run begins.
pub(super) fn check_named(
    config: &DistillationConfig,
    student: &Network,
) -> Result<(), TrainError> {
    if config.teacher == DistillationConfig::UNPRUNED {
        return Ok(());
    }
    check(Checkpoint::read(Path::new(&config.teacher))?.network(), student)
}

fn check(teacher: &Network, student: &Network) -> Result<(), TrainError> {
    let describe = |n: &Network| format!("{} classes of images {}", n.classes(), n.input().shape);
    if describe(teacher) == describe(student) {
        return Ok(());
    }
    let key = "finetune.distillation.teacher";
    Err(ConfigError::value(key, describe(student), describe(teacher)).into())
}
