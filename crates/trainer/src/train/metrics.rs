//! What a run reports: one record a step or epoch, to an observer and to a file of JSON lines.

use super::error::TrainError;
use super::gates::EstimatedBytes;
use super::methods::{Importances, Method};
use super::stage::Stage;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// One step of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Part of the run.
    pub stage: Stage,
    /// Epoch of the stage, from 1.
    pub epoch: usize,
    /// Step of the epoch, from 1.
    pub step: usize,
    /// Steps an epoch.
    pub steps: usize,
    /// The loss that is minimised.
    pub loss: f64,
    /// Its part for right answers.
    pub task_loss: f64,
    /// Share of the bytes in question, or of the activated values, that the alphas still ask for, before its weight.
    pub comm_loss: f64,
    /// Share of the batch answered right, 0..1.
    pub top1: f64,
    /// Learning rate of the weights.
    pub learning_rate: f64,
    /// Training images a second.
    pub images_per_second: f64,
    /// Importance of each gate, where they are trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alphas: Vec<f32>,
}

/// One epoch of training and the measurement after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Part of the run.
    pub stage: Stage,
    /// Epoch of the stage, from 1.
    pub epoch: usize,
    /// Epochs of the stage.
    pub epochs: usize,
    /// Steps since the run began.
    pub step: usize,
    /// Mean loss over the epoch.
    pub loss: f64,
    /// Its part for right answers.
    pub task_loss: f64,
    /// Share of the bytes in question, or of the activated values, that the alphas still ask for, before its weight.
    pub comm_loss: f64,
    /// Share of the (varied) training images answered right, 0..1.
    pub train_top1: f64,
    /// Share of the test images answered right after the epoch.
    pub top1: f64,
    /// Share of the test images with the right answer among the first five.
    pub top5: f64,
    /// Mean cross entropy on the test images.
    pub test_loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Training images a second, measurement left out.
    pub images_per_second: f64,
    /// Seconds of the epoch, measurement included.
    pub seconds: f64,
    /// Importance of each gate.
    pub alphas: Vec<f32>,
    /// One digit a gate, 1 kept, 0 removed.
    pub mask: String,
    /// What an inference with these gates costs.
    pub bytes: EstimatedBytes,
    /// Activated values of an inference.
    #[serde(default)]
    pub relus: u64,
    /// Weight of the penalty on activated values in this epoch, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// How the gates are or were chosen, where the run chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// What a method measured before it trains, and the gates that it chose or begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchMetrics {
    /// How the gates were chosen.
    pub method: Method,
    /// What each gate is worth.
    pub importances: Importances,
    /// One digit a gate, 1 kept, 0 removed.
    pub mask: String,
    /// What an inference with these gates costs.
    pub bytes: EstimatedBytes,
    /// Activated values of an inference.
    pub relus: u64,
}

/// A record of the metrics file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Metrics {
    /// One step.
    Step(StepMetrics),
    /// One epoch.
    Epoch(EpochMetrics),
    /// A choice of gates by measured importance.
    Search(SearchMetrics),
}

/// Follows a run as it goes, to show it.
pub trait Observer {
    /// A stage begins, or goes on after `epochs_done` of its `epochs`.
    fn stage(&mut self, stage: Stage, epochs: usize, epochs_done: usize) {
        let _ = (stage, epochs, epochs_done);
    }

    /// A step was made.
    fn step(&mut self, metrics: &StepMetrics) {
        let _ = metrics;
    }

    /// So many of the test images have been seen in the measurement after an epoch.
    fn measuring(&mut self, seen: usize, count: usize) {
        let _ = (seen, count);
    }

    /// The importance of so many of the gates is known.
    fn probing(&mut self, done: usize, count: usize) {
        let _ = (done, count);
    }

    /// Gates were chosen by their importance.
    fn chosen(&mut self, metrics: &SearchMetrics) {
        let _ = metrics;
    }

    /// An epoch is complete and its checkpoint written.
    fn epoch(&mut self, metrics: &EpochMetrics) {
        let _ = metrics;
    }
}

/// Sees nothing.
impl Observer for () {}

/// The file `metrics.jsonl` of a run.
pub(super) struct MetricsFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsFile {
    /// Opens the file and drops what lies after `length`, written after the state that a run
    /// resumes from.
    pub(super) fn open(path: &Path, length: u64) -> Result<Self, TrainError> {
        let io = TrainError::io(path);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(path).map_err(&io)?;
        let found = file.metadata().map_err(&io)?.len();
        if found < length {
            let reason = format!("expected at least {length} bytes, found {found}");
            return Err(TrainError::state(path, reason));
        }
        file.set_len(length).map_err(&io)?;
        file.seek(SeekFrom::End(0)).map_err(&io)?;
        Ok(Self { path: path.into(), file, length })
    }

    pub(super) fn write(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let io = TrainError::io(&self.path);
        let mut line = serde_json::to_string(metrics).map_err(|e| io(e.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(&io)?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Bytes written so far, by this run and those it resumes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}
