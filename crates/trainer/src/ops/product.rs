//! Matrix products of rows of blocks: tiles of sums in registers, the other factor packed into panels.

use super::simd::{Block, Kernel, LANES, Lanes, dispatch};

/// Rows worked on together. A multiple of the rows of every kind of tile.
pub(super) const ROWS: usize = 96;

/// A matrix `[depth, columns]`, its columns cut into panels as wide as a tile, padded by zeros.
#[derive(Debug)]
pub(super) struct Panels {
    depth: usize,
    /// Vectors that hold all columns.
    vectors: usize,
    /// Vectors a panel; the last may have fewer.
    wide: usize,
    values: Vec<Block>,
}

impl Panels {
    /// `at` gives the value at a depth and a column.
    pub(super) fn pack(depth: usize, columns: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        Self::pack_for(dispatch(TileVectors), depth, columns, at)
    }

    /// The same, for tiles of so many vectors.
    fn pack_for(
        most: usize,
        depth: usize,
        columns: usize,
        at: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let vectors = Block::count(columns);
        // As equal as can be: two panels of two rather than three and one.
        let wide = vectors.div_ceil(vectors.div_ceil(most).max(1)).max(1);
        let mut values = vec![Block::ZERO; depth * vectors];
        for first in (0..vectors).step_by(wide) {
            let width = wide.min(vectors - first);
            let panel = &mut values[first * depth..][..width * depth];
            for (depth, row) in panel.chunks_exact_mut(width).enumerate() {
                let start = first * LANES;
                let row = &mut Block::flat_mut(row)[..(columns - start).min(width * LANES)];
                row.iter_mut().enumerate().for_each(|(n, value)| *value = at(depth, start + n));
            }
        }
        Self { depth, vectors, wide, values }
    }

    /// Vectors that hold a row of the product.
    pub(super) fn vectors(&self) -> usize {
        self.vectors
    }
}

struct TileVectors;

impl Kernel for TileVectors {
    type Output = usize;

    #[inline(always)]
    fn run<V: Lanes>(self) -> usize {
        V::VECTORS
    }
}

/// Rows of `pitch` blocks each, one after another.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) blocks: &'a [Block],
    pub(super) pitch: usize,
}

/// `output[r] = input[r] panels` for the first `rows` rows. The input has rows up to a multiple of [`ROWS`].
#[inline(always)]
pub(super) fn multiply<V: Lanes>(
    output: &mut [Block],
    input: Rows<'_>,
    rows: usize,
    panels: &Panels,
) {
    let Panels { depth, vectors, wide, .. } = *panels;
    let pitch = input.pitch * LANES;
    for first in (0..vectors).step_by(wide) {
        let width = wide.min(vectors - first);
        let panel = &panels.values[first * depth..][..width * depth];
        for row in (0..rows).step_by(V::ROWS) {
            let input = &Block::flat(input.blocks)[row * pitch..];
            let output = &mut output[row * vectors..rows * vectors];
            match (V::ROWS, width) {
                (8, 3) => tile::<V, 8, 3>(output, first, vectors, input, pitch, depth, panel),
                (8, 2) => tile::<V, 8, 2>(output, first, vectors, input, pitch, depth, panel),
                (8, _) => tile::<V, 8, 1>(output, first, vectors, input, pitch, depth, panel),
                (6, _) => tile::<V, 6, 1>(output, first, vectors, input, pitch, depth, panel),
                (_, _) => tile::<V, 4, 1>(output, first, vectors, input, pitch, depth, panel),
            }
        }
    }
}

/// Up to `R` rows and `C` vectors of a product.
#[inline(always)]
fn tile<V: Lanes, const R: usize, const C: usize>(
    output: &mut [Block],
    first: usize,
    vectors: usize,
    input: &[f32],
    pitch: usize,
    depth: usize,
    panel: &[Block],
) {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &input[r * pitch..][..depth];
    }
    let steps = &panel.as_chunks::<C>().0[..depth];
    let mut sums = [[V::zero(); C]; R];
    for (k, step) in steps.iter().enumerate() {
        let mut vectors = [V::zero(); C];
        for (vector, block) in vectors.iter_mut().zip(step) {
            *vector = V::load(block);
        }
        for (row, sums) in rows.iter().zip(&mut sums) {
            let value = V::splat(row[k]);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = value.mul_add(vector, *sum);
            }
        }
    }
    let rows = output.len() / vectors;
    for (r, sums) in sums.into_iter().enumerate() {
        // Written out for every row, so that the sums need no place in memory.
        if r < rows {
            let row = &mut output[r * vectors + first..][..C];
            for (block, sum) in row.iter_mut().zip(sums) {
                sum.store(block);
            }
        }
    }
}

