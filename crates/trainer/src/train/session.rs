//! One run from its first step, or from where it was interrupted, to its last.

use super::config::{ConfigError, SearchedGates, TrainConfig};
use super::error::TrainError;
use super::evaluate::accuracy;
use super::gates::GateCosts;
use super::loss::{cross_entropy, divergence, targets};
use super::metrics::{EpochMetrics, Metrics, MetricsFile, Observer, StepMetrics};
use super::progress::{Losses, Progress};
use super::schedule::learning_rate;
use super::sgd::{Sgd, Velocities};
use super::stage::Stage;
use super::state::{State, StateFolder};
use super::teacher::{self, Teacher};
use super::{TrainOutcome, TrainingData, batch, check_match, provenance, start};
use crate::data::epoch_order;
use crate::device;
use crate::model::{GateValue, Mode, Model, values};
use burn::tensor::{Device, Tensor};
use copriv_ir::{Checkpoint, Provenance};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
    velocities: Velocities,
    teacher: Option<Teacher>,
    progress: Progress,
    provenance: Provenance,
    metrics: MetricsFile,
}

/// What a run begins or goes on with.
struct Origin {
    checkpoint: Checkpoint,
    velocities: Velocities,
    progress: Progress,
    provenance: Provenance,
    metrics_length: u64,
}

impl Origin {
    fn first(config: &TrainConfig, data: &TrainingData) -> Result<Self, TrainError> {
        let checkpoint = start(config, data)?;
        let provenance = provenance(config, &checkpoint);
        let stage = config.stages().first().copied().unwrap_or(Stage::Pretrain);
        let (velocities, progress) = (Velocities::new(), Progress::beginning(stage));
        Ok(Self { checkpoint, velocities, progress, provenance, metrics_length: 0 })
    }

