//! Batches of normalised images.

use crate::data::{Augmentation, Dataset, SampleKey};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::InputSpec;
use rayon::prelude::*;

/// Images `[batch, 3, height, width]` of these positions as they are.
pub(super) fn plain(
    dataset: &Dataset,
    indices: &[usize],
    input: &InputSpec,
    device: &Device,
) -> Tensor<4> {
    assemble(indices, input, device, |index| input.normalise(dataset.image(index)))
}

/// The same images varied, as seed and epoch say.
pub(super) fn varied(
    dataset: &Dataset,
    indices: &[usize],
    input: &InputSpec,
    augmentation: Augmentation,
    (seed, epoch): (u64, u64),
    device: &Device,
) -> Tensor<4> {
    assemble(indices, input, device, |index| {
        let key = SampleKey { seed, epoch, index: index as u64 };
        input.normalise(&augmentation.apply(dataset.image(index), dataset.shape(), key))
    })
}

fn assemble(
    indices: &[usize],
    input: &InputSpec,
    device: &Device,
    image: impl Fn(usize) -> Vec<f32> + Sync,
) -> Tensor<4> {
    let size = input.shape.elements();
    let mut values = vec![0.0; indices.len() * size];
    values
        .par_chunks_mut(size)
        .zip(indices)
        .for_each(|(values, &index)| values.copy_from_slice(&image(index)));
    let shape = [indices.len(), input.shape.channels, input.shape.height, input.shape.width];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Position of the largest value in each row of `classes` values; NaN is never the largest.
pub(super) fn argmax_rows(values: &[f32], classes: usize) -> Vec<usize> {
    let largest = |row: &[f32]| {
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = class;
            }
        }
        best
    };
    values.chunks_exact(classes.max(1)).map(largest).collect()
}
