//! AVX2 with fused multiplication and addition of floating-point numbers (FMA3).
//!
//! Numbers below 2^52 are doubles exactly, and so are the halves of their products (Dekker, Numerische Mathematik 18,
//! 1971). None is subnormal: all operations take the same time for all numbers. Rounding is to the nearest, as Rust has
//! it.

use super::{LOW, Lanes};
use std::arch::x86_64::{
    __m256d, __m256i, _mm256_add_epi64, _mm256_add_pd, _mm256_and_si256, _mm256_blendv_pd,
    _mm256_castpd_si256, _mm256_castsi256_pd, _mm256_fmadd_pd, _mm256_fmsub_pd, _mm256_loadu_si256,
    _mm256_mul_pd, _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set1_epi64x, _mm256_set1_pd,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi64, _mm256_sub_pd, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi64,
};

/// Its last place is 1: added to a whole number below it, that is in the low bits of the sum.
const ONES: f64 = (1_u64 << 52) as f64;
/// Its last place is 2^52: a number below it added to it is rounded to a multiple of that.
const HIGHS: f64 = ONES * ONES;

/// A processor with AVX2 and FMA.
#[derive(Clone, Copy)]
pub(in super::super) struct Fused(());

impl Fused {
    /// It, if this is one.
    #[inline]
    pub(in super::super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }
}

/// Four numbers and four more.
type Pair = [__m256i; 2];

/// Methods that do the same to both halves of their arguments.
macro_rules! halves {
    ($(fn $name:ident($($x:ident),*) = $call:expr;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($x: Pair),*) -> Pair {
                // SAFETY: a `Fused` exists only where the processor has the instructions.
                unsafe {
                    let first = { $(let $x = $x[0];)* $call };
                    let second = { $(let $x = $x[1];)* $call };
                    [first, second]
                }
            }
        )*
    };
}

impl Lanes for Fused {
    type Vector = Pair;

    #[inline(always)]
    fn load(self, from: &[u64; 8]) -> Pair {
        let from = from.as_ptr().cast::<__m256i>();
        // SAFETY: the processor has the instructions; the pointers are to the halves of 64 bytes, without need of
        // alignment.
        unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
    }

    #[inline(always)]
    fn store(self, from: Pair, to: &mut [u64; 8]) {
        let to = to.as_mut_ptr().cast::<__m256i>();
        // SAFETY: as for `load`.
        unsafe {
            _mm256_storeu_si256(to, from[0]);
            _mm256_storeu_si256(to.add(1), from[1]);
        }
    }

    #[inline(always)]
    fn splat(self, x: u64) -> Pair {
        // SAFETY: a `Fused` exists only where the processor has the instructions.
        [unsafe { _mm256_set1_epi64x(x.cast_signed()) }; 2]
    }

    halves! {
        fn add(a, b) = _mm256_add_epi64(a, b);
        fn sub(a, b) = _mm256_sub_epi64(a, b);
        fn below(a, bound) = below(a, bound);
        fn low(a) = low(a);
        fn high(a) = _mm256_srli_epi64::<52>(a);
        fn mul_low(sum, a, b) = _mm256_add_epi64(sum, low(product(a, b).1));
        fn mul_high(sum, a, b) = {
            let (high, low) = product(a, b);
            _mm256_sub_epi64(_mm256_add_epi64(sum, high), _mm256_srli_epi64::<63>(low))
        };
    }

    #[inline(always)]
    fn transpose(self, r: [Pair; 8]) -> [Pair; 8] {
        // SAFETY: a `Fused` exists only where the processor has the instructions.
        unsafe {
            let [a, b, c, d] = quarter([r[0][0], r[1][0], r[2][0], r[3][0]]);
            let [e, f, g, h] = quarter([r[4][0], r[5][0], r[6][0], r[7][0]]);
            let [i, j, k, l] = quarter([r[0][1], r[1][1], r[2][1], r[3][1]]);
            let [m, n, o, p] = quarter([r[4][1], r[5][1], r[6][1], r[7][1]]);
            [[a, e], [b, f], [c, g], [d, h], [i, m], [j, n], [k, o], [l, p]]
        }
    }

    #[inline(always)]
    fn times(self, x: Pair, (value, quotient): (Pair, Pair), prime: Pair) -> Pair {
        // SAFETY: a `Fused` exists only where the processor has the instructions.
        unsafe {
            [
                times(x[0], (value[0], quotient[0]), prime[0]),
                times(x[1], (value[1], quotient[1]), prime[1]),
            ]
        }
    }
}

