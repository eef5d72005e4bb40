//! Turning 128 columns of bits into rows.

/// Side of a tile: columns of the matrix, bits of a row.
pub(super) const SIDE: usize = 128;

/// Transposes a matrix of 128 columns. Column `c` is `columns[c * stride..][..stride]`, least significant
/// bit first; bit `c` of `rows[r]` becomes bit `r` of column `c`.
///
/// `stride` must be at least `rows.len().div_ceil(128)`.
pub(super) fn transpose(columns: &[u128], stride: usize, rows: &mut [u128]) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_available() {
        let whole = rows.len() / wide::ROWS * wide::ROWS;
        let (whole, rest) = rows.split_at_mut(whole);
        // SAFETY: the features that it needs were detected.
        unsafe { wide::transpose(columns, stride, whole) };
        return transpose_from(columns, stride, (whole.len() / SIDE, rest));
    }
    transpose_from(columns, stride, (0, rows));
}

/// For the rows from word `first` of the columns on.
fn transpose_from(columns: &[u128], stride: usize, rows: (usize, &mut [u128])) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have this feature.
        return unsafe { transpose_avx2(columns, stride, rows) };
    }
    transpose_portable(columns, stride, rows);
}

/// The portable way, compiled for processors with 256-bit registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn transpose_avx2(columns: &[u128], stride: usize, rows: (usize, &mut [u128])) {
    transpose_portable(columns, stride, rows);
}

#[inline(always)]
fn transpose_portable(columns: &[u128], stride: usize, (first, rows): (usize, &mut [u128])) {
    for (tile, rows) in rows.chunks_mut(SIDE).enumerate() {
        let mut matrix = [0; SIDE];
        for (line, column) in matrix.iter_mut().zip(columns.chunks_exact(stride)) {
            *line = column[first + tile];
        }
        transpose_tile(&mut matrix);
        rows.copy_from_slice(&matrix[..rows.len()]);
    }
}

/// Exchanges ever smaller off-diagonal squares (Warren, Hacker's Delight, section 7-3).
#[inline(always)]
fn transpose_tile(matrix: &mut [u128; SIDE]) {
    let mut halves = [[0; 2]; SIDE];
    let (top, bottom) = matrix.split_at(SIDE / 2);
    let (upper, lower) = halves.split_at_mut(SIDE / 2);
    for ((top, bottom), (upper, lower)) in top.iter().zip(bottom).zip(upper.iter_mut().zip(lower)) {
        (*upper, *lower) =
            ([*top as u64, *bottom as u64], [(top >> 64) as u64, (bottom >> 64) as u64]);
    }
    swap_squares::<32>(&mut halves);
    swap_squares::<16>(&mut halves);
    swap_squares::<8>(&mut halves);
    swap_squares::<4>(&mut halves);
    swap_squares::<2>(&mut halves);
    swap_squares::<1>(&mut halves);
    for (row, [low, high]) in matrix.iter_mut().zip(halves) {
        *row = u128::from(high) << 64 | u128::from(low);
    }
}

/// In both halves of the rows: no bit crosses from one to the other.
#[inline(always)]
fn swap_squares<const WIDTH: usize>(rows: &mut [[u64; 2]; SIDE]) {
    // Ones where bit WIDTH of the position is zero.
    let mask = u64::MAX / ((1 << WIDTH) + 1);
    for pair in rows.chunks_exact_mut(2 * WIDTH) {
        let (low, high) = pair.split_at_mut(WIDTH);
        for (low, high) in low.as_flattened_mut().iter_mut().zip(high.as_flattened_mut()) {
            let swap = ((*low >> WIDTH) ^ *high) & mask;
            *high ^= swap;
            *low ^= swap << WIDTH;
        }
    }
}

