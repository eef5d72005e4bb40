//! Matrix products in the ring.

use crate::{MatMulShape, Ring};
use rayon::prelude::*;

/// Rows of a register block.
const ROWS: usize = 4;
/// Inner dimension of a packed panel: `PANEL x 16` numbers fill a first-level cache.
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
    let rows = (THREAD_WORK / (k * n)).clamp(1, m).next_multiple_of(ROWS).min(m);
    let product = |number: usize, c: &mut [u64]| {
        let (a, b) = (&a[number * m * k..][..m * k], &b[number * k * n..][..k * n]);
        let strip = |(c, a): (&mut [u64], &[u64])| multiply(c, a, b, (k, n));
        if rows == m {
            strip((c, a));
        } else {
            c.par_chunks_mut(rows * n).zip(a.par_chunks(rows * k)).for_each(strip);
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

/// `c += a b` modulo `2^64` for `a` of rows of `k` and `b` of rows of `n`.
fn multiply(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has just been found to have these features.
            return unsafe { multiply_avx512(c, a, b, (k, n)) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { multiply_avx2(c, a, b, (k, n)) };
        }
    }
    multiply_portable(c, a, b, (k, n));
}

/// The portable code compiled for processors with 64-bit vector multiplication.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn multiply_avx512(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    multiply_portable(c, a, b, (k, n));
}

/// The portable code compiled for processors with wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    multiply_portable(c, a, b, (k, n));
}

#[inline(always)]
fn multiply_portable(c: &mut [u64], a: &[u64], b: &[u64], (k, n): (usize, usize)) {
    match n {
        0..=2 => multiply_strips::<2>(c, a, b, (k, n)),
        3..=4 => multiply_strips::<4>(c, a, b, (k, n)),
        5..=8 => multiply_strips::<8>(c, a, b, (k, n)),
        _ => multiply_strips::<16>(c, a, b, (k, n)),
    }
}

/// In strips of `COLUMNS` columns: each panel of `b` is packed once and used by all rows of `a`.
#[inline(always)]
fn multiply_strips<const COLUMNS: usize>(
    c: &mut [u64],
    a: &[u64],
    b: &[u64],
    (k, n): (usize, usize),
) {
    let mut panel = [[0u64; COLUMNS]; PANEL];
    for column in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - column);
        for start in (0..k).step_by(PANEL) {
            let depth = PANEL.min(k - start);
            for (packed, row) in panel.iter_mut().zip(b[start * n..].chunks(n)).take(depth) {
                packed[..width].copy_from_slice(&row[column..column + width]);
                packed[width..].fill(0);
            }
            let panel = &panel[..depth];
            for (c, a) in c.chunks_mut(ROWS * n).zip(a.chunks(ROWS * k)) {
                let block = if c.len() == ROWS * n {
                    let row = |i: usize| &a[i * k + start..][..depth];
                    block::<COLUMNS, ROWS>([row(0), row(1), row(2), row(3)], panel)
                } else {
                    let mut block = [[0; COLUMNS]; ROWS];
                    for (sum, a) in block.iter_mut().zip(a.chunks(k)) {
                        [*sum] = self::block::<COLUMNS, 1>([&a[start..][..depth]], panel);
                    }
                    block
                };
                for (c, sum) in c.chunks_mut(n).zip(&block) {
                    for (c, &sum) in c[column..column + width].iter_mut().zip(sum) {
                        *c = c.wrapping_add(sum);
                    }
                }
            }
        }
    }
}

/// The product of a few rows with a packed panel, held in registers.
#[inline(always)]
fn block<const COLUMNS: usize, const HEIGHT: usize>(
    rows: [&[u64]; HEIGHT],
    panel: &[[u64; COLUMNS]],
) -> [[u64; COLUMNS]; HEIGHT] {
    let mut sums = [[0u64; COLUMNS]; HEIGHT];
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
        let (m, k, n) = (7, 300, 19);
        let number = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let a: Vec<u64> = (0..m * k).map(number).collect();
        let b: Vec<u64> = (1..=k * n).map(number).collect();
        let (mut fast, mut portable) = (vec![0; m * n], vec![0; m * n]);
        multiply(&mut fast, &a, &b, (k, n));
        multiply_portable(&mut portable, &a, &b, (k, n));
        assert_eq!(fast, portable);
    }
}
