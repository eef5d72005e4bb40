//! Why a run could not begin or go on.

use super::config::ConfigError;
use super::stage::Stage;
use crate::data::DataError;
use crate::device::DeviceError;
use copriv_ir::{ArtefactError, Digest, NetworkError, Shape};
use std::path::{Path, PathBuf};

/// Why a run could not begin or go on. What was on disk before is still there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the network tells {expected} classes apart, but {dataset} has {found}")]
    Classes { dataset: String, expected: usize, found: usize },
    #[error(
        "class {class} is {expected} to the network, but {found} in {dataset}: it was trained for another data set; start from one that was trained for this, or from random weights"
    )]
    Labels { dataset: String, class: usize, expected: String, found: String },
    #[error("the network takes images of {expected}, but those of {dataset} are {found}")]
    ImageShape { dataset: String, expected: Shape, found: Shape },
    #[error(
        "the loss became {loss} in {stage}, epoch {epoch}, step {step}; try a lower learning rate. \
         The last good checkpoint is {}",
        last_good.display()
    )]
    NotFinite { stage: Stage, epoch: usize, step: usize, loss: f64, last_good: PathBuf },
    #[error("{stage}, epoch {epoch}: no checkpoint can be made: {reason}")]
    Checkpoint { stage: Stage, epoch: usize, reason: String },
    #[error(
        "{} holds a run already: go on with it by --resume, or give another --out",
        path.display()
    )]
    Occupied { path: PathBuf },
    #[error("there is no interrupted run to resume in {}", path.display())]
    NothingToResume { path: PathBuf },
    #[error("{} is damaged: {reason}", path.display())]
    State { path: PathBuf, reason: String },
    #[error(
        "{}: the interrupted run had {key} = {expected}, now it is {found}",
        path.display()
    )]
    ConfigChanged { path: PathBuf, key: String, expected: String, found: String },
    #[error(
        "the interrupted run learns from another {}: its digest was {expected}, now it is {found}; put that file back, or begin anew in another folder",
        path.display()
    )]
    TeacherChanged { path: PathBuf, expected: Digest, found: Digest },
}

impl TrainError {
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    pub(super) fn state(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::State { path: path.into(), reason: reason.to_string() }
    }
}