/// `a`, less `bound` where that is not negative.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn below(a: __m256i, bound: __m256i) -> __m256i {
    let less = _mm256_castsi256_pd(_mm256_sub_epi64(a, bound));
    _mm256_castpd_si256(_mm256_blendv_pd(less, _mm256_castsi256_pd(a), less))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn low(a: __m256i) -> __m256i {
    _mm256_and_si256(a, _mm256_set1_epi64x(LOW.cast_signed()))
}

/// Numbers below 2^52, plus `offset`: 0 or 1/2.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn double(a: __m256i, offset: f64) -> __m256d {
    let ones = _mm256_set1_epi64x(ONES.to_bits().cast_signed());
    let a = _mm256_castsi256_pd(_mm256_or_si256(a, ones));
    _mm256_sub_pd(a, _mm256_set1_pd(ONES - offset))
}

/// The product of numbers below 2^52 as `2^52 high + low`, with `low` from -2^51 to 2^51.
///
/// It is below 2^104 - 2^52, so that the sum with [`HIGHS`] is below twice that and rounded to the nearest multiple of
/// 2^52. What is left is a whole number of at most 52 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn product(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    let (a, b) = (double(a, 0.0), double(b, 0.0));
    let highs = _mm256_set1_pd(HIGHS);
    let sum = _mm256_fmadd_pd(a, b, highs);
    let low = _mm256_fmsub_pd(a, b, _mm256_sub_pd(sum, highs));
    let middle = _mm256_set1_pd(1.5 * ONES);
    let low = _mm256_add_pd(low, middle);
    (difference(sum, highs), difference(low, middle))
}

/// How many last places `a` is from `b`, of the same exponent or, for `a`, the power of two that ends it.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn difference(a: __m256d, b: __m256d) -> __m256i {
    _mm256_sub_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b))
}

/// `x` times a constant, modulo a prime below 2^50, from 1 to twice the prime less 1; for `x` below 2^52.
///
/// The quotient of the constant is rounded down; with half a unit more, 53 bits, it errs by half a unit, `2^-53`, at
/// most. Times `x` that is less than 1/2, and rounding to a whole number `n` adds at most 1/2: `x value - n prime`, the
/// result `r`, lies strictly between `-prime` and `prime`. In doubles `x value`, below 2^102, is `near + rest`, both
/// whole, `rest` at most 2^48: so `near - n prime = r - rest` is whole and below 2^51, which one fused operation gives
/// exactly. `rest + prime + 2^52` is whole, below 2^53, and `r + prime + 2^52` from 2^52 to 2^53.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn times(x: __m256i, (value, quotient): (__m256i, __m256i), prime: __m256i) -> __m256i {
    let (x, value, quotient) = (double(x, 0.0), double(value, 0.0), double(quotient, 0.5));
    let prime = double(prime, 0.0);
    let (ones, highs) = (_mm256_set1_pd(ONES), _mm256_set1_pd(HIGHS));
    // 2^52 times `n`, and 2^-52 times the negative prime.
    let whole = _mm256_sub_pd(_mm256_fmadd_pd(x, quotient, highs), highs);
    let negative = _mm256_mul_pd(prime, _mm256_set1_pd(-1.0 / ONES));
    let near = _mm256_mul_pd(x, value);
    let rest = _mm256_add_pd(_mm256_fmsub_pd(x, value, near), _mm256_add_pd(prime, ones));
    let result = _mm256_add_pd(_mm256_fmadd_pd(whole, negative, near), rest);
    low(_mm256_castpd_si256(result))
}

/// Four rows of four for columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn quarter(r: [__m256i; 4]) -> [__m256i; 4] {
    /// The first halves of both, and the second ones.
    const FIRST: i32 = 0x20;
    const SECOND: i32 = 0x31;
    let (even, odd) = (_mm256_unpacklo_epi64(r[0], r[1]), _mm256_unpackhi_epi64(r[0], r[1]));
    let (evens, odds) = (_mm256_unpacklo_epi64(r[2], r[3]), _mm256_unpackhi_epi64(r[2], r[3]));
    [
        _mm256_permute2x128_si256::<FIRST>(even, evens),
        _mm256_permute2x128_si256::<FIRST>(odd, odds),
        _mm256_permute2x128_si256::<SECOND>(even, evens),
        _mm256_permute2x128_si256::<SECOND>(odd, odds),
    ]
}
