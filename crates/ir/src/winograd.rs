//! Minimal filtering in integer arithmetic (Winograd 1980; Lavin and Gray, arXiv 1509.09308).
//!
//! One dimension of a convolution with three taps, `padding` 1, on tiles of `m` outputs:
//! `factor * y = A^T [(G w) . (B^T x)]`. A two-dimensional convolution nests two of these, so it
//! takes `products^2` multiplications a tile and its outputs come out `factor^2` times too large.
//! All entries are integers, so the identity holds in every ring `Z_{2^l}`.

use crate::{Lowering, WinogradTile};

/// A bilinear algorithm for one dimension of a three-tap convolution with padding 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinimalFiltering {
    /// `G`: one row for each product, one column for each tap.
    pub filter: &'static [[i64; 3]],
    /// `B^T`: one row for each product, one column for each input of the tile's window.
    pub input: &'static [&'static [i64]],
    /// `A^T`: one row for each output of the tile, one column for each product.
    pub output: &'static [&'static [i64]],
    /// Inputs between the windows of neighbouring tiles. The first window starts at the padding.
    pub step: usize,
    /// Every output comes out multiplied by this.
    pub factor: u64,
}

impl MinimalFiltering {
    /// F(2, 3) with `2 G` in place of `G`: 4 products for 2 outputs, factor 2.
    pub const F2_3: Self = Self {
        filter: &[[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]],
        input: &[&[1, 0, -1, 0], &[0, 1, 1, 0], &[0, -1, 1, 0], &[0, 1, 0, -1]],
        output: &[&[1, 1, 1, 0], &[0, 1, -1, -1]],
        step: 2,
        factor: 2,
    };

    /// Stride 2: `y_i = (w_0 x_{2i-1} + w_2 x_{2i+1}) + w_1 x_{2i}`. The odd inputs are a two-tap
    /// convolution, by F(2, 2) in 3 products; the even ones a one-tap convolution, 2 products.
    /// Nesting two of these makes the four phases of 2x2, 2x1, 1x2 and 1x1 taps.
    pub const STRIDE_2: Self = Self {
        filter: &[[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]],
        input: &[
            &[1, 0, -1, 0, 0],
            &[0, 0, 1, 0, 0],
            &[0, 0, 1, 0, -1],
            &[0, 1, 0, 0, 0],
            &[0, 0, 0, 1, 0],
        ],
        output: &[&[1, 1, 0, 1, 0], &[0, 1, -1, 0, 1]],
        step: 4,
        factor: 1,
    };

    /// The algorithm behind a lowering; `None` for the direct one and for tiles not built.
    #[must_use]
    pub fn of(lowering: Lowering) -> Option<&'static Self> {
        match lowering {
            Lowering::Winograd(WinogradTile::F2X2_3X3) => Some(&Self::F2_3),
            Lowering::WinogradStride2 => Some(&Self::STRIDE_2),
            Lowering::Direct | Lowering::Winograd(_) => None,
        }
    }

    /// Multiplications for a tile along one side.
    #[must_use]
    pub const fn products(&self) -> usize {
        self.filter.len()
    }

    /// Outputs of a tile along one side.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.output.len()
    }
}

/// The entries of two rows' outer product that are not zero: row, column, coefficient.
pub(crate) fn nested(rows: &[i64], columns: &[i64]) -> Vec<(usize, usize, u64)> {
    let mut terms = Vec::new();
    for (i, &a) in rows.iter().enumerate() {
        for (j, &b) in columns.iter().enumerate() {
            if a * b != 0 {
                terms.push((i, j, (a * b).cast_unsigned()));
            }
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_dimension(algorithm: &MinimalFiltering, taps: [i64; 3], window: &[i64]) -> Vec<i64> {
        let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>();
        let products: Vec<i64> = std::iter::zip(algorithm.filter, algorithm.input)
            .map(|(g, b)| dot(g, &taps) * dot(b, window))
            .collect();
        algorithm.output.iter().map(|a| dot(a, &products)).collect()
    }

    proptest! {
        #[test]
        fn the_matrices_compute_a_convolution(
            taps in [-9i64..9, -9..9, -9..9],
            window in prop::collection::vec(-99i64..99, 5),
        ) {
            let convolved = |at: usize| (0..3).map(|u| taps[u] * window[at + u]).sum::<i64>();
            let winograd = one_dimension(&MinimalFiltering::F2_3, taps, &window[..4]);
            prop_assert_eq!(winograd, vec![2 * convolved(0), 2 * convolved(1)]);
            let strided = one_dimension(&MinimalFiltering::STRIDE_2, taps, &window);
            prop_assert_eq!(strided, vec![convolved(0), convolved(2)]);
        }
    }

    #[test]
    fn sizes_agree_with_the_plan_vocabulary() {
        for lowering in [Lowering::Winograd(WinogradTile::F2X2_3X3), Lowering::WinogradStride2] {
            let algorithm = MinimalFiltering::of(lowering).expect("built");
            assert_eq!(algorithm.factor.pow(2), 1 << lowering.extra_scale());
            let stride = algorithm.step / algorithm.outputs();
            let geometry = crate::ConvGeometry::same(1, 1, 3, stride);
            let shape = lowering.mat_mul(&geometry, crate::Shape::new(1, 8, 8)).expect("fits");
            assert_eq!(algorithm.products().pow(2), shape.count);
        }
    }
}