/// 512 rows at a time with AVX-512 and GFNI.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::SIDE;
    use std::arch::x86_64::{
        __m512i, _mm_storeu_si128, _mm512_extracti32x4_epi32, _mm512_gf2p8affine_epi64_epi8,
        _mm512_loadu_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_unpackhi_epi8,
        _mm512_unpackhi_epi16, _mm512_unpackhi_epi32, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
        _mm512_unpacklo_epi32,
    };

    /// Rows of a tile: four words of each column.
    pub(super) const ROWS: usize = 512;

    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni")
    }

    /// See [`super::transpose`]; for whole tiles.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    pub(super) fn transpose(columns: &[u128], stride: usize, rows: &mut [u128]) {
        for (tile, rows) in rows.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let mut groups = [[_mm512_setzero_si512(); 8]; 16];
            for (group, columns) in groups.iter_mut().zip(columns.chunks(8 * stride)) {
                let mut eight = [_mm512_setzero_si512(); 8];
                // In reverse: the matrix product below numbers bits from the highest.
                for (register, column) in eight.iter_mut().rev().zip(columns.chunks_exact(stride)) {
                    let words: &[u128; 4] = column[4 * tile..][..4].try_into().expect("four words");
                    // SAFETY: the array has the 64 bytes that are loaded.
                    *register = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
                }
                *group = squares(eight);
            }
            for (part, registers) in transposed(groups).into_iter().enumerate() {
                let bytes = swap_bytes(registers);
                for (row, register) in bytes.into_iter().enumerate() {
                    let row = 16 * part + row;
                    store(register, [row, SIDE + row, 2 * SIDE + row, 3 * SIDE + row], rows);
                }
            }
        }
    }

    /// The registers of each part, one from every group.
    fn transposed(groups: [[__m512i; 8]; 16]) -> [[__m512i; 16]; 8] {
        std::array::from_fn(|part| groups.map(|group| group[part]))
    }

    /// Eight columns as squares of 8 x 8 bits, each transposed: byte `r` of lane `l` of register `k` is for row `128 l + 16 k + r`.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn squares(columns: [__m512i; 8]) -> [__m512i; 8] {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = columns;
        let mut squares = [_mm512_setzero_si512(); 8];
        let halves = [
            [
                _mm512_unpacklo_epi8(c0, c1),
                _mm512_unpacklo_epi8(c2, c3),
                _mm512_unpacklo_epi8(c4, c5),
                _mm512_unpacklo_epi8(c6, c7),
            ],
            [
                _mm512_unpackhi_epi8(c0, c1),
                _mm512_unpackhi_epi8(c2, c3),
                _mm512_unpackhi_epi8(c4, c5),
                _mm512_unpackhi_epi8(c6, c7),
            ],
        ];
        for (squares, [a, b, c, d]) in squares.chunks_exact_mut(4).zip(halves) {
            let (low, high) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            let (low2, high2) = (_mm512_unpacklo_epi16(c, d), _mm512_unpackhi_epi16(c, d));
            squares[0] = _mm512_unpacklo_epi32(low, low2);
            squares[1] = _mm512_unpackhi_epi32(low, low2);
            squares[2] = _mm512_unpacklo_epi32(high, high2);
            squares[3] = _mm512_unpackhi_epi32(high, high2);
        }
        let identity = _mm512_set1_epi64(0x8040_2010_0804_0201_u64.cast_signed());
        squares.map(|square| _mm512_gf2p8affine_epi64_epi8::<0>(identity, square))
    }

    /// Swaps registers and bytes in each lane: byte `g` of register `r` was byte `r` of register `g`.
    ///
    /// Each of the four shuffles rotates the eight bits of (register, byte) by one.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn swap_bytes(mut registers: [__m512i; 16]) -> [__m512i; 16] {
        for _ in 0..4 {
            registers = std::array::from_fn(|index| {
                let (low, high) = (registers[index / 2], registers[index / 2 + 8]);
                if index % 2 == 0 {
                    _mm512_unpacklo_epi8(low, high)
                } else {
                    _mm512_unpackhi_epi8(low, high)
                }
            });
        }
        registers
    }

    /// The four lanes of a register to four rows.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn store(register: __m512i, places: [usize; 4], rows: &mut [u128; ROWS]) {
        let lanes = [
            _mm512_extracti32x4_epi32::<0>(register),
            _mm512_extracti32x4_epi32::<1>(register),
            _mm512_extracti32x4_epi32::<2>(register),
            _mm512_extracti32x4_epi32::<3>(register),
        ];
        for (place, lane) in places.into_iter().zip(lanes) {
            let row: *mut u128 = &raw mut rows[place];
            // SAFETY: the row has the 16 bytes that are stored.
            unsafe { _mm_storeu_si128(row.cast(), lane) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;

    #[test]
    fn every_bit_finds_its_place() {
        let stride = 9;
        for count in [1, 7, 128, 129, 300, 384, 511, 512, 700, 1024, 1152] {
            let mut prg = Prg::from_seed(&[count as u8; 16]);
            let columns: Vec<u128> =
                (0..SIDE * stride).map(|_| u128::from_le_bytes(prg.array())).collect();
            let [mut rows, mut narrower, mut portable] = [(); 3].map(|()| vec![0; count]);
            transpose(&columns, stride, &mut rows);
            transpose_from(&columns, stride, (0, &mut narrower));
            transpose_portable(&columns, stride, (0, &mut portable));
            assert_eq!(rows, portable);
            assert_eq!(narrower, portable);
            for (r, row) in rows.iter().enumerate() {
                for c in 0..SIDE {
                    let expected = columns[c * stride + r / SIDE] >> (r % SIDE) & 1;
                    assert_eq!(row >> c & 1, expected, "row {r} column {c}");
                }
            }
        }
    }
}
