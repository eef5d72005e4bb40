//! One run from its first step, or from where it was interrupted, to its last.

mod epoch;
mod origin;
mod search;
mod step;

use super::config::{ConfigError, SearchedGates, TrainConfig};
use super::error::TrainError;
use super::gates::GateCosts;
use super::methods::Limits;
use super::metrics::{MetricsFile, Observer};
use super::progress::Progress;
use super::sgd::Velocities;
use super::stage::Stage;
use super::state::StateFolder;
use super::teacher::{self, Teacher};
use super::{TrainOutcome, TrainingData, check_match};
use crate::device;
use crate::model::Model;
use burn::tensor::Device;
use copriv_ir::{Checkpoint, Provenance};
use origin::Origin;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// File name of the newest checkpoint.
pub(super) const LAST: &str = "last.safetensors";

/// A run in progress.
pub(super) struct Session<'a> {
    config: &'a TrainConfig,
    data: &'a TrainingData,
    out: &'a Path,
    folder: StateFolder,
    /// Without autodiff.
    device: Device,
    model: Model,
    kept: Vec<bool>,
    costs: GateCosts,
    limits: Limits,
    velocities: Velocities,
    teacher: Option<Teacher>,
    progress: Progress,
    provenance: Provenance,
    metrics: MetricsFile,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a TrainConfig,
        data: &'a TrainingData,
        out: &'a Path,
        folder: StateFolder,
        resume: bool,
    ) -> Result<Self, TrainError> {
        let device = device::parse(&config.device)?;
        let Origin { checkpoint, velocities, progress, provenance, metrics_length } =
            if resume { Origin::of(folder.read(&device)?) } else { Origin::first(config, data)? };
        check_match(checkpoint.network(), &data.train)?;
        check_match(checkpoint.network(), &data.test)?;
        check_sizes(config, data)?;
        if let Some(distillation) = config.distillation(Stage::Finetune) {
            teacher::check_named(distillation, checkpoint.network())?;
        }
        let gates = config.search.as_ref().map_or(SearchedGates::Blocks, |search| search.gates);
        let costs = GateCosts::new(checkpoint.network(), gates);
        let limits = Limits::new(config.search.as_ref(), &costs)?;
        std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
        write_config(config, &out.join("config.toml"))?;
        Ok(Self {
            config,
            data,
            out,
            folder,
            model: Model::from_checkpoint(&checkpoint, &device.clone().autodiff()),
            device,
            kept: checkpoint.gates().kept().to_vec(),
            costs,
            limits,
            velocities,
            teacher: None,
            progress,
            provenance,
            metrics: MetricsFile::open(&out.join("metrics.jsonl"), metrics_length)?,
        })
    }

    /// All stages that are left.
    pub(super) fn run(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<TrainOutcome, TrainError> {
        let stages = self.config.stages();
        let present = stages.iter().position(|&stage| stage == self.progress.stage).unwrap_or(0);
        for &stage in &stages[present..] {
            if stage != self.progress.stage {
                self.progress.enter(stage);
                self.velocities.clear();
            }
            if !self.run_stage(stage, observer, stop)? {
                self.save()?;
                return self.outcome(false);
            }
            self.checkpoint()?.write(&self.out.join(format!("{stage}.safetensors")))?;
        }
        self.outcome(true)
    }

    /// False where the run was stopped.
    fn run_stage(
        &mut self,
        stage: Stage,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let epochs = self.config.schedule(stage).map_or(0, |schedule| schedule.epochs);
        if !self.begin_stage(stage, observer, stop)? {
            return Ok(false);
        }
        observer.stage(stage, epochs, self.progress.epoch);
        while self.progress.epoch < epochs {
            if !self.run_epoch(stage, observer, stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sets gates, unless the stage had begun when the run was interrupted, and the teacher. False where
    /// it was stopped.
    fn begin_stage(
        &mut self,
        stage: Stage,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let unpruned = self.out.join("unpruned.safetensors");
        if let Some(search) = self.config.search.as_ref().filter(|_| stage == Stage::Search)
            && !self.progress.begun
        {
            self.checkpoint()?.write(&unpruned)?;
            if !self.begin_search(search, observer, stop)? {
                return Ok(false);
            }
        }
        self.progress.begun = true;
        let teacher = self.config.distillation(stage).map(|distillation| {
            Teacher::read(distillation, &unpruned, self.model.network(), &self.device)
        });
        self.teacher = teacher.transpose()?;
        Ok(true)
    }

    fn save(&self) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint()?;
        let length = self.metrics.length();
        self.folder.write(&self.progress, &checkpoint, &self.velocities, length)?;
        Ok(checkpoint.write(&self.out.join(LAST))?)
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let Progress { stage, epoch, .. } = self.progress;
        self.model
            .to_checkpoint(&self.kept, self.provenance.clone())
            .map_err(|reason| TrainError::Checkpoint { stage, epoch, reason })
    }

    fn outcome(&self, finished: bool) -> Result<TrainOutcome, TrainError> {
        let path: PathBuf = self.out.join(LAST);
        let (checkpoint, metrics) = (self.checkpoint()?, self.progress.history.clone());
        Ok(TrainOutcome { checkpoint, path, metrics, finished })
    }
}

/// One digit a gate, 1 kept, 0 removed.
fn mask(kept: &[bool]) -> String {
    kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect()
}

fn check_sizes(config: &TrainConfig, data: &TrainingData) -> Result<(), TrainError> {
    let (expected, found) = (data.train.len(), config.batch_size);
    if found > expected {
        let expected = format!("at most the {expected} training images");
        return Err(ConfigError::value("batch_size", expected, found).into());
    }
    if data.test.is_empty() {
        return Err(ConfigError::value("data", "test images", "none").into());
    }
    Ok(())
}

fn write_config(config: &TrainConfig, path: &Path) -> Result<(), TrainError> {
    let text = toml::to_string(config).unwrap_or_default();
    std::fs::write(path, text).map_err(TrainError::io(path))
}
