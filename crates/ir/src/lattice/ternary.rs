//! Ternary polynomials, and their products with any others: additions alone, the same for every secret.

use super::ntt::Transform;
use super::parameters::{DEGREE, LatticeSet};
use super::stream::Stream;
use std::sync::OnceLock;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Coefficients of a product that a kernel may compute beyond those that were asked for.
const PADDING: usize = 64;

/// A secret vector of `rank` ternary polynomials, as masks: a coefficient `s` takes `x` to `((x ^ flip) & keep)`,
/// which is `s x` but for one unit where `s = -1`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Ternary {
    flip: Vec<u64>,
    keep: Vec<u64>,
    /// Number of coefficients -1.
    negative: u64,
    /// Once they are asked for. They forget themselves.
    #[zeroize(skip)]
    values: OnceLock<Vec<Transform>>,
}

impl Ternary {
    /// Uniform coefficients.
    pub(crate) fn sample(set: LatticeSet, stream: &mut Stream) -> Self {
        let mut trits = Zeroizing::new(vec![0; set.dimension()]);
        stream.trits(&mut trits);
        let masks = |bit: fn(u8) -> u8| -> Vec<u64> {
            trits.iter().map(|&trit| u64::from(bit(trit)).wrapping_neg()).collect()
        };
        Self {
            flip: masks(|trit| trit >> 1),
            keep: masks(|trit| (trit | trit >> 1) & 1),
            negative: trits.iter().map(|trit| u64::from(trit >> 1)).sum(),
            values: OnceLock::new(),
        }
    }

    /// The coefficients as numbers.
    pub(crate) fn coefficients(&self) -> impl Iterator<Item = i64> + Clone + '_ {
        let value =
            |(&flip, &keep): (&u64, &u64)| ((1 ^ flip) & keep).cast_signed() + (flip & 1) as i64;
        self.flip.iter().zip(&self.keep).map(value)
    }

    /// The polynomials at the roots.
    pub(super) fn values(&self, set: LatticeSet) -> &[Transform] {
        self.values.get_or_init(|| {
            let part = |part: usize| {
                let degree = set.degree();
                let numbers = self.coefficients().skip(part * degree).take(degree);
                Transform::of_small(set, numbers.enumerate())
            };
            (0..set.rank()).map(part).collect()
        })
    }

    /// Coefficients `first..first + out.len()` of the sum of products with `factors`, one polynomial for each of
    /// ours; words alone, unreduced. For degree [`DEGREE`].
    pub(crate) fn product<'a>(
        &self,
        factors: impl IntoIterator<Item = &'a Extended>,
        first: usize,
        out: &mut [u64],
    ) {
        let masks = self.flip.chunks_exact(DEGREE).zip(self.keep.chunks_exact(DEGREE));
        out.fill(self.negative);
        for ((flip, keep), factor) in masks.zip(factors) {
            // Coefficient p of the product is the sum over i of s_i times entry DEGREE + p - i.
            let windows = &factor.0[first + 1..];
            add_product(windows, flip, keep, out);
        }
    }
}

/// A polynomial with its negative before it, so that a negacyclic shift is a window: entries `0..d` are `-x`,
/// `d..2d` are `x`, and some zeros follow.
pub(crate) struct Extended(Vec<u64>);

impl Extended {
    /// Zero.
    pub(super) fn zero() -> Self {
        Self(vec![0; 2 * DEGREE + PADDING])
    }

    /// Sets one word of a coefficient.
    #[inline]
    pub(super) fn set(&mut self, at: usize, word: u64) {
        self.0[at] = word.wrapping_neg();
        self.0[DEGREE + at] = word;
    }
}

/// `out[p] += sum over i of ((windows[d - 1 - i + p] ^ flip[i]) & keep[i])`.
fn add_product(windows: &[u64], flip: &[u64], keep: &[u64], out: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::add_product(windows, flip, keep, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx2::add_product(windows, flip, keep, out) };
        }
    }
    add_product_portable(windows, flip, keep, out);
}

fn add_product_portable(windows: &[u64], flip: &[u64], keep: &[u64], out: &mut [u64]) {
    for (i, (flip, keep)) in flip.iter().zip(keep).enumerate() {
        let window = &windows[DEGREE - 1 - i..][..out.len()];
        for (out, x) in out.iter_mut().zip(window) {
            *out = out.wrapping_add((x ^ flip) & keep);
        }
    }
}

