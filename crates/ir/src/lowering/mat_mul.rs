//! Matrix products in the ring.

use crate::{MatMulShape, Ring};
use rayon::prelude::*;

/// Rows of a register block.
const ROWS: usize = 4;
/// Inner dimension of a panel: `PANEL x 16` numbers fill a first-level cache.
const PANEL: usize = 256;
/// Multiplications below which a second thread does not pay.
const THREAD_WORK: usize = 1 << 17;

/// `count` products of `a` (`count x m x k`) and `b` (`count x k x n`): `count x m x n`, reduced.
///
/// # Panics
/// Where a slice has another length than the shape says.
#[must_use]
pub fn mat_mul(ring: Ring, shape: MatMulShape, a: &[u64], b: &[u64]) -> Vec<u64> {
    let MatMulShape { count, m, k, n } = shape;
    assert_eq!(a.len(), count * m * k, "left factor of {shape:?}");
    assert_eq!(b.len(), count * k * n, "right factor of {shape:?}");
    let mut c = vec![0; count * m * n];
    if c.is_empty() || k == 0 {
        return c;
    }
    let rows = (THREAD_WORK / (k * n)).next_multiple_of(ROWS).max(4 * ROWS);
    let product = |number: usize, c: &mut [u64]| {
        let (a, b) = (&a[number * m * k..][..m * k], &b[number * k * n..][..k * n]);
        let packed = pack(b, (k, n));
        let part = |(c, a): (&mut [u64], &[u64])| multiply(ring, c, a, &packed, (k, n));
        if rows >= m {
            part((c, a));
        } else {
            c.par_chunks_mut(rows * n).zip(a.par_chunks(rows * k)).for_each(part);
        }
        c.iter_mut().for_each(|value| *value = ring.reduce(*value));
    };
    let together = (THREAD_WORK / (m * k * n)).clamp(1, count);
    c.par_chunks_mut(together * m * n).enumerate().for_each(|(chunk, c)| {
        let numbers = chunk * together..;
        numbers.zip(c.chunks_mut(m * n)).for_each(|(number, c)| product(number, c));
    });
    c
}

/// Columns of a register block for a product of `n` columns.
const fn block_columns(n: usize) -> usize {
    match n {
        0..=2 => 2,
        3..=4 => 4,
        5..=8 => 8,
        _ => 16,
    }
}

/// `b` in strips of [`block_columns`], one after the other, each row by row; the last one filled up
/// with zeros.
fn pack(b: &[u64], (k, n): (usize, usize)) -> Vec<u64> {
    let columns = block_columns(n);
    let mut packed = vec![0; n.div_ceil(columns) * k * columns];
    for (number, strip) in packed.chunks_mut(k * columns).enumerate() {
        let column = number * columns;
        let width = columns.min(n - column);
        for (to, from) in strip.chunks_mut(columns).zip(b.chunks(n)) {
            to[..width].copy_from_slice(&from[column..column + width]);
        }
    }
    packed
}