    fn of(state: State) -> Self {
        let State { progress, weights: checkpoint, velocities, metrics_length } = state;
        let provenance = checkpoint.provenance().clone();
        Self { checkpoint, velocities, progress, provenance, metrics_length }
    }
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
        std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
        write_config(config, &out.join("config.toml"))?;
        let gates = config.search.as_ref().map_or(SearchedGates::Blocks, |search| search.gates);
        Ok(Self {
            config,
            data,
            out,
            folder,
            model: Model::from_checkpoint(&checkpoint, &device.clone().autodiff()),
            device,
            kept: checkpoint.gates().kept().to_vec(),
            costs: GateCosts::new(checkpoint.network(), gates),
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
        self.begin_stage(stage)?;
        observer.stage(stage, epochs, self.progress.epoch);
        while self.progress.epoch < epochs {
            if !self.run_epoch(stage, observer, stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sets gates, unless the stage had begun when the run was interrupted, and the teacher.
    fn begin_stage(&mut self, stage: Stage) -> Result<(), TrainError> {
        let unpruned = self.out.join("unpruned.safetensors");
        if let Some(search) = self.config.search.as_ref().filter(|_| stage == Stage::Search)
            && !self.progress.begun
        {
            self.checkpoint()?.write(&unpruned)?;
            let alphas = self.costs.first_alphas(search.alpha_start);
            self.model.set_alphas(&alphas);
            self.kept = self.costs.select(&alphas, search.budget);
        }
        self.progress.begun = true;
        let teacher = self.config.distillation(stage).map(|distillation| {
            Teacher::read(distillation, &unpruned, self.model.network(), &self.device)
        });
        self.teacher = teacher.transpose()?;
        Ok(())
    }

    /// The steps that are left of an epoch, then the measurement; false where it was stopped.
    fn run_epoch(
        &mut self,
        stage: Stage,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let began = Instant::now();
        let (batch_size, count) = (self.config.batch_size, self.data.train.len());
        let order = epoch_order(self.config.seed, self.progress.total_epochs as u64, count);
        let batches = order.chunks_exact(batch_size);
        let steps = batches.len();
        let mut rate = 0.0;
        for indices in batches.skip(self.progress.step) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let step_began = Instant::now();
            let schedule = self.config.schedule(stage);
            let done = self.progress.epoch * steps + self.progress.step;
            rate = schedule.map_or(0.0, |schedule| learning_rate(&schedule, steps, done));
            let losses = self.step(stage, indices, rate)?;
            let seconds = step_began.elapsed().as_secs_f64();
            self.progress.count(&losses, batch_size, seconds);
            let metrics = self.step_metrics(&losses, steps, rate, seconds);
            observer.step(&metrics);
            let every = self.config.log_every;
            if every > 0 && self.progress.step.is_multiple_of(every) {
                self.metrics.write(&Metrics::Step(metrics))?;
            }
        }
        if let Some(search) = self.config.search.as_ref().filter(|_| stage == Stage::Search) {
            self.kept = self.costs.select(&self.model.alphas(), search.budget);
        }
        let metrics = self.measure(rate, began, observer);
        self.complete_epoch(metrics, observer)?;
        Ok(true)
    }

    /// One step of SGD on these images.
    fn step(&mut self, stage: Stage, indices: &[usize], rate: f64) -> Result<Losses, TrainError> {
        let (config, train, input) = (self.config, &self.data.train, *self.model.network().input());
        let position = (config.seed, self.progress.total_epochs as u64);
        let augmentation = config.data.augmentation;
        let images = batch::varied(train, indices, &input, augmentation, position, &self.device);
        let labels: Vec<usize> = indices.iter().map(|&index| train.labels()[index]).collect();

        let gates = self.gates(stage);
        let logits = self.model.forward(Tensor::from_inner(images.clone()), &gates, Mode::Train);
        let task = self.task_loss(logits.clone(), images, &labels);
        let comm = self.comm_loss(stage);
        let mu = config.search.as_ref().map_or(0.0, |search| search.mu);
        let loss = match &comm {
            Some(comm) => task.clone() + comm.clone().mul_scalar(mu),
            None => task.clone(),
        };
        let scalar = |tensor: Tensor<1>| values(tensor).first().map_or(f64::NAN, |&x| f64::from(x));
        let total = scalar(loss.clone());
        if !total.is_finite() {
            return Err(self.not_finite(total));
        }
        let answers = batch::argmax_rows(&values(logits), class_count(&self.model));
        let right = answers.iter().zip(&labels).filter(|(a, b)| a == b).count();
        let (task, comm) = (scalar(task), comm.map_or(0.0, scalar));

        let mut gradients = loss.backward();
        let sgd = Sgd {
            momentum: config.optimiser.momentum,
            weight_decay: config.optimiser.weight_decay,
            learning_rate: rate,
            alpha_learning_rate: config.search.as_ref().map_or(0.0, |s| s.alpha_learning_rate),
        };
        sgd.step(&mut self.model, &mut gradients, &mut self.velocities);
        Ok(Losses { total, task, comm, right })
    }

    /// The gates of the next forward pass; in a search those that the alphas now choose.
    fn gates(&mut self, stage: Stage) -> Vec<GateValue> {
        match self.config.search.as_ref().filter(|_| stage == Stage::Search) {
            Some(search) => {
                self.kept = self.costs.select(&self.model.alphas(), search.budget);
                let alphas = self.model.alpha_tensor();
                GateValue::straight_through(&alphas, &self.kept, self.costs.searched())
            }
            None => GateValue::fixed(&self.kept),
        }
    }

    fn task_loss(&self, logits: Tensor<2>, images: Tensor<4>, labels: &[usize]) -> Tensor<1> {
        let smoothing = self.config.optimiser.label_smoothing;
        let targets = targets(labels, class_count(&self.model), smoothing, &self.device);
        let labelled = cross_entropy(logits.clone(), Tensor::from_inner(targets));
        let Some(teacher) = &self.teacher else { return labelled };
        let taught = divergence(logits, Tensor::from_inner(teacher.logits(images)));
        taught.mul_scalar(teacher.weight) + labelled.mul_scalar(1.0 - teacher.weight)
    }

    /// Share of the bytes in question that the alphas still ask for; in a search alone.
    fn comm_loss(&self, stage: Stage) -> Option<Tensor<1>> {
        if stage != Stage::Search {
            return None;
        }
        let weights = self.costs.loss_weights();
        let weights = Tensor::<1>::from_data(weights.as_slice(), &self.device);
        Some((self.model.alpha_tensor() * Tensor::from_inner(weights)).sum())
    }

    fn not_finite(&self, loss: f64) -> TrainError {
        let Progress { stage, epoch, step, .. } = self.progress;
        let last_good = self.out.join(LAST);
        TrainError::NotFinite { stage, epoch: epoch + 1, step: step + 1, loss, last_good }
    }

    fn step_metrics(&self, losses: &Losses, steps: usize, rate: f64, seconds: f64) -> StepMetrics {
        let batch_size = self.config.batch_size as f64;
        StepMetrics {
            stage: self.progress.stage,
            epoch: self.progress.epoch + 1,
            step: self.progress.step,
            steps,
            loss: losses.total,
            task_loss: losses.task,
            comm_loss: losses.comm,
            top1: losses.right as f64 / batch_size,
            learning_rate: rate,
            images_per_second: batch_size / seconds.max(1e-9),
        }
    }

    /// Means over the epoch, and accuracy on the test images.
    fn measure(&self, rate: f64, began: Instant, observer: &mut dyn Observer) -> EpochMetrics {
        let test = &self.data.test;
        let mut seen = |count| observer.measuring(count, test.len());
        let accuracy = accuracy(
            &self.model,
            &self.kept,
            test,
            &self.device,
            self.config.batch_size,
            &mut seen,
        );
        let (progress, sums) = (&self.progress, self.progress.sums);
        let steps = progress.step.max(1) as f64;
        EpochMetrics {
            stage: progress.stage,
            epoch: progress.epoch + 1,
            epochs: self.config.schedule(progress.stage).map_or(0, |schedule| schedule.epochs),
            step: progress.total_steps,
            loss: sums.loss / steps,
            task_loss: sums.task_loss / steps,
            comm_loss: sums.comm_loss / steps,
            train_top1: sums.right as f64 / sums.images.max(1) as f64,
            top1: accuracy.top1,
            top5: accuracy.top5,
            test_loss: accuracy.loss,
            learning_rate: rate,
            images_per_second: sums.images as f64 / sums.seconds.max(1e-9),
            seconds: began.elapsed().as_secs_f64(),
            alphas: self.model.alphas(),
            mask: self.kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect(),
            bytes: self.costs.bytes(&self.kept),
        }
    }

    /// Records the epoch, then writes checkpoints and state.
    fn complete_epoch(
        &mut self,
        metrics: EpochMetrics,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.metrics.write(&Metrics::Epoch(metrics.clone()))?;
        let is_best = self.progress.best_top1.is_none_or(|best| metrics.top1 > best);
        self.progress.complete_epoch(metrics.clone());
        if is_best {
            self.checkpoint()?.write(&self.out.join("best.safetensors"))?;
        }
        self.save()?;
        observer.epoch(&metrics);
        Ok(())
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

fn class_count(model: &Model) -> usize {
    model.network().classes()
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
