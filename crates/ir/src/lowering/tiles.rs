//! Winograd lowerings with tiles aggregated: product number `(p * products + q) * groups + g` of the batch
//! multiplies row product `p` and column product `q` of all channels of group `g` and all tiles at once.

use crate::winograd::{MinimalFiltering, nested};
use crate::{ConvGeometry, Ring, Shape};
use rayon::prelude::*;

/// `G w G^T`: `products^2 x outputs x inputs` from `[outputs, inputs, 3, 3]`, inputs being those of a group.
pub(super) fn transform_filter(
    algorithm: &MinimalFiltering,
    weights: &[i64],
    ring: Ring,
) -> Vec<u64> {
    let kernels = weights.len() / 9;
    let mut matrices = vec![0; algorithm.products().pow(2) * kernels];
    matrices.par_chunks_mut(kernels).enumerate().for_each(|(number, matrix)| {
        let (p, q) = (number / algorithm.products(), number % algorithm.products());
        let terms = nested(&algorithm.filter[p], &algorithm.filter[q]);
        for (value, kernel) in matrix.iter_mut().zip(weights.chunks_exact(9)) {
            let term = |&(u, v, coefficient): &(usize, usize, u64)| {
                coefficient.wrapping_mul(kernel[3 * u + v].cast_unsigned())
            };
            *value = ring.reduce(terms.iter().map(term).fold(0, u64::wrapping_add));
        }
    });
    matrices
}

/// `B^T x B`: `products^2 x channels x tiles` from a map of shape `input` for a convolution of this geometry.
pub(super) fn transform_input(
    algorithm: &MinimalFiltering,
    (geometry, input): (&ConvGeometry, Shape),
    x: &[u64],
    ring: Ring,
) -> Vec<u64> {
    let (rows, columns) = tiles(algorithm, geometry.output_shape(input));
    let (size, padding) = (input.channels * rows * columns, geometry.padding);
    let mut matrices = vec![0u64; algorithm.products().pow(2) * size];
    matrices.par_chunks_mut(size).enumerate().for_each(|(number, matrix)| {
        let (p, q) = (number / algorithm.products(), number % algorithm.products());
        let terms = nested(algorithm.input[p], algorithm.input[q]);
        for (line, values) in matrix.chunks_mut(columns).enumerate() {
            let (channel, tile) = (line / rows, line % rows);
            for &(u, v, coefficient) in &terms {
                // The first window starts with the padding.
                let row = tile * algorithm.step + u;
                let Some(row) = row.checked_sub(padding).filter(|row| *row < input.height) else {
                    continue;
                };
                let from = &x[(channel * input.height + row) * input.width..][..input.width];
                let first = padding.saturating_sub(v).div_ceil(algorithm.step);
                let inputs = from.iter().skip(first * algorithm.step + v - padding);
                let inputs = inputs.step_by(algorithm.step);
                for (value, &x) in values.iter_mut().skip(first).zip(inputs) {
                    *value = value.wrapping_add(coefficient.wrapping_mul(x));
                }
            }
        }
        matrix.iter_mut().for_each(|value| *value = ring.reduce(*value));
    });
    matrices
}

/// `A^T M A`: the output map from products, `products^2 x channels x tiles`.
pub(super) fn transform_output(
    algorithm: &MinimalFiltering,
    output: Shape,
    products: &[u64],
    ring: Ring,
) -> Vec<u64> {
    let (rows, columns) = tiles(algorithm, output);
    let (m, tiles) = (algorithm.outputs(), rows * columns);
    let mut y = vec![0u64; output.elements()];
    y.par_chunks_mut(output.area()).enumerate().for_each(|(channel, y)| {
        for (i, j) in (0..m).flat_map(|i| (0..m).map(move |j| (i, j))) {
            for (p, q, coefficient) in nested(algorithm.output[i], algorithm.output[j]) {
                let number = p * algorithm.products() + q;
                let from = (number * output.channels + channel) * tiles;
                let matrix = &products[from..from + tiles];
                let lines = y.chunks_mut(output.width).skip(i).step_by(m);
                for (line, values) in lines.zip(matrix.chunks(columns)) {
                    for (y, &value) in line.iter_mut().skip(j).step_by(m).zip(values) {
                        *y = y.wrapping_add(coefficient.wrapping_mul(value));
                    }
                }
            }
        }
        y.iter_mut().for_each(|value| *value = ring.reduce(*value));
    });
    y
}

/// Tiles in each direction.
fn tiles(algorithm: &MinimalFiltering, output: Shape) -> (usize, usize) {
    let m = algorithm.outputs();
    (output.height.div_ceil(m), output.width.div_ceil(m))
}
