//! Rounding as the compiler rounds, in the forward pass of training alone: gradients go straight through.
//!
//! Each convolution's weights are rounded with its batch norm folded in (by the running statistics), at the finest power
//! of two per layer that fits. Values between layers are rounded at the power of two that the largest one seen so far asks
//! for. Within a block whose activations are removed the weights of each convolution are rounded by themselves, although the
//! compiler rounds those of the one convolution that the block becomes: the fused weight is no function that could be
//! trained through cheaply. Values within such a block, which do not exist once it is fused, are left alone.

use super::values;
use burn::tensor::{Tensor, TensorData};
use copriv_ir::WeightScales;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The largest magnitude seen of each node's output, by the node's number.
pub(crate) type Ranges = BTreeMap<usize, f32>;

/// How weights and values are rounded.
#[derive(Debug)]
pub(crate) struct Quantiser {
    weight_bits: u32,
    activation_bits: u32,
    /// Whether ranges grow with what is seen.
    learns: bool,
    ranges: Mutex<Ranges>,
}

impl Quantiser {
    pub(crate) fn new(
        [weight_bits, activation_bits]: [u32; 2],
        ranges: Ranges,
        learns: bool,
    ) -> Self {
        Self { weight_bits, activation_bits, learns, ranges: Mutex::new(ranges) }
    }

    /// The ranges as they are now.
    pub(crate) fn ranges(&self) -> Ranges {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A convolution's weight; `factors` are those of the batch norm after it, one an output channel.
    pub(super) fn weight(&self, weight: Tensor<4>, factors: &[f32]) -> Tensor<4> {
        let shape = weight.dims();
        let tracked = weight.is_autodiff();
        let plain = if tracked { weight.clone().inner() } else { weight.clone() };
        let device = plain.device();
        let mut list = values(plain);
        let row = (list.len() / factors.len().max(1)).max(1);
        let folded: Vec<f32> = list
            .chunks(row)
            .zip(factors)
            .flat_map(|(row, factor)| row.iter().map(move |weight| weight * factor))
            .collect();
        let scales = WeightScales::per_layer(&folded, factors.len(), self.weight_bits);
        for (number, (list, folded)) in list.chunks_mut(row).zip(folded.chunks(row)).enumerate() {
            let bits = scales.fractional_bits().get(number).copied().unwrap_or(0);
            let unit = f64::from(bits).exp2();
            for (weight, folded) in list.iter_mut().zip(folded) {
                let rounded = ((f64::from(*folded) * unit).round() / unit) as f32;
                // What is added to the weight; a channel that is scaled to nothing stays as it is.
                let error = (rounded - folded) / factors[number];
                *weight = if error.is_finite() { error } else { 0.0 };
            }
        }
        let error = Tensor::<4>::from_data(TensorData::new(list, shape), &device);
        weight + if tracked { Tensor::from_inner(error) } else { error }
    }

    /// The output of node `id`.
    pub(super) fn value(&self, id: usize, x: Tensor<4>) -> Tensor<4> {
        let tracked = x.is_autodiff();
        let plain = if tracked { x.clone().inner() } else { x.clone() };
        let Some(largest) = self.largest(id, &plain) else { return x };
        let unit = f64::from(fractional_bits(largest, self.activation_bits)).exp2();
        let rounded = plain.clone().mul_scalar(unit).round().div_scalar(unit);
        let error = rounded - plain;
        x + if tracked { Tensor::from_inner(error) } else { error }
    }

    /// The largest magnitude seen of node `id`, now among them if ranges grow; `None` for none.
    fn largest(&self, id: usize, x: &Tensor<4>) -> Option<f32> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if self.learns {
            let now = values(x.clone().abs().max()).first().copied().unwrap_or_default();
            let largest = ranges.entry(id).or_insert(0.0);
            *largest = largest.max(now);
        }
        ranges.get(&id).copied()
    }
}

/// Bits after the point at which `bits` bits hold `largest`, as the compiler chooses them.
fn fractional_bits(largest: f32, bits: u32) -> u32 {
    let integer = if largest > 0.0 { largest.log2().floor() as i64 + 1 } else { 0 };
    (i64::from(bits) - integer).clamp(0, 30) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn folded_weights_are_multiples_of_a_power_of_two_and_gradients_go_through() {
        let device = Device::flex().autodiff();
        let list: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
        let data = TensorData::new(list.clone(), [2, 2, 3, 3]);
        let weight = Tensor::<4>::from_data(data, &device).require_grad();
        let quantiser = Quantiser::new([4, 8], Ranges::new(), true);
        let factors = [0.5, 1.9];
        let rounded = quantiser.weight(weight.clone(), &factors);
        // Folded weights up to 1.88 in four bits of two's complement, which end at 7: halves, to half of one.
        for (i, (rounded, weight)) in values(rounded.clone()).iter().zip(&list).enumerate() {
            let factor = factors[i / 18];
            let steps = rounded * factor * 2.0;
            assert!((steps - steps.round()).abs() < 1e-4, "{steps}");
            assert!((rounded - weight).abs() * factor <= 0.25 + 1e-5);
        }
        let gradients = (rounded * 3.0).sum().backward();
        let gradient = values(weight.grad(&gradients).expect("a leaf"));
        assert!(gradient.iter().all(|&gradient| gradient == 3.0));
        let nothing = quantiser.weight(weight, &[0.0, 0.0]);
        assert_eq!(values(nothing), list);
    }

    #[test]
    fn values_are_rounded_by_the_largest_seen() {
        let device = Device::flex();
        let tensor = |list: [f32; 4]| Tensor::<1>::from_floats(list, &device).reshape([1, 1, 2, 2]);
        let learning = Quantiser::new([8, 3], Ranges::new(), true);
        // Below 4 in 3 bits: halves.
        let found = values(learning.value(5, tensor([3.9, 0.3, -1.2, 0.2])));
        assert_eq!(found, [4.0, 0.5, -1.0, 0.0]);
        assert_eq!(values(learning.value(5, tensor([0.3; 4]))), [0.5; 4]);
        assert_eq!(learning.ranges(), Ranges::from([(5, 3.9)]));
        let fixed = Quantiser::new([8, 3], learning.ranges(), false);
        assert_eq!(values(fixed.value(5, tensor([9.3; 4]))), [9.5; 4]);
        assert_eq!(values(fixed.value(6, tensor([0.3; 4]))), [0.3; 4]);
    }
}