/// `sums[i][j] += sum_r left[r][i] right[r][j]` over the first `rows` rows. The sums have the pitch of the right rows and
/// [`outer_rows`] of the left columns; behind the last left row there is a block more.
#[inline(always)]
pub(super) fn add_outer<V: Lanes>(
    sums: &mut [Block],
    left: Rows<'_>,
    right: Rows<'_>,
    (columns, vectors): (usize, usize),
    rows: usize,
) {
    let wide = vectors.div_ceil(vectors.div_ceil(V::VECTORS).max(1)).max(1);
    for first in (0..vectors).step_by(wide) {
        for column in (0..columns).step_by(V::ROWS) {
            let sums = &mut sums[column * vectors..];
            let width = wide.min(vectors - first);
            match (V::ROWS, width) {
                (8, 3) => outer::<V, 8, 3>(sums, left, right, [column, first, vectors], rows),
                (8, 2) => outer::<V, 8, 2>(sums, left, right, [column, first, vectors], rows),
                (8, _) => outer::<V, 8, 1>(sums, left, right, [column, first, vectors], rows),
                (6, _) => outer::<V, 6, 1>(sums, left, right, [column, first, vectors], rows),
                (_, _) => outer::<V, 4, 1>(sums, left, right, [column, first, vectors], rows),
            }
        }
    }
}

/// Rows of the sums of [`add_outer`] for so many left columns.
pub(super) fn outer_rows(columns: usize) -> usize {
    columns + 8
}

#[inline(always)]
fn outer<V: Lanes, const R: usize, const C: usize>(
    output: &mut [Block],
    left: Rows<'_>,
    right: Rows<'_>,
    [column, first, vectors]: [usize; 3],
    rows: usize,
) {
    let mut sums = [[V::zero(); C]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        let row = &output[r * vectors + first..][..C];
        for (block, sum) in row.iter().zip(sums) {
            *sum = V::load(block);
        }
    }
    let (flat, pitch) = (Block::flat(left.blocks), left.pitch * LANES);
    for r in 0..rows {
        let factors = &flat[r * pitch + column..][..R];
        let blocks = &right.blocks[r * right.pitch + first..][..C];
        let mut vectors = [V::zero(); C];
        for (vector, block) in vectors.iter_mut().zip(blocks) {
            *vector = V::load(block);
        }
        for (factor, sums) in factors.iter().zip(&mut sums) {
            let value = V::splat(*factor);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = value.mul_add(vector, *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let row = &mut output[r * vectors + first..][..C];
        for (block, sum) in row.iter_mut().zip(sums) {
            sum.store(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::on_each;

    /// Products of some matrices by one kind of vectors.
    #[derive(Clone)]
    struct Products {
        rows: usize,
        depth: usize,
        columns: usize,
    }

    fn value(seed: usize, i: usize) -> f32 {
        ((i * 37 + seed * 11 + 5) % 61) as f32 / 16.0 - 1.9
    }

    impl Products {
        fn input(&self) -> Vec<Block> {
            let pitch = Block::count(self.depth);
            let mut input = vec![Block::ZERO; ROWS * pitch + 1];
            let flat = Block::flat_mut(&mut input);
            for (row, i) in (0..self.rows).flat_map(|row| (0..self.depth).map(move |i| (row, i))) {
                flat[row * pitch * LANES + i] = value(1, row * self.depth + i);
            }
            input
        }
    }

    impl Kernel for Products {
        type Output = [Vec<f32>; 2];

        #[inline(always)]
        fn run<V: Lanes>(self) -> [Vec<f32>; 2] {
            let Self { rows, depth, columns } = self;
            let at = |k: usize, column: usize| value(2, k * columns + column);
            let panels = Panels::pack_for(V::VECTORS, depth, columns, at);
            let input = self.input();
            let left = Rows { blocks: &input, pitch: Block::count(depth) };
            let mut product = vec![Block::ZERO; rows * panels.vectors()];
            multiply::<V>(&mut product, left, rows, &panels);
            let mut outer = vec![Block::ZERO; outer_rows(depth) * panels.vectors()];
            let right = Rows { blocks: &product, pitch: panels.vectors() };
            add_outer::<V>(&mut outer, left, right, (depth, panels.vectors()), rows);
            let cut = |blocks: &[Block], rows: usize| {
                let rows = Block::flat(blocks).chunks(panels.vectors() * LANES).take(rows);
                rows.flat_map(|row| &row[..columns]).copied().collect()
            };
            [cut(&product, rows), cut(&outer, depth)]
        }
    }

    #[test]
    fn products_are_those_of_the_definition_in_vectors_of_every_kind() {
        for (rows, depth, columns) in
            [(1, 1, 1), (96, 40, 48), (17, 5, 33), (50, 100, 70), (7, 16, 130)]
        {
            let kernel = Products { rows, depth, columns };
            let a = |row: usize, k: usize| f64::from(value(1, row * depth + k));
            let b = |k: usize, column: usize| f64::from(value(2, k * columns + column));
            let product = |row: usize, column: usize| -> f64 {
                (0..depth).map(|k| a(row, k) * b(k, column)).sum()
            };
            let mut expected = [vec![], vec![]];
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                expected[0].push(product(row, column));
            }
            for (k, column) in (0..depth).flat_map(|k| (0..columns).map(move |c| (k, c))) {
                let of_row = |row: usize| a(row, k) * expected[0][row * columns + column];
                let sum = (0..rows).map(of_row).sum();
                expected[1].push(sum);
            }
            for (kind, found) in on_each(kernel) {
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), expected.len());
                    let scale = expected.iter().fold(1.0f64, |max, x| max.max(x.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let difference = (f64::from(*found) - expected).abs();
                        assert!(difference < 1e-5 * scale, "{kind}: {found}, {expected}");
                    }
                }
            }
        }
    }
}
