//! AVX-512 with 52-bit multiplication.

use super::{LOW, Lanes};
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_min_epu64, _mm512_set1_epi64, _mm512_shuffle_i64x2,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi64, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

/// A processor with AVX-512F and AVX-512-IFMA.
#[derive(Clone, Copy)]
pub(in super::super) struct Wide(());

impl Wide {
    /// It, if this is one.
    #[inline]
    pub(in super::super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        found.then_some(Self(()))
    }
}

/// One intrinsic after another.
macro_rules! intrinsics {
    ($(fn $name:ident($($x:ident: $type:ty),*) -> $result:ty = $call:expr;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($x: $type),*) -> $result {
                // SAFETY: a `Wide` exists only where the processor has the instructions; pointers are those of
                // 64 bytes, without need of alignment.
                unsafe { $call }
            }
        )*
    };
}

impl Lanes for Wide {
    type Vector = __m512i;

    intrinsics! {
        fn load(from: &[u64; 8]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast());
        fn store(from: __m512i, to: &mut [u64; 8]) -> () =
            _mm512_storeu_si512(to.as_mut_ptr().cast(), from);
        fn splat(x: u64) -> __m512i = _mm512_set1_epi64(x.cast_signed());
        fn add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi64(a, b);
        fn sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi64(a, b);
        fn below(a: __m512i, bound: __m512i) -> __m512i =
            _mm512_min_epu64(a, _mm512_sub_epi64(a, bound));
        fn low(a: __m512i) -> __m512i =
            _mm512_and_si512(a, _mm512_set1_epi64(LOW.cast_signed()));
        fn high(a: __m512i) -> __m512i = _mm512_srli_epi64::<52>(a);
        fn mul_low(sum: __m512i, a: __m512i, b: __m512i) -> __m512i =
            _mm512_madd52lo_epu64(sum, a, b);
        fn mul_high(sum: __m512i, a: __m512i, b: __m512i) -> __m512i =
            _mm512_madd52hi_epu64(sum, a, b);
        fn transpose(r: [__m512i; 8]) -> [__m512i; 8] = {
            // No closures: those would be compiled for processors without the instructions.
            let (r01, s01) = (_mm512_unpacklo_epi64(r[0], r[1]), _mm512_unpackhi_epi64(r[0], r[1]));
            let (r23, s23) = (_mm512_unpacklo_epi64(r[2], r[3]), _mm512_unpackhi_epi64(r[2], r[3]));
            let (r45, s45) = (_mm512_unpacklo_epi64(r[4], r[5]), _mm512_unpackhi_epi64(r[4], r[5]));
            let (r67, s67) = (_mm512_unpacklo_epi64(r[6], r[7]), _mm512_unpackhi_epi64(r[6], r[7]));
            let [a, c, e, g] = quarters([r01, r23, r45, r67]);
            let [b, d, f, h] = quarters([s01, s23, s45, s67]);
            [a, b, c, d, e, f, g, h]
        };
    }
}

/// Lanes of 128 bits, rows for columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(t: [__m512i; 4]) -> [__m512i; 4] {
    /// The even lanes of both, and the odd ones.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    let a = _mm512_shuffle_i64x2::<EVEN>(t[0], t[1]);
    let b = _mm512_shuffle_i64x2::<ODD>(t[0], t[1]);
    let c = _mm512_shuffle_i64x2::<EVEN>(t[2], t[3]);
    let d = _mm512_shuffle_i64x2::<ODD>(t[2], t[3]);
    [
        _mm512_shuffle_i64x2::<EVEN>(a, c),
        _mm512_shuffle_i64x2::<EVEN>(b, d),
        _mm512_shuffle_i64x2::<ODD>(a, c),
        _mm512_shuffle_i64x2::<ODD>(b, d),
    ]
}
