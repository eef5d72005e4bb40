//! How convolutions become matrix products: the local, exact transforms on either side of them.
//!
//! A linear step is `count` products `(m x k)(k x n)` (see [`crate::Lowering::mat_mul`]): the weights give the
//! left factors, the input the right ones, and the products map back to the output. Every
//! transform is linear over the ring, so it may be applied to shares:
//!
//! `output_map(filter_matrices(w) * input_matrices(x)) = 2^extra_scale * conv(w, x)  (mod 2^l)`
//!
//! Maps are NCHW, matrices row-major, all ring elements reduced.

mod bias;
mod direct;
mod mat_mul;
mod tiles;

pub use bias::bias_map;
pub use direct::direct_conv;
pub use mat_mul::mat_mul;

use crate::winograd::MinimalFiltering;
use crate::{LinearStep, Ring, Shape};

/// The left factors, `count x m x k`, of weights `[out_channels, in_channels / groups, kernel, kernel]`.
///
/// # Panics
/// Where `weights` has another length than the step's geometry says.
#[must_use]
pub fn filter_matrices(step: &LinearStep, weights: &[i64], ring: Ring) -> Vec<u64> {
    assert_eq!(weights.len(), step.geometry.weight_elements(), "weights of {}", step.geometry);
    match MinimalFiltering::of(step.lowering) {
        None => weights.iter().map(|&weight| ring.from_signed(weight)).collect(),
        Some(algorithm) => tiles::transform_filter(algorithm, weights, ring),
    }
}

/// The right factors, `count x k x n`, of an input (or a share or mask of one) of this shape.
///
/// # Panics
/// Where `input` has another length than `shape`.
#[must_use]
pub fn input_matrices(step: &LinearStep, shape: Shape, input: &[u64], ring: Ring) -> Vec<u64> {
    assert_eq!(input.len(), shape.elements(), "input of {}", step.geometry);
    match MinimalFiltering::of(step.lowering) {
        None => direct::unfold(&step.geometry, shape, input),
        Some(algorithm) => tiles::transform_input(algorithm, (&step.geometry, shape), input, ring),
    }
}

