//! The network that another one learns from.

use super::config::{ConfigError, DistillationConfig};
use super::error::TrainError;
use super::first_difference;
use crate::model::{GateValue, Mode, Model};
use burn::tensor::{Device, Tensor};
use copriv_ir::{Checkpoint, Digest, InputSpec, Network};
use std::path::Path;

/// A trained network that is only asked.
pub(super) struct Teacher {
    model: Model,
    gates: Vec<GateValue>,
    /// Its share in the loss.
    pub(super) weight: f64,
}

impl Teacher {
    /// Reads the teacher that `config` names; `unpruned` is the file of the run's own, `digest` what the run knows of it.
    pub(super) fn read(
        config: &DistillationConfig,
        (unpruned, digest): (&Path, Option<Digest>),
        student: &Network,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let path = if is_own(config) { unpruned } else { Path::new(&config.teacher) };
        let checkpoint = read(path, student, digest)?;
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

/// Reads and checks a teacher that must be there before the run begins; what is known of it then.
pub(super) fn check_named(
    config: &DistillationConfig,
    student: &Network,
    digest: Option<Digest>,
) -> Result<Option<Digest>, TrainError> {
    if is_own(config) {
        return Ok(digest);
    }
    Ok(Some(read(Path::new(&config.teacher), student, digest)?.digest()))
}

/// Whether the run itself makes the teacher.
pub(super) fn is_own(config: &DistillationConfig) -> bool {
    config.teacher == DistillationConfig::UNPRUNED
}

fn read(path: &Path, student: &Network, digest: Option<Digest>) -> Result<Checkpoint, TrainError> {
    let checkpoint = Checkpoint::read(path)?;
    let found = checkpoint.digest();
    if let Some(expected) = digest.filter(|&expected| expected != found) {
        return Err(TrainError::TeacherChanged { path: path.into(), expected, found });
    }
    check(checkpoint.network(), student)?;
    Ok(checkpoint)
}

/// Refuses a teacher that would not take the student's images, or name its answers otherwise.
fn check(teacher: &Network, student: &Network) -> Result<(), TrainError> {
    let refuse = |expected: String, found: String| {
        Err(ConfigError::value("distillation.teacher", expected, found).into())
    };
    let describe = |network: &Network| {
        let InputSpec { shape, mean, std } = network.input();
        let classes = network.classes();
        format!("{classes} classes of images {shape} of mean {mean:?} and deviation {std:?}")
    };
    let (expected, found) = (describe(student), describe(teacher));
    if expected != found {
        return refuse(expected, found);
    }
    match first_difference(student.labels(), teacher.labels()) {
        Some((class, expected, found)) => {
            refuse(format!("class {class} to be {expected}"), found.into())
        }
        None => Ok(()),
    }
}
