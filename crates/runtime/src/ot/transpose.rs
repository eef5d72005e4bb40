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
        __m512i, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
        _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi8,
        _mm512_unpackhi_epi16, _mm512_unpackhi_epi32, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
        _mm512_unpacklo_epi32,
    };

    /// Rows of a tile: four words of each column.
    pub(super) const ROWS: usize = 512;

    /// Parts of 16 rows from each lane of a tile.
    const PARTS: usize = 8;

    /// Groups of eight columns.
    const GROUPS: usize = SIDE / 8;

    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni")
    }

    /// See [`super::transpose`]; for whole tiles.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    pub(super) fn transpose(columns: &[u128], stride: usize, rows: &mut [u128]) {
        // What does not fit the registers waits in the nearest cache; nothing is moved but by them.
        let mut squares = [[_mm512_setzero_si512(); GROUPS]; PARTS];
        for (tile, rows) in rows.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            for (group, columns) in columns.chunks(8 * stride).enumerate().take(GROUPS) {
                let mut eight = [_mm512_setzero_si512(); 8];
                // In reverse: the matrix product below numbers bits from the highest.
                for (register, column) in eight.iter_mut().rev().zip(columns.chunks_exact(stride)) {
                    *register = load(column[4 * tile..][..4].as_array().expect("four words"));
                }
                for (part, square) in transpose_squares(eight).into_iter().enumerate() {
                    squares[part][group] = square;
                }
            }
            for (part, registers) in squares.iter().enumerate() {
                let bytes = swap_bytes(*registers);
                for (four, registers) in bytes.as_chunks().0.iter().enumerate() {
                    let first = 16 * part + 4 * four;
                    for (lane, register) in swap_lanes(*registers).into_iter().enumerate() {
                        let to = rows[SIDE * lane + first..][..4].as_mut_array();
                        store(to.expect("four rows"), register);
                    }
                }
            }
        }
    }

    /// Eight columns as squares of 8 x 8 bits, each transposed: byte `r` of lane `l` of register `k` is for row `128 l + 16 k + r`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn transpose_squares(columns: [__m512i; 8]) -> [__m512i; PARTS] {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = columns;
        let (a, b) = (_mm512_unpacklo_epi8(c0, c1), _mm512_unpackhi_epi8(c0, c1));
        let (c, d) = (_mm512_unpacklo_epi8(c2, c3), _mm512_unpackhi_epi8(c2, c3));
        let (e, f) = (_mm512_unpacklo_epi8(c4, c5), _mm512_unpackhi_epi8(c4, c5));
        let (g, h) = (_mm512_unpacklo_epi8(c6, c7), _mm512_unpackhi_epi8(c6, c7));
        let mut squares = [_mm512_setzero_si512(); PARTS];
        for (squares, [a, c, e, g]) in
            squares.as_chunks_mut::<4>().0.iter_mut().zip([[a, c, e, g], [b, d, f, h]])
        {
            let (low, high) = (_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c));
            let (low2, high2) = (_mm512_unpacklo_epi16(e, g), _mm512_unpackhi_epi16(e, g));
            squares[0] = _mm512_unpacklo_epi32(low, low2);
            squares[1] = _mm512_unpackhi_epi32(low, low2);
            squares[2] = _mm512_unpacklo_epi32(high, high2);
            squares[3] = _mm512_unpackhi_epi32(high, high2);
        }
        let identity = _mm512_set1_epi64(0x8040_2010_0804_0201_u64.cast_signed());
        for square in &mut squares {
            *square = _mm512_gf2p8affine_epi64_epi8::<0>(identity, *square);
        }
        squares
    }

    /// Swaps registers and bytes in each lane: byte `g` of register `r` was byte `r` of register `g`.
    ///
    /// Each of the four shuffles rotates the eight bits of (register, byte) by one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn swap_bytes(mut registers: [__m512i; 16]) -> [__m512i; 16] {
        for _ in 0..4 {
            let [low, high] = registers.as_chunks::<8>().0 else { unreachable!("16 are twice 8") };
            let mut shuffled = [_mm512_setzero_si512(); 16];
            for (index, two) in shuffled.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                two[0] = _mm512_unpacklo_epi8(low[index], high[index]);
                two[1] = _mm512_unpackhi_epi8(low[index], high[index]);
            }
            registers = shuffled;
        }
        registers
    }

    /// Swaps registers and lanes: lane `r` of register `l` was lane `l` of register `r`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn swap_lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
        let low2 = _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d);
        let high = _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
        let high2 = _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d);
        [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low2),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low2),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high2),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high2),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn load(words: &[u128; 4]) -> __m512i {
        // SAFETY: the array has the 64 bytes that are loaded; the load needs no alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn store(words: &mut [u128; 4], register: __m512i) {
        // SAFETY: the array has the 64 bytes that are stored; the store needs no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
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