/// Calls `$block::<N>` for blocks of `N * $lanes` outputs while they last.
#[cfg(target_arch = "x86_64")]
macro_rules! in_blocks {
    ($block:ident, $lanes:expr, $sizes:tt, ($windows:expr, $flip:expr, $keep:expr, $out:expr)) => {
        in_blocks!(@each $block, $lanes, $sizes, $windows, $flip, $keep, $out)
    };
    (@each $block:ident, $lanes:expr, [$($size:literal),*], $windows:expr, $flip:expr, $keep:expr, $out:expr) => {{
        let (mut at, mut out) = (0, $out);
        $(
            while out.len() > ($size - 1) * $lanes {
                let sums = $block::<$size>(&$windows[at..], $flip, $keep);
                let take = out.len().min($size * $lanes);
                let (now, later) = out.split_at_mut(take);
                for (out, sum) in now.iter_mut().zip(sums.as_flattened()) {
                    *out = out.wrapping_add(*sum);
                }
                at += take;
                out = later;
            }
        )*
        debug_assert!(out.is_empty());
    }};
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::DEGREE;
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_storeu_si512, _mm512_ternarylogic_epi64,
    };

    #[target_feature(enable = "avx512f")]
    pub(super) fn add_product(windows: &[u64], flip: &[u64], keep: &[u64], out: &mut [u64]) {
        in_blocks!(block, 8, [8, 4, 2, 1], (windows, flip, keep, out));
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn block<const N: usize>(windows: &[u64], flip: &[u64], keep: &[u64]) -> [[u64; 8]; N] {
        /// `(a ^ b) & c`, by the bits of 0b_abc.
        const XOR_AND: i32 = 0b0010_1000;
        let mut sums = [_mm512_setzero_si512(); N];
        for (i, (flip, keep)) in flip.iter().zip(keep).enumerate() {
            let flip = _mm512_set1_epi64(flip.cast_signed());
            let keep = _mm512_set1_epi64(keep.cast_signed());
            let (eights, _) = windows[DEGREE - 1 - i..][..8 * N].as_chunks::<8>();
            for (sum, eight) in sums.iter_mut().zip(eights) {
                // SAFETY: the pointer is that of 64 readable bytes; the load needs no alignment.
                let x = unsafe { _mm512_loadu_si512(eight.as_ptr().cast()) };
                *sum = _mm512_add_epi64(*sum, _mm512_ternarylogic_epi64::<XOR_AND>(x, flip, keep));
            }
        }
        sums.map(|sum| store(sum))
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

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::DEGREE;
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256,
    };

    #[target_feature(enable = "avx2")]
    pub(super) fn add_product(windows: &[u64], flip: &[u64], keep: &[u64], out: &mut [u64]) {
        in_blocks!(block, 4, [8, 4, 2, 1], (windows, flip, keep, out));
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn block<const N: usize>(windows: &[u64], flip: &[u64], keep: &[u64]) -> [[u64; 4]; N] {
        let mut sums = [_mm256_setzero_si256(); N];
        for (i, (flip, keep)) in flip.iter().zip(keep).enumerate() {
            let flip = _mm256_set1_epi64x(flip.cast_signed());
            let keep = _mm256_set1_epi64x(keep.cast_signed());
            let (fours, _) = windows[DEGREE - 1 - i..][..4 * N].as_chunks::<4>();
            for (sum, four) in sums.iter_mut().zip(fours) {
                // SAFETY: the pointer is that of 32 readable bytes; the load needs no alignment.
                let x = unsafe { _mm256_loadu_si256(four.as_ptr().cast::<__m256i>()) };
                let term = _mm256_and_si256(_mm256_xor_si256(x, flip), keep);
                *sum = _mm256_add_epi64(*sum, term);
            }
        }
        sums.map(|sum| store(sum))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(vector: __m256i) -> [u64; 4] {
        let mut numbers = [0; 4];
        // SAFETY: the pointer is that of 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast::<__m256i>(), vector) };
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Purpose, SecretSeed};
    use super::*;

    fn sample(set: LatticeSet, seed: u8) -> (Ternary, Vec<Vec<u64>>) {
        let seed = SecretSeed::new([seed; 32]);
        let ternary = Ternary::sample(set, &mut seed.stream(Purpose::Ternary, 0));
        let mut stream = seed.stream(Purpose::Chunk, 0);
        let polynomial = |_| (0..DEGREE).map(|_| stream.next_u64()).collect();
        (ternary, (0..set.rank()).map(polynomial).collect())
    }

    fn extended(words: &[u64]) -> Extended {
        let mut extended = Extended::zero();
        words.iter().enumerate().for_each(|(at, &word)| extended.set(at, word));
        extended
    }

    /// Negacyclic products by their definition.
    fn by_definition(coefficients: &[i64], factors: &[Vec<u64>]) -> Vec<u64> {
        let mut product = vec![0u64; DEGREE];
        for (s, x) in coefficients.chunks(DEGREE).zip(factors) {
            for (i, s) in s.iter().enumerate() {
                for (j, x) in x.iter().enumerate() {
                    let term = x.wrapping_mul(s.cast_unsigned());
                    let at = (i + j) % DEGREE;
                    let sum = &mut product[at];
                    *sum = if i + j < DEGREE {
                        sum.wrapping_add(term)
                    } else {
                        sum.wrapping_sub(term)
                    };
                }
            }
        }
        product
    }

    #[test]
    fn products_are_negacyclic_wherever_they_start() {
        for set in LatticeSet::HINTS {
            let (ternary, factors) = sample(set, 3);
            let expected = by_definition(&ternary.coefficients().collect::<Vec<_>>(), &factors);
            let extended: Vec<_> = factors.iter().map(|x| extended(x)).collect();
            for (first, count) in [(0, DEGREE), (DEGREE - 1, 1), (17, 100), (500, 12), (3, 67)] {
                let mut out = vec![99; count];
                ternary.product(&extended, first, &mut out);
                assert_eq!(out, expected[first..first + count]);
            }
        }
    }

    #[test]
    fn all_kernels_give_the_same_sums() {
        let (ternary, factors) = sample(LatticeSet::R512x5, 5);
        let extended = extended(&factors[0]);
        let (flip, keep) = (&ternary.flip[..DEGREE], &ternary.keep[..DEGREE]);
        for (first, count) in [(0, DEGREE), (1, 63), (400, 33), (511, 1)] {
            let windows = &extended.0[first + 1..];
            let mut expected = vec![7; count];
            add_product_portable(windows, flip, keep, &mut expected);
            let mut out = vec![7; count];
            add_product(windows, flip, keep, &mut out);
            assert_eq!(out, expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let mut out = vec![7; count];
                // SAFETY: the processor has just been found to have this feature.
                unsafe { avx2::add_product(windows, flip, keep, &mut out) };
                assert_eq!(out, expected);
            }
        }
    }
}