/// `c = a b` in the ring, not reduced, for `a` of rows of `k`, a packed `b`, and `c` of rows of `n`.
fn multiply(ring: Ring, c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    #[cfg(target_arch = "x86_64")]
    if ring.bits() <= 52 && n > 4 && is_x86_feature_detected!("avx512ifma") {
        // SAFETY: the processor has just been found to have this feature, which comes with AVX-512F.
        return unsafe { avx512::multiply_52(c, a, b, (k, n)) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        // SAFETY: the processor has just been found to have these features.
        return unsafe { avx512::multiply(c, a, b, (k, n)) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have this feature.
        return unsafe { multiply_avx2(c, a, b, (k, n)) };
    }
    multiply_portable(c, a, b, (k, n));
}

/// The portable way, compiled for processors with 256-bit registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    multiply_portable(c, a, b, (k, n));
}

#[inline(always)]
fn multiply_portable(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    match block_columns(n) {
        2 => multiply_strips(c, a, b, (k, n), block::<2>),
        4 => multiply_strips(c, a, b, (k, n), block::<4>),
        8 => multiply_strips(c, a, b, (k, n), block::<8>),
        _ => multiply_strips(c, a, b, (k, n), block::<16>),
    }
}

/// Strip by strip and panel by panel; `block` multiplies a few rows with a panel.
#[inline(always)]
fn multiply_strips<const COLUMNS: usize>(
    c: &mut [u64],
    a: &[u64],
    packed: &[u64],
    (k, n): (usize, usize),
    block: impl Fn([&[u64]; ROWS], &[[u64; COLUMNS]]) -> [[u64; COLUMNS]; ROWS],
) {
    for (number, strip) in packed.as_chunks::<COLUMNS>().0.chunks(k).enumerate() {
        let column = number * COLUMNS;
        let width = COLUMNS.min(n - column);
        for (number, panel) in strip.chunks(PANEL).enumerate() {
            let start = number * PANEL;
            for (c, a) in c.chunks_mut(ROWS * n).zip(a.chunks(ROWS * k)) {
                // Where rows are missing the first stands in; what it gives is not added.
                let row = |i: usize| if i * k < a.len() { i * k } else { 0 };
                let rows = std::array::from_fn(|i| &a[row(i) + start..][..panel.len()]);
                for (c, sum) in c.chunks_mut(n).zip(block(rows, panel)) {
                    let c = &mut c[column..column + width];
                    if start == 0 {
                        c.copy_from_slice(&sum[..width]);
                    } else {
                        c.iter_mut().zip(sum).for_each(|(c, sum)| *c = c.wrapping_add(sum));
                    }
                }
            }
        }
    }
}

/// The product of a few rows with a packed panel, held in registers.
#[inline(always)]
fn block<const COLUMNS: usize>(
    rows: [&[u64]; ROWS],
    panel: &[[u64; COLUMNS]],
) -> [[u64; COLUMNS]; ROWS] {
    let mut sums = [[0u64; COLUMNS]; ROWS];
    for (p, packed) in panel.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let factor = row[p];
            for (sum, &b) in sum.iter_mut().zip(packed) {
                *sum = sum.wrapping_add(factor.wrapping_mul(b));
            }
        }
    }
    sums
}

