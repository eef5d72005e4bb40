//! One step: losses, gradients, new weights.

use super::{LAST, Session};
use crate::data::SampleKey;
use crate::model::{GateValue, Mode, Model, Pass, values};
use crate::ops::{mixed, untracked};
use crate::train::accuracy::rank;
use crate::train::batch::Batch;
use crate::train::error::TrainError;
use crate::train::loss::{cross_entropy, divergence};
use crate::train::methods::{project, select};
use crate::train::optimiser::{Named, Optimiser, named_gradients};
use crate::train::progress::{Losses, Progress};
use crate::train::stage::Stage;
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::Op;
use rand::Rng as _;
use std::ops::Range;
use std::thread::scope;

/// What one device makes of its part of a batch.
struct Shard {
    /// Its share of the batch's images.
    share: f64,
    losses: Losses,
    gradients: Named,
    /// Running statistics afterwards.
    statistics: Vec<Tensor<1>>,
}

impl Session<'_> {
    /// One step on these images; `done` steps of the stage were made before.
    pub(super) fn step(
        &mut self,
        stage: Stage,
        batch: &Batch,
        rate: f64,
        done: usize,
    ) -> Result<Losses, TrainError> {
        self.choose_gates(stage);
        let (losses, gradients) = self.merge(self.shards(stage, batch));
        if !losses.total.is_finite() {
            return Err(self.not_finite(losses.total, self.progress.step + 1));
        }
        let config = &self.config.optimiser;
        let optimiser = Optimiser {
            config,
            learning_rate: rate,
            alpha_learning_rate: self.config.search.as_ref().map_or(0.0, |s| s.alpha_rate(rate)),
            step: done,
        };
        optimiser.step(&mut self.model, gradients, &mut self.moments);
        if self.trains_alphas(stage) {
            let mut alphas = self.model.alphas();
            project(&self.costs, &mut alphas, &self.limits);
            self.model.set_alphas(&alphas);
        }
        if let Some(average) = &mut self.average {
            average.follow(&mut self.model, config.ema, done);
        }
        Ok(losses)
    }

    /// Where alphas are trained, the gates that the alphas now choose.
    fn choose_gates(&mut self, stage: Stage) {
        if self.trains_alphas(stage) {
            self.kept = select(&self.costs, &self.model.alphas(), &self.kept, &self.limits);
        }
        self.choose_parts();
    }

    /// The whole batch on the one device, or an equal part on a copy of the network on each.
    fn shards(&self, stage: Stage, batch: &Batch) -> Vec<Shard> {
        if let [device] = self.devices.as_slice() {
            let model = self.model.clone();
            return vec![self.shard(model, stage, batch, 0..batch.len(), (0, device))];
        }
        let count = self.devices.len();
        let part = |number: usize| number * batch.len() / count..(number + 1) * batch.len() / count;
        let replicas: Vec<Model> =
            self.devices.iter().map(|device| self.model.replica(device)).collect();
        scope(|scope| {
            let start = |(number, model): (usize, Model)| {
                let device = (number, &self.devices[number]);
                scope.spawn(move || self.shard(model, stage, batch, part(number), device))
            };
            let running: Vec<_> = replicas.into_iter().enumerate().map(start).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, Shard>| match handle.join() {
                Ok(shard) => shard,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            running.into_iter().map(join).collect()
        })
    }

    /// Losses and gradients of a part of the batch on device `number`.
    fn shard(
        &self,
        mut model: Model,
        stage: Stage,
        batch: &Batch,
        range: Range<usize>,
        (number, device): (usize, &Device),
    ) -> Shard {
        let shape = model.network().input().shape;
        let (images, targets) = batch.part(range.clone(), shape, device);
        let gates = self.gates(&model, stage);
        let dropout = self.dropout(range.len(), number, device);
        let (quantiser, parts) =
            (self.quantiser(stage, &model, number), self.part_tensors(&model, device));
        let pass = Pass { dropout, quantiser, parts, ..Pass::plain(Mode::Train) };
        let logits = model.forward_with(Tensor::from_inner(images.clone()), &gates, &pass);

        let labelled = cross_entropy(logits.clone(), Tensor::from_inner(targets));
        let task = match self.teachers.get(number) {
            None => labelled,
            Some(teacher) => {
                let taught = Tensor::from_inner(teacher.logits(images));
                divergence(logits.clone(), taught).mul_scalar(teacher.weight)
                    + labelled.mul_scalar(1.0 - teacher.weight)
            }
        };
        let comm = self.comm_loss(&model, stage, device).or_else(|| self.penalty(&model));
        let loss = match &comm {
            Some((comm, weight)) => task.clone() + comm.clone().mul_scalar(*weight),
            None => task.clone(),
        };
        let (answers, labels) = (values(logits), &batch.labels[range.clone()]);
        let rows = answers.chunks_exact(model.network().classes().max(1)).zip(labels);
        let right = rows.filter(|(row, label)| rank(row, **label) == Some(0));
        let losses = Losses {
            total: scalar(loss.clone()),
            task: scalar(task),
            comm: comm.map_or(0.0, |(comm, _)| scalar(comm)),
            right: right.count(),
        };
        let gradients = named_gradients(&mut model, &mut loss.backward());
        let share = range.len() as f64 / batch.len().max(1) as f64;
        let statistics = if self.devices.len() > 1 { model.statistics() } else { vec![] };
        Shard { share, losses, gradients, statistics }
    }

    /// Means over the shards by their shares; running statistics become the mean too.
    fn merge(&self, shards: Vec<Shard>) -> (Losses, Named) {
        let mut shards = shards.into_iter();
        let Some(mut sum) = shards.next() else { return (Losses::default(), Named::new()) };
        for next in shards {
            let share = sum.share + next.share;
            let kept = sum.share / share.max(f64::MIN_POSITIVE);
            let place = |tensor: Tensor<1>, beside: &Tensor<1>| tensor.to_device(&beside.device());
            let mean = |old: Tensor<1>, new: Tensor<1>| {
                let new = place(new, &old);
                mixed(old, new, kept as f32)
            };
            for (name, gradient) in next.gradients {
                if let Some(old) = sum.gradients.remove(&name) {
                    sum.gradients.insert(name, mean(old, gradient));
                }
            }
            let statistics = sum.statistics.into_iter().zip(next.statistics);
            sum.statistics = statistics.map(|(a, b)| mean(untracked(a), untracked(b))).collect();
            sum.losses = sum.losses.mean(&next.losses, kept);
            sum.share = share;
        }
        if !sum.statistics.is_empty() {
            let statistics = sum.statistics.into_iter().map(Tensor::from_inner);
            self.model.set_statistics(statistics.collect());
        }
        (sum.losses, sum.gradients)
    }

    /// The gates of a forward pass of `model`.
    fn gates(&self, model: &Model, stage: Stage) -> Vec<GateValue> {
        if self.trains_alphas(stage) {
            let alphas = model.alpha_tensor();
            GateValue::straight_through(&alphas, &self.kept, self.costs.searched())
        } else {
            GateValue::fixed(&self.open_gates())
        }
    }

    /// Share of the bytes in question that the alphas still ask for, where these are trained, and its weight.
    fn comm_loss(&self, model: &Model, stage: Stage, device: &Device) -> Option<(Tensor<1>, f64)> {
        let search = self.config.search.as_ref().filter(|_| self.trains_alphas(stage))?;
        let weights = self.costs.loss_weights();
        let weights = Tensor::<1>::from_data(weights.as_slice(), device);
        Some(((model.alpha_tensor() * Tensor::from_inner(weights)).sum(), search.mu))
    }

    /// Factors on the features of `count` images: 0 for those left out.
    fn dropout(&self, count: usize, number: usize, device: &Device) -> Option<Tensor<2>> {
        let share = self.config.optimiser.dropout;
        let features = self.model.graph().nodes().iter().find_map(|node| match node.op {
            Op::Linear { inputs, .. } => Some(inputs),
            _ => None,
        });
        let features = features.filter(|_| share > 0.0)?;
        let (epoch, index) = (self.progress.total_steps as u64, number as u64);
        let key = SampleKey { seed: self.config.seed, epoch, index };
        let mut generator = key.generator(b"dropout ");
        let kept = (1.0 / (1.0 - share)) as f32;
        let factor = |_| if generator.random_bool(share) { 0.0 } else { kept };
        let factors: Vec<f32> = (0..count * features).map(factor).collect();
        let factors = Tensor::from_data(TensorData::new(factors, [count, features]), device);
        Some(Tensor::from_inner(factors))
    }

    /// The loss of this step, or that of a measurement after it.
    pub(super) fn not_finite(&self, loss: f64, step: usize) -> TrainError {
        let Progress { stage, epoch, .. } = self.progress;
        let last_good = self.out.join(LAST);
        TrainError::NotFinite { stage, epoch: epoch + 1, step, loss, last_good }
    }
}

fn scalar(tensor: Tensor<1>) -> f64 {
    values(tensor).first().map_or(f64::NAN, |&x| f64::from(x))
}
