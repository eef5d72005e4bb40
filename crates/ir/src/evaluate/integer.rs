//! A linear step on integers, as fast as floating point where that is exact.

use super::convolution::{Real, convolve};
use super::elementwise::{from_real, largest, to_real};
use crate::lowering::{bias_map, direct_conv};
use crate::{ConvGeometry, LinearStep, LinearWeights, Ring, Shape};

/// The weights of a linear step in the forms that products are fast in.
///
/// Most integers of a plan are small: no sum of absolute products, which follows from the weights and the largest input, then
/// exceeds what single or double precision hold exactly, and their matrix products are many times faster
/// than those of 64-bit integers. Where a sum may be larger the products are those of the ring.
pub(super) struct IntegerConvolution<'a> {
    geometry: ConvGeometry,
    input: (Shape, Ring),
    extra_scale: u32,
    weights: &'a LinearWeights,
    /// At every output.
    bias: Vec<u64>,
    /// The largest sum of absolute weights of an output channel.
    largest_sum: u64,
    /// Empty where no input other than 0 allows them.
    single: Vec<f32>,
    double: Vec<f64>,
}

impl<'a> IntegerConvolution<'a> {
    /// For an input of this shape in this ring.
    pub(super) fn new(step: &LinearStep, input: (Shape, Ring), weights: &'a LinearWeights) -> Self {
        let weight = &weights.weight;
        let sum =
            |row: &[i64]| row.iter().fold(0u64, |sum, w| sum.saturating_add(w.unsigned_abs()));
        let largest_sum = weight.chunks(step.geometry.fan_in().max(1)).map(sum).max().unwrap_or(0);
        Self {
            geometry: step.geometry,
            input,
            extra_scale: step.lowering.extra_scale(),
            weights,
            bias: bias_map(input.1, &step.geometry, input.0, &weights.bias),
            largest_sum,
            single: reals(weight, largest_sum),
            double: reals(weight, largest_sum),
        }
    }

    /// `2^extra_scale W (*) x + bias` in the ring.
    pub(super) fn apply(&self, x: &[u64]) -> Vec<u64> {
        let (shape, ring) = self.input;
        let bound = u128::from(self.largest_sum) * u128::from(largest(ring, x));
        if bound <= f32::LARGEST_INTEGER.into() {
            self.apply_real(&self.single, x)
        } else if bound <= f64::LARGEST_INTEGER.into() {
            self.apply_real(&self.double, x)
        } else {
            let mut y = direct_conv(ring, &self.geometry, shape, x, &self.weights.weight);
            for (y, &bias) in y.iter_mut().zip(&self.bias) {
                *y = ring.add(ring.reduce(*y << self.extra_scale), bias);
            }
            y
        }
    }

    fn apply_real<T: Real>(&self, weights: &[T], x: &[u64]) -> Vec<u64> {
        let (shape, ring) = self.input;
        let sums = convolve(&self.geometry, shape, weights, &to_real::<T>(ring, x));
        from_real(ring, self.extra_scale, &sums, &self.bias)
    }
}

/// The weights in floating point, where that holds them at all.
fn reals<T: Real>(weights: &[i64], largest_sum: u64) -> Vec<T> {
    if largest_sum > T::LARGEST_INTEGER {
        return vec![];
    }
    weights.iter().map(|&weight| T::from_integer(weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Correlation, Lowering, OtKind, Party, WinogradTile};
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};

    proptest! {
        /// Small numbers, numbers about the limits of single and double precision, and all there are.
        #[test]
        fn every_precision_gives_the_rings_own_result(
            (bits, weight_bits) in (2u32..=64, 1u32..=40),
            (channels, depthwise, extra, border) in (1usize..=6, any::<bool>(), any::<bool>(), any::<bool>()),
            seed: u64,
        ) {
            let ring = Ring::new(bits).expect("in range");
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let shape = Shape::new(channels, 5, 4);
            let geometry = match depthwise {
                true => ConvGeometry::depthwise(channels, 3, 1),
                false => ConvGeometry::same(channels, 3, 3, 1),
            };
            let classes = if border { 9 } else { 1 };
            let mut weight = |_| rng.random::<i64>() >> (64 - weight_bits);
            let weights = LinearWeights {
                weight: (0..geometry.weight_elements()).map(&mut weight).collect(),
                bias: (0..classes * geometry.out_channels).map(&mut weight).collect(),
            };
            let x: Vec<u64> = (0..shape.elements()).map(|_| ring.reduce(rng.random())).collect();
            let tile = if extra { Lowering::Winograd(WinogradTile::F2X2_3X3) } else { Lowering::Direct };
            let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server };
            let step =
                LinearStep { geometry, lowering: tile, correlation, weight_scale: 0, weight_bits: bits };
            let found = IntegerConvolution::new(&step, (shape, ring), &weights).apply(&x);
            let products = direct_conv(ring, &geometry, shape, &x, &weights.weight);
            let bias = bias_map(ring, &geometry, shape, &weights.bias);
            let factor = if extra { 4 } else { 1 };
            let expected: Vec<u64> =
                products.iter().zip(bias).map(|(&y, bias)| ring.add(ring.mul(factor, y), bias)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
