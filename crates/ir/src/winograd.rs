//! Minimal filtering in integer arithmetic (Winograd 1980; Lavin and Gray, arXiv 1509.09308).
//!
//! One dimension of a convolution with three taps on tiles of `m` outputs: `factor * y = A^T [(G w) . (B^T
//! x)]`. A two-dimensional convolution nests two of these, so it takes `products^2` multiplications a tile and
//! its outputs come out `factor^2` times too large. Entries are integers or inverses of odd integers modulo
//! `2^64`, so the identity holds in every ring `Z_{2^l}`.

use crate::{Lowering, WinogradTile};

/// The inverse of nine modulo `2^64`.
const NINTH: i64 = 0x8e38_e38e_38e3_8e39_u64.cast_signed();

/// A bilinear algorithm for one dimension of a three-tap convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinimalFiltering {
    /// `G`: one row for each product, one column for each tap.
    pub filter: &'static [[i64; 3]],
    /// `B^T`: one row for each product, one column for each input of the tile's window.
    pub input: &'static [&'static [i64]],
    /// `A^T`: one row for each output of the tile, one column for each product.
    pub output: &'static [&'static [i64]],
    /// Inputs between the windows of neighbouring tiles. The first window starts with the padding.
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

    /// F(4, 3): 6 products for 4 outputs, factor 2.
    ///
    /// *Derivation.* Evaluate at six points `(p_i : q_i)` of the projective line. With `D_i = prod_{j != i} (p_i
    /// q_j - q_i p_j)`, Lagrange interpolation of the product of a polynomial of degree 2 and one of degree 3,
    /// transposed, is
    ///
    /// `y_k = sum_i p_i^k q_i^(3-k) / D_i * (q_i^2 w_0 + p_i q_i w_1 + p_i^2 w_2) * (M_i x)`,
    ///
    /// where `M_i` holds the coefficients of `prod_{j != i} (q_j t - p_j)`. All but `1 / D_i` is integral, and the
    /// odd part of `D_i` is invertible modulo `2^l`. (It cannot be avoided: the line over the field of three
    /// elements has four points, so two of six fall together and 3 divides their difference.) So the factor
    /// that must remain is the largest power of two in any `D_i`. Every `M_i` is primitive modulo 2, being a product
    /// of primitive forms, so nothing else can take a two away.
    ///
    /// *Points.* The line modulo 2 has three points, so of six at least two fall together and the factor is at least
    /// two. The line modulo 4 has six points; one from each makes every `D_i` exactly `2 * odd`: 0, 1, -1, 2, 1/2,
    /// infinity give `D` = 2, 2, -18, -18, -18, 2. The usual points 0, 1, -1, 2, -2, infinity give up to 24 and a
    /// factor of 8. `2 / D_i`, 1 or -1/9, is multiplied into `A^T`: there it costs nothing, while `G` stays small.
    pub const F4_3: Self = Self {
        filter: &[[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [4, 2, 1], [0, 0, 1]],
        input: &[
            &[2, -5, 0, 5, -2, 0],
            &[0, -2, 3, 3, -2, 0],
            &[0, 2, -7, 7, -2, 0],
            &[0, -1, 2, 1, -2, 0],
            &[0, -2, 1, 2, -1, 0],
            &[0, -2, 5, 0, -5, 2],
        ],
        output: &[
            &[1, 1, -NINTH, -NINTH, 8i64.wrapping_mul(-NINTH), 0],
            &[0, 1, NINTH, 2i64.wrapping_mul(-NINTH), 4i64.wrapping_mul(-NINTH), 0],
            &[0, 1, -NINTH, 4i64.wrapping_mul(-NINTH), 2i64.wrapping_mul(-NINTH), 0],
            &[0, 1, NINTH, 8i64.wrapping_mul(-NINTH), -NINTH, 1],
        ],
        step: 4,
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
            Lowering::Winograd(WinogradTile::F4X4_3X3) => Some(&Self::F4_3),
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
            if a != 0 && b != 0 {
                terms.push((i, j, a.wrapping_mul(b).cast_unsigned()));
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
        let dot = |a: &[i64], b: &[i64]| {
            a.iter().zip(b).fold(0i64, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(*b)))
        };
        let products: Vec<i64> = std::iter::zip(algorithm.filter, algorithm.input)
            .map(|(g, b)| dot(g, &taps) * dot(b, window))
            .collect();
        algorithm.output.iter().map(|a| dot(a, &products)).collect()
    }

    proptest! {
        #[test]
        fn the_matrices_compute_a_convolution(
            taps in [-9i64..9, -9..9, -9..9],
            window in prop::collection::vec(-99i64..99, 6),
        ) {
            let convolved = |at: usize| (0..3).map(|u| taps[u] * window[at + u]).sum::<i64>();
            let winograd = one_dimension(&MinimalFiltering::F2_3, taps, &window[..4]);
            prop_assert_eq!(winograd, vec![2 * convolved(0), 2 * convolved(1)]);
            let wide = one_dimension(&MinimalFiltering::F4_3, taps, &window);
            prop_assert_eq!(wide, (0..4).map(|at| 2 * convolved(at)).collect::<Vec<_>>());
            let strided = one_dimension(&MinimalFiltering::STRIDE_2, taps, &window[..5]);
            prop_assert_eq!(strided, vec![convolved(0), convolved(2)]);
        }
    }

    #[test]
    fn sizes_agree_with_the_plan_vocabulary() {
        assert_eq!(NINTH.wrapping_mul(9), 1);
        for lowering in [
            Lowering::Winograd(WinogradTile::F2X2_3X3),
            Lowering::Winograd(WinogradTile::F4X4_3X3),
            Lowering::WinogradStride2,
        ] {
            let algorithm = MinimalFiltering::of(lowering).expect("built");
            assert_eq!(algorithm.factor.pow(2), 1 << lowering.extra_scale());
            let stride = algorithm.step / algorithm.outputs();
            let geometry = crate::ConvGeometry::same(1, 1, 3, stride);
            let shape = lowering.mat_mul(&geometry, crate::Shape::new(1, 8, 8)).expect("fits");
            assert_eq!(algorithm.products().pow(2), shape.count);
        }
    }
}
