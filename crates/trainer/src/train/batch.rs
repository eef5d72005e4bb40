//! Batches of normalised images with their targets.

use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::Shape;
use std::ops::Range;

/// Some images in memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    /// `[batch, channels, height, width]`.
    pub(super) images: Vec<f32>,
    /// `[batch, classes]`, each image's target distribution.
    pub(super) targets: Vec<f32>,
    /// The class of each image; where images are mixed, that of the first.
    pub(super) labels: Vec<usize>,
}

impl Batch {
    /// Images of these labels yet to be added; of each target a share `smoothing` is spread over all classes.
    pub(super) fn empty(labels: Vec<usize>, classes: usize, smoothing: f64) -> Self {
        let off = smoothing / classes as f64;
        let mut targets = vec![off as f32; labels.len() * classes];
        for (row, &label) in targets.chunks_exact_mut(classes.max(1)).zip(&labels) {
            if let Some(value) = row.get_mut(label) {
                *value = (1.0 - smoothing + off) as f32;
            }
        }
        Self { images: vec![], targets, labels }
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Images and targets of a part of the batch on a device.
    pub(super) fn part(
        &self,
        range: Range<usize>,
        shape: Shape,
        device: &Device,
    ) -> (Tensor<4>, Tensor<2>) {
        let part = |values: &[f32]| {
            let size = values.len() / self.len().max(1);
            values.get(range.start * size..range.end * size).unwrap_or_default().to_vec()
        };
        let (images, targets) = (part(&self.images), part(&self.targets));
        let classes = targets.len() / range.len().max(1);
        let shape = [range.len(), shape.channels, shape.height, shape.width];
        (
            Tensor::from_data(TensorData::new(images, shape), device),
            Tensor::from_data(TensorData::new(targets, [range.len(), classes]), device),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;

    #[test]
    fn smoothed_targets_sum_to_one() {
        let batch = Batch::empty(vec![2, 0], 4, 0.2);
        let expected = [0.05, 0.05, 0.85, 0.05, 0.85, 0.05, 0.05, 0.05];
        assert!(batch.targets.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn parts_hold_their_images() {
        let mut batch = Batch::empty(vec![0, 1, 0], 2, 0.0);
        batch.images = (0..36).map(|i| i as f32).collect();
        let (images, targets) = batch.part(1..3, Shape::new(3, 2, 2), &Device::flex());
        assert_eq!(images.dims(), [2, 3, 2, 2]);
        assert_eq!(values(images), (12..36).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(values(targets), [0.0, 1.0, 1.0, 0.0]);
    }
}
