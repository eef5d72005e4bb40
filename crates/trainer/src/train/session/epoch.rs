//! One epoch: its steps, the measurement after them, what is written.

use super::{Session, mask};
use crate::data::epoch_order;
use crate::train::error::TrainError;
use crate::train::evaluate::Measurement;
use crate::train::loader::{BatchPlan, Batches, Variation};
use crate::train::methods::select;
use crate::train::metrics::{EpochMetrics, Metrics, Observer, StepMetrics};
use crate::train::progress::{Losses, Unmeasured};
use crate::train::schedule::learning_rate;
use crate::train::stage::Stage;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Instant;

impl Session<'_> {
    /// The steps that are left of an epoch, then the measurement; false where it was stopped.
    pub(super) fn run_epoch(
        &mut self,
        stage: Stage,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let began = Instant::now();
        let unmeasured = match self.progress.unmeasured {
            Some(unmeasured) => unmeasured,
            None => {
                let Some(learning_rate) = self.make_steps(stage, observer, stop)? else {
                    return Ok(false);
                };
                self.settle(stage, learning_rate)?
            }
        };
        let Some(metrics) = self.measure(unmeasured, began, observer, stop)? else {
            return Ok(false);
        };
        if !metrics.test_loss.is_finite() {
            return Err(self.not_finite(metrics.test_loss, self.progress.step));
        }
        self.complete_epoch(metrics, observer)?;
        Ok(true)
    }

    /// The steps that are left of an epoch; the learning rate of the last, or `None` where it was stopped.
    fn make_steps(
        &mut self,
        stage: Stage,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<f64>, TrainError> {
        let (config, images) = (self.config, &*self.data.train);
        let epoch = self.progress.total_epochs as u64;
        let mut order = epoch_order(config.seed, epoch, images.labels().len());
        let steps = order.len() / config.batch_size;
        order.truncate(steps * config.batch_size);
        let plan = BatchPlan {
            images,
            input: *self.model.network().input(),
            order: &order,
            batch_size: config.batch_size,
            label_smoothing: config.optimiser.label_smoothing,
            variation: Some(Variation {
                augmentation: config.data.augmentation,
                mixing: config.data.mixing,
                seed: config.seed,
                epoch,
            }),
        };
        let mut rate = 0.0;
        scope(|scope| {
            let first = self.progress.step;
            let mut step_began = Instant::now();
            for batch in Batches::start(scope, &plan, config.data.workers, first) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let done = self.progress.epoch * steps + self.progress.step;
                let schedule = config.schedule(stage);
                rate = schedule.map_or(0.0, |schedule| learning_rate(&schedule, steps, done));
                let losses = self.step(stage, &batch?, rate, done)?;
                // With the wait for the batch, should there be one.
                let seconds = step_began.elapsed().as_secs_f64();
                step_began = Instant::now();
                self.progress.count(&losses, config.batch_size, seconds);
                let metrics = self.step_metrics(&losses, steps, rate, seconds);
                observer.step(&metrics);
                let every = config.log_every;
                if every > 0 && self.progress.step.is_multiple_of(every) {
                    self.metrics.write(&Metrics::Step(metrics))?;
                }
            }
            Ok(Some(rate))
        })
    }

    /// After the steps of an epoch: the gates that it leaves. The measurement may take long, so the state is written before.
    fn settle(&mut self, stage: Stage, learning_rate: f64) -> Result<Unmeasured, TrainError> {
        if self.trains_alphas(stage) {
            self.kept = select(&self.costs, &self.model.alphas(), &self.kept, &self.limits);
        }
        let penalty = self.progress.penalty.map(|penalty| penalty.weight);
        self.settle_parts(stage);
        self.calibrate(stage)?;
        let unmeasured = Unmeasured { learning_rate, penalty };
        self.progress.unmeasured = Some(unmeasured);
        self.save_state()?;
        Ok(unmeasured)
    }

    fn step_metrics(&self, losses: &Losses, steps: usize, rate: f64, seconds: f64) -> StepMetrics {
        let (batch_size, stage) = (self.config.batch_size as f64, self.progress.stage);
        // Those of gates that are searched in part are means as of the last epoch.
        let has_alphas = self.trains_alphas(stage) || self.part_search(stage).is_some();
        StepMetrics {
            stage,
            epoch: self.progress.epoch + 1,
            step: self.progress.step,
            steps,
            loss: losses.total,
            task_loss: losses.task,
            comm_loss: losses.comm,
            top1: losses.right as f64 / batch_size,
            learning_rate: rate,
            images_per_second: batch_size / seconds.max(1e-9),
            alphas: if has_alphas { self.model.alphas() } else { vec![] },
        }
    }

    /// Means over the epoch, and accuracy on the test images; `None` where it was stopped.
    fn measure(
        &self,
        unmeasured: Unmeasured,
        began: Instant,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<EpochMetrics>, TrainError> {
        let images = &*self.data.test;
        let all: Vec<usize> = (0..images.labels().len()).collect();
        let mut seen = |count| observer.measuring(count, images.labels().len());
        let device = &self.result().alpha_tensor().device().inner();
        let (batch_size, workers) = (self.config.batch_size, self.config.data.workers);
        let measurement = Measurement { images, device, batch_size, workers, stop };
        let model = self.settled();
        let images = (all.as_slice(), self.quantiser(self.progress.stage, &model, 0));
        let measured = measurement.accuracy(&model, &self.kept, images, &mut seen)?;
        let Some(accuracy) = measured else { return Ok(None) };
        let (bytes, relus) = self.sizes();
        let (progress, sums) = (&self.progress, self.progress.sums);
        let steps = progress.step.max(1) as f64;
        Ok(Some(EpochMetrics {
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
            learning_rate: unmeasured.learning_rate,
            images_per_second: sums.images as f64 / sums.seconds.max(1e-9),
            seconds: began.elapsed().as_secs_f64(),
            alphas: self.model.alphas(),
            mask: mask(&self.kept),
            bytes,
            relus,
            penalty: unmeasured.penalty,
            method: self.config.search.as_ref().map(|search| search.method),
        }))
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
}
