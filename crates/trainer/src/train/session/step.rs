//! One step: images, losses, gradients, new weights.

use super::{LAST, Session};
use crate::model::{GateValue, Mode, Model, values};
use crate::train::batch;
use crate::train::error::TrainError;
use crate::train::loss::{cross_entropy, divergence, targets};
use crate::train::methods::select;
use crate::train::progress::{Losses, Progress};
use crate::train::sgd::Sgd;
use crate::train::stage::Stage;
use burn::tensor::Tensor;

impl Session<'_> {
    /// One step of SGD on these images.
    pub(super) fn step(
        &mut self,
        stage: Stage,
        indices: &[usize],
        rate: f64,
    ) -> Result<Losses, TrainError> {
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
        if !self.trains_alphas(stage) {
            return GateValue::fixed(&self.kept);
        }
        self.kept = select(&self.costs, &self.model.alphas(), &self.limits);
        let alphas = self.model.alpha_tensor();
        GateValue::straight_through(&alphas, &self.kept, self.costs.searched())
    }

    fn task_loss(&self, logits: Tensor<2>, images: Tensor<4>, labels: &[usize]) -> Tensor<1> {
        let smoothing = self.config.optimiser.label_smoothing;
        let targets = targets(labels, class_count(&self.model), smoothing, &self.device);
        let labelled = cross_entropy(logits.clone(), Tensor::from_inner(targets));
        let Some(teacher) = &self.teacher else { return labelled };
        let taught = divergence(logits, Tensor::from_inner(teacher.logits(images)));
        taught.mul_scalar(teacher.weight) + labelled.mul_scalar(1.0 - teacher.weight)
    }

    /// Share of the bytes in question that the alphas still ask for; where these are trained.
    fn comm_loss(&self, stage: Stage) -> Option<Tensor<1>> {
        if !self.trains_alphas(stage) {
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
}

fn class_count(model: &Model) -> usize {
    model.network().classes()
}
