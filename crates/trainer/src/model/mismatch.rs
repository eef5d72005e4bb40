//! How much each activation changes its values: what a network without it would have in their place.

use super::values;
use crate::ops::untracked;
use burn::tensor::Tensor;
use copriv_ir::Activation;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Sums of `|act(x) - x|` over images, by node: one for each value of the node's map.
#[derive(Debug, Default)]
pub(crate) struct Mismatch(Mutex<BTreeMap<usize, Vec<f64>>>);

impl Mismatch {
    /// Adds a batch of what goes into the activation of node `id`.
    pub(super) fn add(&self, id: usize, activation: Activation, x: Tensor<4>) {
        let [_, channels, height, width] = x.dims();
        let map = channels * height * width;
        let list = values(untracked(x));
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = sums.entry(id).or_insert_with(|| vec![0.0; map]);
        for image in list.chunks(map.max(1)) {
            for (sum, &x) in sums.iter_mut().zip(image) {
                *sum += f64::from((activation.apply(x) - x).abs());
            }
        }
    }

    /// The sums so far.
    pub(crate) fn into_sums(self) -> BTreeMap<usize, Vec<f64>> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
