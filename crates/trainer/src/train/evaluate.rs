//! Accuracy of a network on labelled images.

use super::batch::argmax_rows;
use super::error::TrainError;
use super::loader::{BatchPlan, Batches};
use super::loss::cross_entropy;
use crate::data::Images;
use crate::device;
use crate::model::{GateValue, Mode, Model, Pass, Quantiser, values};
use burn::module::Module as _;
use burn::tensor::Device;
use copriv_ir::Checkpoint;
use serde::{Deserialize, Serialize};
use std::thread::scope;

/// How well a network answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Images seen.
    pub count: usize,
    /// Share answered right, 0..1.
    pub top1: f64,
    /// Share with the right answer among the five largest logits.
    pub top5: f64,
    /// Mean cross entropy, without smoothing.
    pub loss: f64,
}

/// Threads that prepare images for [`evaluate`].
const WORKERS: usize = 2;

/// Accuracy of `checkpoint`, with its gates as they are, on all of `images`.
///
/// # Errors
/// [`TrainError`] for an unknown device, images that the network does not take or that cannot be read.
pub fn evaluate(
    checkpoint: &Checkpoint,
    images: &dyn Images,
    device: &str,
    batch_size: usize,
) -> Result<Accuracy, TrainError> {
    let device = device::parse(device)?;
    super::check_match(checkpoint.network(), images)?;
    let model = Model::from_checkpoint(checkpoint, &device);
    let measurement = Measurement { images, device: &device, batch_size, workers: WORKERS };
    let all: Vec<usize> = (0..images.labels().len()).collect();
    measurement.accuracy(&model, checkpoint.gates().kept(), (&all, None), &mut |_| {})
}

/// On what, and how, networks are measured.
pub(super) struct Measurement<'a> {
    pub(super) images: &'a dyn Images,
    pub(super) device: &'a Device,
    pub(super) batch_size: usize,
    pub(super) workers: usize,
}

impl Measurement<'_> {
    /// Accuracy of a model on these of the images, rounded or not; `seen` is told their number after each batch.
    pub(super) fn accuracy(
        &self,
        model: &Model,
        kept: &[bool],
        (order, quantiser): (&[usize], Option<Quantiser>),
        seen: &mut dyn FnMut(usize),
    ) -> Result<Accuracy, TrainError> {
        let (model, gates) = (model.valid(), GateValue::fixed(kept));
        let (input, classes) = (*model.network().input(), model.network().classes());
        let plan = BatchPlan::plain(self.images, input, order, self.batch_size);
        let pass = Pass { quantiser, ..Pass::plain(Mode::Evaluate) };
        let mut sums = Sums::default();
        scope(|scope| {
            for batch in Batches::start(scope, &plan, self.workers, 0) {
                let batch = batch?;
                let (images, targets) = batch.part(0..batch.len(), input.shape, self.device);
                let logits = model.forward_with(images, &gates, &pass);
                let loss = values(cross_entropy(logits.clone(), targets));
                let loss = loss.first().map_or(f64::NAN, |&loss| f64::from(loss));
                sums.add(&values(logits), classes, &batch.labels, loss);
                seen(sums.count);
            }
            Ok(sums.accuracy())
        })
    }
}

#[derive(Default)]
struct Sums {
    count: usize,
    top1: usize,
    top5: usize,
    loss: f64,
}

impl Sums {
    fn add(&mut self, logits: &[f32], classes: usize, labels: &[usize], loss: f64) {
        let answers = argmax_rows(logits, classes);
        self.count += labels.len();
        self.top1 += answers.iter().zip(labels).filter(|(a, b)| a == b).count();
        let rows = logits.chunks_exact(classes.max(1));
        self.top5 += rows.zip(labels).filter(|(row, label)| in_top5(row, **label)).count();
        self.loss += loss * labels.len() as f64;
    }

    fn accuracy(&self) -> Accuracy {
        let Self { count, top1, top5, loss } = *self;
        let share = |hits: usize| hits as f64 / count.max(1) as f64;
        Accuracy { count, top1: share(top1), top5: share(top5), loss: loss / count.max(1) as f64 }
    }
}

/// Whether fewer than five logits are larger than that of the label.
fn in_top5(logits: &[f32], label: usize) -> bool {
    let own = logits.get(label).copied().unwrap_or(f32::NAN);
    own.is_finite() && logits.iter().filter(|&&logit| logit > own).count() < 5
}
