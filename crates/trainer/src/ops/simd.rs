//! Sixteen numbers at a time, in the widest registers of the processor that the program finds itself on.
//!
//! A [`Kernel`] is written once, generic over [`Lanes`], and compiled for AVX-512, AVX2 and plain arrays. Each way does the same
//! operations in the same order; plain arrays round products before they are added where the target has no fused operation.

/// Numbers in a vector.
pub(super) const LANES: usize = 16;

/// A vector in memory, aligned so that it never lies across two lines of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [f32; LANES]);

impl Block {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    /// Vectors that hold so many numbers.
    pub(super) const fn count(numbers: usize) -> usize {
        numbers.div_ceil(LANES)
    }

    /// The numbers and zeros behind them.
    pub(super) fn list(values: &[f32]) -> Vec<Self> {
        let mut blocks = vec![Self::ZERO; Self::count(values.len())];
        for (block, values) in blocks.iter_mut().zip(values.chunks(LANES)) {
            block.0[..values.len()].copy_from_slice(values);
        }
        blocks
    }

    /// The numbers of all of them.
    pub(super) fn flat(blocks: &[Self]) -> &[f32] {
        // SAFETY: `Block` is `repr(C)`, as long as its array (its size is its alignment), so its numbers lie one after another.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), blocks.len() * LANES) }
    }

    /// The numbers of all of them.
    pub(super) fn flat_mut(blocks: &mut [Self]) -> &mut [f32] {
        // SAFETY: as in `flat`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), blocks.len() * LANES) }
    }
}

/// A vector in registers.
///
/// Methods of the processor's own implementations must be inlined into a function that is compiled for its feature, as [`dispatch`]
/// does; every function generic over it is therefore `inline(always)`.
pub(super) trait Lanes: Copy {
    /// Rows of a matrix product's tile, and vectors a row: as many sums as there are registers for.
    const ROWS: usize;
    const VECTORS: usize;

    fn splat(x: f32) -> Self;
    fn load(from: &Block) -> Self;
    fn store(self, to: &mut Block);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Between `low` and `high`.
    fn clamp(self, low: Self, high: Self) -> Self;
    /// Of each place `inside` where `low < self < high`, else `outside`.
    fn choose(self, low: Self, high: Self, inside: Self, outside: Self) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// A computation in vectors of any kind.
pub(super) trait Kernel {
    type Output;

    /// Must be `inline(always)`.
    fn run<V: Lanes>(self) -> Self::Output;
}

/// Runs a kernel in the widest vectors that there are.
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { x86::with_avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::with_avx2(kernel) };
        }
    }
    kernel.run::<Plain>()
}

/// What a kernel returns in vectors of each kind that the processor has, by the kind's name.
#[cfg(test)]
pub(super) fn on_each<K: Kernel + Clone>(kernel: K) -> Vec<(&'static str, K::Output)> {
    let mut results = vec![("plain", kernel.clone().run::<Plain>())];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature that the function is compiled for.
            results.push(("AVX-512", unsafe { x86::with_avx512(kernel.clone()) }));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            results.push(("AVX2", unsafe { x86::with_avx2(kernel) }));
        }
    }
    results
}

/// An array that the compiler may put into whatever registers the target has.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = self;
        result.0.iter_mut().zip(other.0).for_each(|(x, y)| *x = f(*x, y));
        result
    }
}

impl Lanes for Plain {
    const ROWS: usize = 4;
    const VECTORS: usize = 1;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(from: &Block) -> Self {
        Self(from.0)
    }

    #[inline(always)]
    fn store(self, to: &mut Block) {
        to.0 = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |x, y| x + y)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |x, y| x - y)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |x, y| x * y)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Where the processor has none, a fused operation would be a call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            let mut result = self;
            for (x, (y, z)) in result.0.iter_mut().zip(factor.0.iter().zip(addend.0)) {
                *x = x.mul_add(*y, z);
            }
            return result;
        }
        self.mul(factor).add(addend)
    }

    #[inline(always)]
    fn clamp(self, low: Self, high: Self) -> Self {
        self.zip(low, f32::max).zip(high, f32::min)
    }

    #[inline(always)]
    fn choose(self, low: Self, high: Self, inside: Self, outside: Self) -> Self {
        let mut result = outside;
        for (lane, result) in result.0.iter_mut().enumerate() {
            if (self.0[lane] > low.0[lane]) & (self.0[lane] < high.0[lane]) {
                *result = inside.0[lane];
            }
        }
        result
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Kernel, Lanes};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    /// One register of AVX-512. Made in [`with_avx512`] alone, so the processor has the feature.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    // SAFETY of every block: there is a value of this type only within `with_avx512`, which is called where the processor has
    // the feature; loads and stores go through references to whole blocks.
    impl Lanes for Avx512 {
        const ROWS: usize = 8;
        const VECTORS: usize = 3;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(from: &Block) -> Self {
            Self(unsafe { _mm512_load_ps(from.0.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, to: &mut Block) {
            unsafe { _mm512_store_ps(to.0.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }

        #[inline(always)]
        fn clamp(self, low: Self, high: Self) -> Self {
            Self(unsafe { _mm512_min_ps(_mm512_max_ps(self.0, low.0), high.0) })
        }

        #[inline(always)]
        fn choose(self, low: Self, high: Self, inside: Self, outside: Self) -> Self {
            Self(unsafe {
                let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, low.0);
                let within = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, self.0, high.0);
                _mm512_mask_blend_ps(within, outside.0, inside.0)
            })
        }
    }

    /// Two registers of AVX2. Made in [`with_avx2`] alone, so the processor has the features.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2([__m256; 2]);

    impl Avx2 {
        #[inline(always)]
        fn zip(self, other: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
            Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
        }
    }

    // SAFETY of every block: as for `Avx512`, with `with_avx2`.
    impl Lanes for Avx2 {
        const ROWS: usize = 6;
        const VECTORS: usize = 1;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            Self([unsafe { _mm256_set1_ps(x) }; 2])
        }

        #[inline(always)]
        fn load(from: &Block) -> Self {
            let start = from.0.as_ptr();
            Self(unsafe { [_mm256_load_ps(start), _mm256_load_ps(start.add(8))] })
        }

        #[inline(always)]
        fn store(self, to: &mut Block) {
            let start = to.0.as_mut_ptr();
            unsafe {
                _mm256_store_ps(start, self.0[0]);
                _mm256_store_ps(start.add(8), self.0[1]);
            }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            self.zip(other, |x, y| unsafe { _mm256_add_ps(x, y) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            self.zip(other, |x, y| unsafe { _mm256_sub_ps(x, y) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            self.zip(other, |x, y| unsafe { _mm256_mul_ps(x, y) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            let half = |i: usize| unsafe { _mm256_fmadd_ps(self.0[i], factor.0[i], addend.0[i]) };
            Self([half(0), half(1)])
        }

        #[inline(always)]
        fn clamp(self, low: Self, high: Self) -> Self {
            let raised = self.zip(low, |x, y| unsafe { _mm256_max_ps(x, y) });
            raised.zip(high, |x, y| unsafe { _mm256_min_ps(x, y) })
        }

        #[inline(always)]
        fn choose(self, low: Self, high: Self, inside: Self, outside: Self) -> Self {
            let half = |i: usize| unsafe {
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0[i], low.0[i]);
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0[i], high.0[i]);
                _mm256_blendv_ps(outside.0[i], inside.0[i], _mm256_and_ps(above, below))
            };
            Self([half(0), half(1)])
        }
    }
}
