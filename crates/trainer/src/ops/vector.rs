//! Loops compiled for the vectors of the processor they run on.

/// Runs `f`, with AVX2 where the processor has it.
///
/// The compiler inlines the closure and vectorises its loops for the wider registers. No operation is
/// contracted or reordered, so the results are the same everywhere.
#[inline]
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { wide(f) };
        }
    }
    f()
}
