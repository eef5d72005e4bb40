//! The direct lowering: unfolding (im2col) and one matrix product for each group.

use super::mat_mul;
use crate::{ConvGeometry, Lowering, Ring, Shape};
use std::ops::Range;

/// The convolution of `x` (NCHW, reduced) with `w` (`[out, in / groups, kernel, kernel]`) in the ring.
///
/// # Panics
/// Where a slice has another length than the geometry and shape say.
#[must_use]
pub fn direct_conv(
    ring: Ring,
    geometry: &ConvGeometry,
    shape: Shape,
    x: &[u64],
    w: &[i64],
) -> Vec<u64> {
    assert_eq!(x.len(), shape.elements(), "input of {geometry}");
    assert_eq!(w.len(), geometry.weight_elements(), "weights of {geometry}");
    if geometry.is_depthwise() {
        return depthwise(ring, geometry, shape, x, w);
    }
    let Some(product) = Lowering::Direct.mat_mul(geometry, shape) else { return vec![] };
    let weights: Vec<u64> = w.iter().map(|&weight| weight.cast_unsigned()).collect();
    mat_mul(ring, product, &weights, &unfold(geometry, shape, x))
}

/// Channel by channel and tap by tap: no unfolding, which would cost more than the products.
fn depthwise(ring: Ring, geometry: &ConvGeometry, shape: Shape, x: &[u64], w: &[i64]) -> Vec<u64> {
    #[cfg(target_arch = "x86_64")]
    if [
        is_x86_feature_detected!("avx512f"),
        is_x86_feature_detected!("avx512dq"),
        is_x86_feature_detected!("avx512vl"),
    ] == [true; 3]
    {
        /// The same, compiled for processors that multiply eight 64-bit numbers at once.
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn wide(ring: Ring, g: &ConvGeometry, shape: Shape, x: &[u64], w: &[i64]) -> Vec<u64> {
            depthwise_portable(ring, g, shape, x, w)
        }
        // SAFETY: the processor has just been found to have these features.
        return unsafe { wide(ring, geometry, shape, x, w) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        /// The same, compiled for processors with 256-bit registers.
        #[target_feature(enable = "avx2")]
        fn narrower(ring: Ring, g: &ConvGeometry, shape: Shape, x: &[u64], w: &[i64]) -> Vec<u64> {
            depthwise_portable(ring, g, shape, x, w)
        }
        // SAFETY: the processor has just been found to have this feature.
        return unsafe { narrower(ring, geometry, shape, x, w) };
    }
    depthwise_portable(ring, geometry, shape, x, w)
}

#[inline(always)]
fn depthwise_portable(
    ring: Ring,
    geometry: &ConvGeometry,
    shape: Shape,
    x: &[u64],
    w: &[i64],
) -> Vec<u64> {
    let output = geometry.output_shape(shape);
    let mut y = vec![0u64; output.elements()];
    let channels = y.chunks_mut(output.area()).zip(x.chunks(shape.area()));
    for ((y, x), w) in channels.zip(w.chunks(geometry.kernel * geometry.kernel)) {
        for (tap, weight) in w.iter().map(|weight| weight.cast_unsigned()).enumerate() {
            for_each_row(geometry, shape, tap, |to, from| {
                if geometry.stride == 1 {
                    // Without the general step this is vectorised.
                    for (y, x) in y[to].iter_mut().zip(&x[from]) {
                        *y = y.wrapping_add(x.wrapping_mul(weight));
                    }
                } else {
                    let from = x[from].iter().step_by(geometry.stride);
                    for (y, x) in y[to].iter_mut().zip(from) {
                        *y = y.wrapping_add(x.wrapping_mul(weight));
                    }
                }
            });
        }
        y.iter_mut().for_each(|value| *value = ring.reduce(*value));
    }
    y
}

/// The inputs under each tap: `groups x (in / groups * kernel^2) x positions`, zero on the padding.
pub(super) fn unfold(geometry: &ConvGeometry, shape: Shape, x: &[u64]) -> Vec<u64> {
    let ConvGeometry { kernel, stride, padding, .. } = *geometry;
    if (kernel, stride, padding) == (1, 1, 0) {
        return x.to_vec();
    }
    let output = geometry.output_shape(shape);
    let taps = kernel * kernel;
    let mut unfolded = vec![0; shape.channels * taps * output.area()];
    let channels = unfolded.chunks_mut(taps * output.area()).zip(x.chunks(shape.area()));
    for (unfolded, x) in channels {
        for (tap, row) in unfolded.chunks_mut(output.area()).enumerate() {
            for_each_row(geometry, shape, tap, |to, from| {
                let from = x[from].iter().step_by(stride);
                row[to].iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            });
        }
    }
    unfolded
}

/// Calls `f` for each output row that tap number `tap` reaches from inside the map, with the outputs
/// and the inputs (to be taken every `stride`) as ranges of one channel's plane.
#[inline(always)]
fn for_each_row(
    geometry: &ConvGeometry,
    shape: Shape,
    tap: usize,
    mut f: impl FnMut(Range<usize>, Range<usize>),
) {
    let output = geometry.output_shape(shape);
    let (u, v) = (tap / geometry.kernel, tap % geometry.kernel);
    let rows = reached(geometry, shape.height, u);
    let columns = reached(geometry, shape.width, v);
    if columns.is_empty() {
        return;
    }
    let first = columns.start * geometry.stride + v - geometry.padding;
    for row in rows {
        let from = (row * geometry.stride + u - geometry.padding) * shape.width;
        let to = row * output.width;
        f(to + columns.start..to + columns.end, from + first..from + shape.width);
    }
}

/// The outputs along a side whose tap `tap` falls inside the map.
fn reached(geometry: &ConvGeometry, extent: usize, tap: usize) -> Range<usize> {
    let ConvGeometry { stride, padding, .. } = *geometry;
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let past = (extent + padding).saturating_sub(tap).div_ceil(stride);
    let past = past.min(geometry.output_extent(extent));
    first..past.max(first)
}
