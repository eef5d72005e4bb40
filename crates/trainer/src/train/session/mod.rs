//! One run from its first step, or from where it was interrupted, to its last.

mod epoch;
mod origin;
mod parts;
mod quantise;
mod search;
mod step;

use super::average::Average;
use super::config::{ConfigError, SearchConfig, SearchedGates, TrainConfig};
use super::error::TrainError;
use super::gates::GateCosts;
use super::methods::{Limits, Method};
use super::metrics::{MetricsFile, Observer};
use super::optimiser::Moments;
use super::progress::Progress;
use super::stage::Stage;
use super::state::StateFolder;
use super::teacher::{self, Teacher};
use super::{TrainOutcome, TrainingData, check_match};
use crate::device;
use crate::model::{Masks, Model};
use burn::tensor::Device;
use copriv_ir::{Checkpoint, Provenance};
use origin::Origin;
use parts::Parts;
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
    /// Without autodiff; each computes an equal part of every batch.
    devices: Vec<Device>,
    model: Model,
    /// The running mean of the weights, if there is to be one.
    average: Option<Average>,
    kept: Vec<bool>,
    /// Of activations in part.
    masks: Masks,
    /// Where those are being searched.
    parts: Option<Parts>,
    costs: GateCosts,
    limits: Limits,
    moments: Moments,
    /// One for each device, or none.
    teachers: Vec<Teacher>,
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
        let devices = device::parse_list(&config.device)?;
        let first = devices.first().cloned().unwrap_or_default();
        let Origin {
            checkpoint,
            average,
            moments,
            parts,
            mut progress,
            provenance,
            metrics_length,
        } = if resume { Origin::of(folder.read(&first)?) } else { Origin::first(config, data)? };
        check_match(checkpoint.network(), &*data.train)?;
        check_match(checkpoint.network(), &*data.test)?;
        check_sizes(config, data)?;
        if let Some(distillation) = config.teacher() {
            let known = progress.teacher;
            progress.teacher = teacher::check_named(distillation, checkpoint.network(), known)?;
        }
        progress.widths = quantise::widths(config, &progress, &checkpoint)?;
        let gates = config.search.as_ref().map_or(SearchedGates::Blocks, |search| search.gates);
        let found = progress.found_gates(checkpoint.gates().kept().len());
        let costs = GateCosts::new(checkpoint.network(), gates, &found);
        // A network that is narrow already has nothing more to keep within.
        let to_narrow = !progress.is_past_choice();
        let is_open = |search: &&SearchConfig| search.method != Method::Uniform || to_narrow;
        let search = config.search.as_ref().filter(is_open);
        let limits = Limits::new(search, checkpoint.network(), &costs)?;
        std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
        write_config(config, &out.join("config.toml"))?;
        let average = average.as_ref().unwrap_or(&checkpoint);
        let average = || Average::of(&Model::from_checkpoint(average, &first));
        let mut session = Self {
            config,
            data,
            out,
            folder,
            model: Model::from_checkpoint(&checkpoint, &first.clone().autodiff()),
            average: (config.optimiser.ema > 0.0).then(average),
            devices,
            kept: checkpoint.gates().kept().to_vec(),
            masks: checkpoint.gates().parts().clone(),
            parts: None,
            costs,
            limits,
            moments,
            teachers: vec![],
            progress,
            provenance,
            metrics: MetricsFile::open(&out.join("metrics.jsonl"), metrics_length)?,
        };
        session.resume_parts(&parts);
        Ok(session)
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
                self.moments.clear();
                self.adopt_average()?;
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
        while self.progress.unmeasured.is_some()
            || self.progress.epoch < epochs && !self.is_found(stage)
        {
            if !self.run_epoch(stage, observer, stop)? {
                return Ok(false);
            }
        }
        self.close_parts(stage)?;
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
            let checkpoint = self.checkpoint()?;
            checkpoint.write(&unpruned)?;
            if self.config.teacher().is_some_and(teacher::is_own) {
                self.progress.teacher = Some(checkpoint.digest());
            }
            if !self.begin_search(search, observer, stop)? {
                return Ok(false);
            }
        }
        if !self.progress.begun {
            self.calibrate(stage)?;
        }
        self.progress.begun = true;
        self.teachers.clear();
        let teacher = self.config.teacher().filter(|teacher| teacher.stages.contains(&stage));
        if let Some(distillation) = teacher {
            for device in &self.devices {
                let (network, own) = (self.model.network(), (&*unpruned, self.progress.teacher));
                self.teachers.push(Teacher::read(distillation, own, network, device)?);
            }
        }
        Ok(true)
    }

    /// The next stage begins with the mean of the weights.
    fn adopt_average(&mut self) -> Result<(), TrainError> {
        if self.average.is_some() {
            let device = self.model.alpha_tensor().device();
            self.model = Model::from_checkpoint(&self.checkpoint()?, &device);
            self.average = Some(Average::of(&self.model));
        }
        Ok(())
    }

    fn set_alphas(&mut self, alphas: &[f32]) {
        self.model.set_alphas(alphas);
        if let Some(average) = &mut self.average {
            average.set_alphas(alphas);
        }
    }

    /// What is measured and kept: the mean of the weights, if there is one.
    fn result(&self) -> &Model {
        self.average.as_ref().map_or(&self.model, Average::model)
    }

    /// Writes state and newest checkpoint.
    pub(super) fn save(&self) -> Result<(), TrainError> {
        Ok(self.save_state()?.write(&self.out.join(LAST))?)
    }

    /// Writes what a resumed run needs; the network that it leaves.
    fn save_state(&self) -> Result<Checkpoint, TrainError> {
        let (weights, result) = (self.checkpoint_of(&self.model)?, self.checkpoint()?);
        let average = self.average.as_ref().map(|_| &result);
        let length = self.metrics.length();
        let parts = self.open_weights();
        self.folder.write(&self.progress, &weights, average, (&self.moments, &parts), length)?;
        Ok(result)
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        self.checkpoint_of(self.result())
    }

    fn checkpoint_of(&self, model: &Model) -> Result<Checkpoint, TrainError> {
        let Progress { stage, epoch, .. } = self.progress;
        model
            .to_checkpoint(&self.kept, &self.masks, self.provenance.clone())
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
    let (expected, found) = (data.train.labels().len(), config.batch_size);
    if found > expected {
        let expected = format!("at most the {expected} training images");
        return Err(ConfigError::value("batch_size", expected, found).into());
    }
    let expected = device_count(&config.device);
    if found < expected {
        let expected = format!("at least an image for each of {expected} devices");
        return Err(ConfigError::value("batch_size", expected, found).into());
    }
    if data.test.labels().is_empty() {
        return Err(ConfigError::value("data", "test images", "none").into());
    }
    Ok(())
}

fn device_count(names: &str) -> usize {
    names.split(',').count()
}

fn write_config(config: &TrainConfig, path: &Path) -> Result<(), TrainError> {
    let text = toml::to_string(config).unwrap_or_default();
    std::fs::write(path, text).map_err(TrainError::io(path))
}
