//! Turning 128 columns of bits into rows.

/// Side of a tile: columns of the matrix, bits of a row.
pub(super) const SIDE: usize = 128;

/// Transposes a matrix of 128 columns. Column `c` is `columns[c * stride..][..stride]`, least significant
/// bit first; bit `c` of `rows[r]` becomes bit `r` of column `c`.
///
/// `stride` must be at least `rows.len().div_ceil(128)`.
pub(super) fn transpose(columns: &[u128], stride: usize, rows: &mut [u128]) {
    for (tile, rows) in rows.chunks_mut(SIDE).enumerate() {
        let mut matrix = [0; SIDE];
        for (line, column) in matrix.iter_mut().zip(columns.chunks_exact(stride)) {
            *line = column[tile];
        }
        transpose_tile(&mut matrix);
        rows.copy_from_slice(&matrix[..rows.len()]);
    }
}

/// Exchanges ever smaller off-diagonal squares (Warren, Hacker's Delight, section 7-3).
fn transpose_tile(matrix: &mut [u128; SIDE]) {
    swap_squares::<64>(matrix);
    swap_squares::<32>(matrix);
    swap_squares::<16>(matrix);
    swap_squares::<8>(matrix);
    swap_squares::<4>(matrix);
    swap_squares::<2>(matrix);
    swap_squares::<1>(matrix);
}

#[inline]
fn swap_squares<const WIDTH: usize>(matrix: &mut [u128; SIDE]) {
    // Ones where bit WIDTH of the position is zero.
    let mask = u128::MAX / ((1 << WIDTH) + 1);
    for pair in matrix.chunks_exact_mut(2 * WIDTH) {
        let (low, high) = pair.split_at_mut(WIDTH);
        for (low, high) in low.iter_mut().zip(high) {
            let swap = ((*low >> WIDTH) ^ *high) & mask;
            *high ^= swap;
            *low ^= swap << WIDTH;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;

    #[test]
    fn every_bit_finds_its_place() {
        let stride = 3;
        for count in [1, 7, 128, 129, 300, 384] {
            let mut prg = Prg::from_seed(&[count as u8; 16]);
            let columns: Vec<u128> =
                (0..SIDE * stride).map(|_| u128::from_le_bytes(prg.array())).collect();
            let mut rows = vec![0; count];
            transpose(&columns, stride, &mut rows);
            for (r, row) in rows.iter().enumerate() {
                for c in 0..SIDE {
                    let expected = columns[c * stride + r / SIDE] >> (r % SIDE) & 1;
                    assert_eq!(row >> c & 1, expected, "row {r} column {c}");
                }
            }
        }
    }
}
