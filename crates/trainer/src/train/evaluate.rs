//! Accuracy of a network on labelled images.

use super::accuracy::{Accuracy, Tally};
use super::check_shape;
use super::error::TrainError;
use super::loader::{BatchPlan, Batches};
use crate::data::{Images, class_labels};
use crate::device;
use crate::model::{GateValue, Mode, Model, Pass, Quantiser, values};
use burn::module::Module as _;
use burn::tensor::Device;
use copriv_ir::Checkpoint;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

/// Threads that prepare images for [`evaluate`].
const WORKERS: usize = 2;

/// Accuracy of `checkpoint`, with its gates and masks as they are, on all of `images`, in batches of `batch_size` on the
/// device of that name; `seen` is told the number of images after each batch. Classes are found among the network's by name,
/// see [`class_labels`].
///
/// # Errors
/// [`TrainError`] for an unknown device, images that the network does not take or that cannot be read, and classes that it
/// does not know.
pub fn evaluate(
    checkpoint: &Checkpoint,
    images: &dyn Images,
    (device, batch_size): (&str, usize),
    seen: &mut dyn FnMut(usize),
) -> Result<Accuracy, TrainError> {
    let device = device::parse(device)?;
    let network = checkpoint.network();
    check_shape(network, images)?;
    let (expected, found) = (network.classes(), images.classes().len());
    if network.labels().is_empty() && found > expected {
        return Err(TrainError::Classes { dataset: images.name().into(), expected, found });
    }
    let model = Model::from_checkpoint(checkpoint, &device);
    let (workers, stop) = (WORKERS, &AtomicBool::new(false));
    let measurement = Measurement { images, device: &device, batch_size, workers, stop };
    let all: Vec<usize> = (0..images.labels().len()).collect();
    let measured = measurement.accuracy(&model, checkpoint.gates().kept(), (&all, None), seen)?;
    Ok(measured.unwrap_or_else(|| Tally::default().accuracy()))
}

/// On what, and how, networks are measured.
pub(super) struct Measurement<'a> {
    pub(super) images: &'a dyn Images,
    pub(super) device: &'a Device,
    pub(super) batch_size: usize,
    pub(super) workers: usize,
    /// Ends a measurement once it is set.
    pub(super) stop: &'a AtomicBool,
}

impl Measurement<'_> {
    /// Accuracy of a model on these of the images, rounded or not; `seen` is told their number after each batch. `None` where
    /// it was stopped.
    pub(super) fn accuracy(
        &self,
        model: &Model,
        kept: &[bool],
        (order, quantiser): (&[usize], Option<Quantiser>),
        seen: &mut dyn FnMut(usize),
    ) -> Result<Option<Accuracy>, TrainError> {
        let (model, gates) = (model.valid(), GateValue::fixed(kept));
        let (input, classes) = (*model.network().input(), model.network().classes());
        let places = class_labels(self.images, model.network().labels())?;
        let plan = BatchPlan::plain(self.images, input, order, self.batch_size);
        let mut pass = Pass { quantiser, ..Pass::plain(Mode::Evaluate) };
        let mut tallies = Vec::with_capacity(order.len());
        scope(|scope| {
            for batch in Batches::start(scope, &plan, self.workers, 0) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let batch = batch?;
                let (images, _) = batch.part(0..batch.len(), input.shape, self.device);
                let logits = values(model.forward_with(images, &gates, &pass));
                let rows = logits.chunks_exact(classes.max(1)).zip(&batch.labels);
                tallies.extend(rows.map(|(row, &label)| Tally::of(row, places[label])));
                seen(tallies.len());
                pass.quantiser.iter_mut().for_each(Quantiser::draw_anew);
            }
            Ok(Some(tallies.into_iter().sum::<Tally>().accuracy()))
        })
    }
}