/// The output map, NCHW, of the products, `count x m x n`, for an input of this shape.
///
/// # Panics
/// Where `products` has another length than the lowering's.
#[must_use]
pub fn output_map(step: &LinearStep, shape: Shape, products: &[u64], ring: Ring) -> Vec<u64> {
    let expected = step.lowering.mat_mul(&step.geometry, shape).map(|s| s.count * s.m * s.n);
    assert_eq!(Some(products.len()), expected, "products of {}", step.geometry);
    match MinimalFiltering::of(step.lowering) {
        None => products.to_vec(),
        Some(algorithm) => {
            let output = step.geometry.output_shape(shape);
            tiles::transform_output(algorithm, output, products, ring)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvGeometry, Correlation, Lowering, OtKind, Party, WinogradTile};
    use proptest::prelude::*;

    fn step(geometry: ConvGeometry, lowering: Lowering, ring: Ring) -> LinearStep {
        let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server };
        LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits: ring.bits() }
    }

    fn by_lowering(step: &LinearStep, shape: Shape, x: &[u64], w: &[i64], ring: Ring) -> Vec<u64> {
        let product = step.lowering.mat_mul(&step.geometry, shape).expect("fits");
        let left = filter_matrices(step, w, ring);
        let right = input_matrices(step, shape, x, ring);
        assert!(left.iter().chain(&right).all(|&value| value == ring.reduce(value)));
        output_map(step, shape, &mat_mul(ring, product, &left, &right), ring)
    }

    /// Convolution by its definition.
    fn by_definition(g: &ConvGeometry, shape: Shape, x: &[u64], w: &[i64], ring: Ring) -> Vec<u64> {
        let output = g.output_shape(shape);
        let [_, inputs, ..] = g.weight_shape();
        let mut y = Vec::new();
        for o in 0..output.channels {
            let group = o / (g.out_channels / g.groups);
            for (row, column) in
                (0..output.height).flat_map(|r| (0..output.width).map(move |c| (r, c)))
            {
                let mut sum = 0u64;
                for (i, u, v) in (0..inputs).flat_map(|i| {
                    (0..g.kernel).flat_map(move |u| (0..g.kernel).map(move |v| (i, u, v)))
                }) {
                    let (r, c) = (row * g.stride + u, column * g.stride + v);
                    let inside = (g.padding..g.padding + shape.height).contains(&r)
                        && (g.padding..g.padding + shape.width).contains(&c);
                    if inside {
                        let channel = group * inputs + i;
                        let at = (channel * shape.height + r - g.padding) * shape.width;
                        let weight = w[((o * inputs + i) * g.kernel + u) * g.kernel + v];
                        let x = x[at + c - g.padding];
                        sum = sum.wrapping_add(x.wrapping_mul(weight.cast_unsigned()));
                    }
                }
                y.push(ring.reduce(sum));
            }
        }
        y
    }

    prop_compose! {
        fn ring()(bits in 1u32..=64) -> Ring {
            Ring::new(bits).expect("in range")
        }
    }

    fn values(ring: Ring, seed: u64, inputs: usize, weights: usize) -> (Vec<u64>, Vec<i64>) {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let x = (0..inputs).map(|_| ring.reduce(rng.random())).collect();
        (x, (0..weights).map(|_| rng.random()).collect())
    }

    proptest! {
        #[test]
        fn direct_lowering_is_the_convolution(
            (ring, seed) in (ring(), any::<u64>()),
            (kernel, stride, groups) in (1usize..=4, 1usize..=3, 1usize..=3),
            (inputs, outputs, height, width) in (1usize..=3, 1usize..=3, 1usize..=7, 1usize..=7),
            padding in 0usize..4,
        ) {
            let geometry = ConvGeometry {
                in_channels: groups * inputs,
                out_channels: groups * outputs,
                kernel,
                stride,
                padding: padding.min(kernel - 1),
                groups,
            };
            let shape = Shape::new(geometry.in_channels, height, width);
            prop_assume!(geometry.output_shape(shape).elements() > 0);
            let (x, w) = values(ring, seed, shape.elements(), geometry.weight_elements());
            let expected = by_definition(&geometry, shape, &x, &w, ring);
            prop_assert_eq!(&direct_conv(ring, &geometry, shape, &x, &w), &expected);
            let step = step(geometry, Lowering::Direct, ring);
            prop_assert_eq!(by_lowering(&step, shape, &x, &w, ring), expected);
        }

        #[test]
        fn winograd_lowerings_are_scaled_convolutions(
            (ring, seed) in (ring(), any::<u64>()),
            (stride, lowering) in prop::sample::select(vec![
                (1, Lowering::Winograd(WinogradTile::F2X2_3X3)),
                (1, Lowering::Winograd(WinogradTile::F4X4_3X3)),
                (2, Lowering::WinogradStride2),
            ]),
            (inputs, outputs, groups) in (1usize..=3, 1usize..=3, 1usize..=3),
            (height, width, padding) in (1usize..=11, 1usize..=11, 0usize..=2),
        ) {
            let (in_channels, out_channels) = (groups * inputs, groups * outputs);
            let geometry =
                ConvGeometry { in_channels, out_channels, kernel: 3, stride, padding, groups };
            let shape = Shape::new(in_channels, height, width);
            prop_assume!(geometry.output_shape(shape).elements() > 0);
            let (x, w) = values(ring, seed, shape.elements(), geometry.weight_elements());
            let direct = by_definition(&geometry, shape, &x, &w, ring);
            let factor = 1 << lowering.extra_scale();
            let expected: Vec<u64> = direct.iter().map(|&y| ring.mul(factor, y)).collect();
            let step = step(geometry, lowering, ring);
            prop_assert_eq!(by_lowering(&step, shape, &x, &w, ring), expected);
        }
    }
}