/// For processors that multiply eight 64-bit numbers at once. Left to itself the compiler vectorises
/// along the inner dimension, several times slower.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{ROWS, block_columns, multiply_portable, multiply_strips};
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_madd52lo_epu64, _mm512_mullo_epi64,
        _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn multiply(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
        match block_columns(n) {
            2 | 4 => multiply_portable(c, a, b, (k, n)),
            8 => multiply_strips(c, a, b, (k, n), |rows, panel: &[[u64; 8]]| {
                block::<1>(rows, panel.as_flattened()).map(|[sum]| sum)
            }),
            _ => multiply_strips(c, a, b, (k, n), |rows, panel: &[[u64; 16]]| {
                block::<2>(rows, panel.as_flattened()).map(|[low, high]| {
                    std::array::from_fn(|i| if i < 8 { low[i] } else { high[i - 8] })
                })
            }),
        }
    }

    /// The same modulo `2^52` alone: the low halves of 52-bit products are added up in one instruction, several times
    /// faster than 64-bit products.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn multiply_52(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
        match block_columns(n) {
            8 => multiply_strips(c, a, b, (k, n), |rows, panel: &[[u64; 8]]| {
                block_52::<1>(rows, panel.as_flattened()).map(|[sum]| sum)
            }),
            16 => multiply_strips(c, a, b, (k, n), |rows, panel: &[[u64; 16]]| {
                block_52::<2>(rows, panel.as_flattened()).map(|[low, high]| {
                    std::array::from_fn(|i| if i < 8 { low[i] } else { high[i - 8] })
                })
            }),
            _ => multiply_portable(c, a, b, (k, n)),
        }
    }

    /// As [`block`], modulo `2^52`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn block_52<const VECTORS: usize>(
        rows: [&[u64]; ROWS],
        panel: &[u64],
    ) -> [[[u64; 8]; VECTORS]; ROWS] {
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for (p, packed) in panel.chunks_exact(8 * VECTORS).enumerate() {
            let (eights, _) = packed.as_chunks::<8>();
            let vectors: [__m512i; VECTORS] = std::array::from_fn(|v| load(&eights[v]));
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let factor = _mm512_set1_epi64(row[p].cast_signed());
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = _mm512_madd52lo_epu64(*sum, factor, vector);
                }
            }
        }
        sums.map(|sums| sums.map(|sum| store(sum)))
    }

    /// As [`super::block`], for a panel of rows of `VECTORS` times eight numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn block<const VECTORS: usize>(
        rows: [&[u64]; ROWS],
        panel: &[u64],
    ) -> [[[u64; 8]; VECTORS]; ROWS] {
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for (p, packed) in panel.chunks_exact(8 * VECTORS).enumerate() {
            let (eights, _) = packed.as_chunks::<8>();
            let vectors: [__m512i; VECTORS] = std::array::from_fn(|v| load(&eights[v]));
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let factor = _mm512_set1_epi64(row[p].cast_signed());
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(factor, vector));
                }
            }
        }
        sums.map(|sums| sums.map(|sum| store(sum)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(numbers: &[u64; 8]) -> __m512i {
        // SAFETY: the pointer is that of 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(vector: __m512i) -> [u64; 8] {
        let mut numbers = [0; 8];
        // SAFETY: the pointer is that of 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), vector) };
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};

    fn by_definition(ring: Ring, shape: MatMulShape, a: &[u64], b: &[u64]) -> Vec<u64> {
        let MatMulShape { count, m, k, n } = shape;
        let at = |p: usize, i: usize, j: usize| {
            let terms = (0..k).map(|t| ring.mul(a[(p * m + i) * k + t], b[(p * k + t) * n + j]));
            terms.fold(0, |sum, term| ring.add(sum, term))
        };
        let rows = (0..count).flat_map(|p| (0..m).map(move |i| (p, i)));
        rows.flat_map(|(p, i)| (0..n).map(move |j| at(p, i, j))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn blocks_panels_and_threads_change_nothing(
            (bits, seed) in (1u32..=64, any::<u64>()),
            (count, m, n) in (1usize..=4, 1usize..=40, 1usize..=40),
            k in prop_oneof![1usize..=12, 250usize..=260, 510usize..=530],
        ) {
            let ring = Ring::new(bits).expect("in range");
            let shape = MatMulShape { count, m, k, n };
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut draw = |n: usize| -> Vec<u64> {
                (0..n).map(|_| ring.reduce(rng.random())).collect()
            };
            let (a, b) = (draw(count * m * k), draw(count * k * n));
            prop_assert_eq!(mat_mul(ring, shape, &a, &b), by_definition(ring, shape, &a, &b));
        }
    }

    #[test]
    fn every_instruction_set_agrees() {
        for n in [1, 4, 7, 8, 19] {
            instruction_sets_agree(7, 300, n);
        }
    }

    fn instruction_sets_agree(m: usize, k: usize, n: usize) {
        let number = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let a: Vec<u64> = (0..m * k).map(number).collect();
        let b: Vec<u64> = (1..=k * n).map(number).collect();
        let packed = pack(&b, (k, n));
        let mut portable = vec![0; m * n];
        multiply_portable(&mut portable, &a, &packed, (k, n));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            let mut narrower = vec![0; m * n];
            // SAFETY: the processor has just been found to have this feature.
            unsafe { multiply_avx2(&mut narrower, &a, &packed, (k, n)) };
            assert_eq!(narrower, portable);
        }
        for bits in [64, 53, 52, 41, 8] {
            let ring = Ring::new(bits).expect("in range");
            let mut fast = vec![0; m * n];
            multiply(ring, &mut fast, &a, &packed, (k, n));
            assert!(fast.iter().zip(&portable).all(|(&x, &y)| ring.reduce(x) == ring.reduce(y)));
        }
    }
}
