//! How large a network's values get, and what it answers once they are rounded by that.

use crate::data::{DataError, Images};
use crate::model::{GateValue, Mode, Model, Pass, Quantiser, Ranges, values};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::evaluate::CheckpointEvaluator;
use copriv_ir::{Checkpoint, Widths};
use rayon::prelude::*;

/// Ranges over the first `count` of these images, as they are and in inference mode: what a compiler finds that calibrates
/// with them.
pub(super) fn ranges_on(
    checkpoint: &Checkpoint,
    images: &dyn Images,
    count: usize,
) -> Result<Ranges, DataError> {
    let input = *checkpoint.network().input();
    let numbers = (0..count.min(images.labels().len())).into_par_iter();
    ranges(checkpoint, numbers.map(|number| Ok(input.normalise(&images.pixels(number)?))))
}

/// Ranges over normalised images, of all threads.
fn ranges(
    checkpoint: &Checkpoint,
    images: impl ParallelIterator<Item = Result<Vec<f32>, DataError>>,
) -> Result<Ranges, DataError> {
    let evaluator = CheckpointEvaluator::new(checkpoint);
    let largest = |values: Vec<f32>| values.into_iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    let of_image = |image: Vec<f32>| -> Ranges {
        evaluator.layers(&image).into_iter().map(largest).enumerate().collect()
    };
    images.map(|image| image.map(of_image)).try_reduce(Ranges::new, |mut one, other| {
        for (node, largest) in other {
            let range = one.entry(node).or_insert(0.0);
            *range = range.max(largest);
        }
        Ok(one)
    })
}

/// Logits of normalised channel-major `images` with weights and values rounded as in a fine-tuning of these widths, ranges
/// being those of the images of `calibration`. Values go to either of the two around them by `chance`, a seed, as in plans and in
/// training; without one to the nearest.
///
/// # Panics
/// Where an image does not have the network's input shape.
#[must_use]
pub fn quantised_logits(
    checkpoint: &Checkpoint,
    widths: &Widths,
    (calibration, images): (&[Vec<f32>], &[Vec<f32>]),
    chance: Option<u64>,
) -> Vec<Vec<f32>> {
    let ranges = ranges(checkpoint, calibration.par_iter().map(|image| Ok(image.clone())));
    let ranges = ranges.unwrap_or_default();
    let (network, device) = (checkpoint.network(), Device::flex());
    let model = Model::from_checkpoint(checkpoint, &device);
    let quantiser = Quantiser::new(&model, checkpoint.gates(), (&ranges, widths), chance);
    let pass = Pass { quantiser: Some(quantiser), ..Pass::plain(Mode::Evaluate) };
    let gates = GateValue::fixed(checkpoint.gates().kept());
    let shape = network.input().shape;
    let dims = [images.len(), shape.channels, shape.height, shape.width];
    let batch = Tensor::from_data(TensorData::new(images.concat(), dims), &device);
    let logits = values(model.forward_with(batch, &gates, &pass));
    logits.chunks(network.classes().max(1)).map(<[f32]>::to_vec).collect()
}
