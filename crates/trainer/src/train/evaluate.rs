//! Accuracy of a network on labelled images.

use super::batch::{argmax_rows, plain};
use super::error::TrainError;
use super::loss::{cross_entropy, targets};
use crate::data::Dataset;
use crate::device;
use crate::model::{GateValue, Mode, Model, values};
use burn::module::Module as _;
use burn::tensor::Device;
use copriv_ir::Checkpoint;
use serde::{Deserialize, Serialize};

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

/// Accuracy of `checkpoint`, with its gates as they are, on all images of `dataset`.
///
/// # Errors
/// [`TrainError`] for an unknown device or images that the network does not take.
pub fn evaluate(
    checkpoint: &Checkpoint,
    dataset: &Dataset,
    device: &str,
    batch_size: usize,
) -> Result<Accuracy, TrainError> {
    let device = device::parse(device)?;
    super::check_match(checkpoint.network(), dataset)?;
    let model = Model::from_checkpoint(checkpoint, &device);
    let (kept, all): (_, Vec<usize>) = (checkpoint.gates().kept(), (0..dataset.len()).collect());
    Ok(accuracy(&model, kept, (dataset, &all), &device, batch_size, &mut |_| {}))
}

/// The same for a model and these of the images; `seen` is told their number after each batch.
pub(super) fn accuracy(
    model: &Model,
    kept: &[bool],
    (dataset, indices): (&Dataset, &[usize]),
    device: &Device,
    batch_size: usize,
    seen: &mut dyn FnMut(usize),
) -> Accuracy {
    let model = model.valid();
    let (gates, input) = (GateValue::fixed(kept), *model.network().input());
    let classes = model.network().classes();
    let (mut top1, mut top5, mut loss, mut count) = (0, 0, 0.0, 0);
    for batch in indices.chunks(batch_size.max(1)) {
        let labels: Vec<usize> = batch.iter().map(|&index| dataset.labels()[index]).collect();
        let images = plain(dataset, batch, &input, device);
        let logits = model.forward(images, &gates, Mode::Evaluate);
        let batch_loss = cross_entropy(logits.clone(), targets(&labels, classes, 0.0, device));
        loss += f64::from(values(batch_loss)[0]) * batch.len() as f64;
        let logits = values(logits);
        top1 += argmax_rows(&logits, classes).iter().zip(&labels).filter(|(a, b)| a == b).count();
        top5 += logits.chunks_exact(classes).zip(&labels).filter(|(r, l)| in_top5(r, **l)).count();
        count += batch.len();
        seen(count);
    }
    let share = |hits: usize| hits as f64 / count.max(1) as f64;
    Accuracy { count, top1: share(top1), top5: share(top5), loss: loss / count.max(1) as f64 }
}

/// Whether fewer than five logits are larger than that of the label.
fn in_top5(logits: &[f32], label: usize) -> bool {
    let own = logits.get(label).copied().unwrap_or(f32::NAN);
    own.is_finite() && logits.iter().filter(|&&logit| logit > own).count() < 5
}
