//! One convolution in clear: fast in floating point, and by its definition in any type of number.

use crate::{ConvGeometry, Shape};
use std::ops::{AddAssign, Mul, Range};

/// Floating-point numbers that convolutions are fast in.
pub(super) trait Real: Copy + Default + AddAssign + Mul<Output = Self> + 'static {
    /// One.
    const ONE: Self;
    /// Integers of an absolute value up to this one are exact.
    const LARGEST_INTEGER: u64;

    /// The nearest number.
    fn from_integer(integer: i64) -> Self;

    /// The integer towards zero.
    fn to_integer(self) -> i64;
}

impl Real for f32 {
    const ONE: Self = 1.0;
    const LARGEST_INTEGER: u64 = 1 << 24;

    #[inline(always)]
    fn from_integer(integer: i64) -> Self {
        integer as Self
    }

    #[inline(always)]
    fn to_integer(self) -> i64 {
        self as i64
    }
}

impl Real for f64 {
    const ONE: Self = 1.0;
    const LARGEST_INTEGER: u64 = 1 << 53;

    #[inline(always)]
    fn from_integer(integer: i64) -> Self {
        integer as Self
    }

    #[inline(always)]
    fn to_integer(self) -> i64 {
        self as i64
    }
}

/// The convolution by its definition: the oracle of every faster one, and of every protocol.
///
/// `input` is one map of shape `shape`, `weight` `[out_channels, in_channels / groups, kernel,
/// kernel]`; the result is the map of shape `geometry.output_shape(shape)`. With `f64` it is exact to
/// rounding; with wrapping integers it is exact in the ring.
///
/// # Panics
/// Where `weight` or `input` is shorter than the shapes say.
#[must_use]
pub fn reference_convolution<T>(
    geometry: &ConvGeometry,
    shape: Shape,
    weight: &[T],
    input: &[T],
) -> Vec<T>
where
    T: Copy + Default + AddAssign + Mul<Output = T>,
{
    let ConvGeometry { kernel, stride, padding, .. } = *geometry;
    let (group_inputs, group_outputs) = group_channels(geometry);
    let output = geometry.output_shape(shape);
    let mut result = Vec::with_capacity(output.elements());
    for out_channel in 0..output.channels {
        let first_channel = out_channel / group_outputs * group_inputs;
        for (row, column) in positions(output) {
            let mut sum = T::default();
            for channel in 0..group_inputs {
                for (i, j) in (0..kernel).flat_map(|i| (0..kernel).map(move |j| (i, j))) {
                    let (y, x) = (row * stride + i, column * stride + j); // in padded coordinates
                    let inside = (padding..padding + shape.height).contains(&y)
                        && (padding..padding + shape.width).contains(&x);
                    if inside {
                        let plane = (first_channel + channel) * shape.area();
                        let value = input[plane + (y - padding) * shape.width + x - padding];
                        let tap = (out_channel * group_inputs + channel) * kernel * kernel;
                        sum += weight[tap + i * kernel + j] * value;
                    }
                }
            }
            result.push(sum);
        }
    }
    result
}

fn positions(shape: Shape) -> impl Iterator<Item = (usize, usize)> {
    (0..shape.height).flat_map(move |row| (0..shape.width).map(move |column| (row, column)))
}

fn group_channels(geometry: &ConvGeometry) -> (usize, usize) {
    (geometry.in_channels / geometry.groups, geometry.out_channels / geometry.groups)
}

/// The same in floating point, fast: depthwise kernels by shifted sums of whole planes, others as the matrix
/// product of the weights with the unfolded input (im2col).
///
/// Integers come out exactly where no sum of absolute products exceeds [`Real::LARGEST_INTEGER`].
pub(super) fn convolve<T: Real>(
    geometry: &ConvGeometry,
    shape: Shape,
    weight: &[T],
    input: &[T],
) -> Vec<T> {
    let output = geometry.output_shape(shape);
    let mut result = vec![T::default(); output.elements()];
    if result.is_empty() {
        return result;
    }
    if geometry.is_depthwise() {
        depthwise(geometry, shape, weight, input, &mut result);
        return result;
    }
    let (group_inputs, group_outputs) = group_channels(geometry);
    let (inner, area) = (geometry.fan_in(), output.area());
    let is_pointwise = (geometry.kernel, geometry.stride, geometry.padding) == (1, 1, 0);
    let groups = input
        .chunks_exact(group_inputs * shape.area())
        .zip(weight.chunks_exact(group_outputs * inner))
        .zip(result.chunks_exact_mut(group_outputs * area));
    for ((input, weight), result) in groups {
        if is_pointwise {
            multiply((weight, group_outputs), (input, area), inner, result);
        } else {
            let unfolded = unfold(geometry, shape, input);
            multiply((weight, group_outputs), (&unfolded, area), inner, result);
        }
    }
    result
}

/// im2col: row (channel, i, j), column (output position); zero where the tap falls outside.
fn unfold<T: Real>(geometry: &ConvGeometry, shape: Shape, input: &[T]) -> Vec<T> {
    let ConvGeometry { kernel, stride, padding, .. } = *geometry;
    let output = geometry.output_shape(shape);
    let mut unfolded = vec![T::default(); geometry.fan_in() * output.area()];
    let mut rows = unfolded.chunks_exact_mut(output.area());
    for plane in input.chunks_exact(shape.area()) {
        for (i, j) in (0..kernel).flat_map(|i| (0..kernel).map(move |j| (i, j))) {
            let Some(row) = rows.next() else { return unfolded };
            let columns = inside(geometry, j, shape.width);
            if columns.is_empty() {
                continue;
            }
            for y in inside(geometry, i, shape.height) {
                let source = &plane[(y * stride + i - padding) * shape.width..][..shape.width];
                let target = &mut row[y * output.width..][columns.clone()];
                let values = source[columns.start * stride + j - padding..].iter().step_by(stride);
                target.iter_mut().zip(values).for_each(|(target, value)| *target = *value);
            }
        }
    }
    unfolded
}

/// The outputs along a side whose tap number `tap` falls inside the map.
fn inside(geometry: &ConvGeometry, tap: usize, extent: usize) -> Range<usize> {
    let ConvGeometry { stride, padding, .. } = *geometry;
    let first = padding.saturating_sub(tap).div_ceil(stride);
    let past = (extent + padding).saturating_sub(tap).div_ceil(stride);
    first..past.min(geometry.output_extent(extent)).max(first)
}

/// Row-major `result (rows x columns) = a (rows x inner) * b (inner x columns)`.
fn multiply<T: Real>(
    (a, rows): (&[T], usize),
    (b, columns): (&[T], usize),
    inner: usize,
    result: &mut [T],
) {
    assert_eq!((a.len(), b.len()), (rows * inner, inner * columns));
    assert_eq!(result.len(), rows * columns);
    let (inner_stride, column_stride) = (inner as isize, columns as isize);
    // SAFETY: the three slices have exactly the sizes that the strides describe, as asserted, and
    // `result` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            result.as_mut_ptr(),
            1,
            column_stride,
            false,
            a.as_ptr(),
            1,
            inner_stride,
            b.as_ptr(),
            1,
            column_stride,
            T::default(),
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Each padded plane is summed over the taps at stride 1 as one flat run, which vectorises whatever
/// the map's width; the run's entries between rows and between strides are then passed over.
fn depthwise<T: Real>(
    geometry: &ConvGeometry,
    shape: Shape,
    weight: &[T],
    input: &[T],
    result: &mut [T],
) {
    let ConvGeometry { kernel, stride, padding, .. } = *geometry;
    let output = geometry.output_shape(shape);
    let width = shape.width + 2 * padding;
    let height = shape.height + 2 * padding;
    let mut padded = vec![T::default(); width * height];
    let mut sums = vec![T::default(); width * (height - kernel) + width - kernel + 1];
    let planes = input
        .chunks_exact(shape.area())
        .zip(weight.chunks_exact(kernel * kernel))
        .zip(result.chunks_exact_mut(output.area()));
    for ((plane, taps), result) in planes {
        let inner_rows = padded.chunks_exact_mut(width).skip(padding);
        for (target, row) in inner_rows.zip(plane.chunks_exact(shape.width)) {
            target[padding..padding + shape.width].copy_from_slice(row);
        }
        sums.fill(T::default());
        for (tap, &weight) in taps.iter().enumerate() {
            let shifted = &padded[tap / kernel * width + tap % kernel..];
            sums.iter_mut().zip(shifted).for_each(|(sum, &value)| *sum += weight * value);
        }
        for (result, sums) in result.chunks_exact_mut(output.width).zip(sums.chunks(stride * width))
        {
            let sums = sums.iter().step_by(stride);
            result.iter_mut().zip(sums).for_each(|(result, sum)| *result = *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    fn geometries() -> impl Strategy<Value = (ConvGeometry, Shape)> {
        (1..4usize, 1..4usize, 1..4usize, 1..6usize, 1..4usize, 1..9usize, 1..9usize).prop_flat_map(
            |(groups, inputs, outputs, kernel, stride, height, width)| {
                (0..kernel).prop_map(move |padding| {
                    let (in_channels, out_channels) = (groups * inputs, groups * outputs);
                    let geometry =
                        ConvGeometry { in_channels, out_channels, kernel, stride, padding, groups };
                    (geometry, Shape::new(in_channels, height, width))
                })
            },
        )
    }

    proptest! {
        #[test]
        fn the_fast_convolution_agrees_with_the_definition(
            (geometry, shape) in geometries(), seed: u64,
        ) {
            prop_assume!(geometry.output_shape(shape).elements() > 0);
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            // Small integers: sums are exact in f32, so the two must agree to the bit.
            let mut draw = |n: usize| -> Vec<f32> {
                (0..n).map(|_| f32::from(rng.random_range(-8i8..=8))).collect()
            };
            let (weight, input) = (draw(geometry.weight_elements()), draw(shape.elements()));
            let expected = reference_convolution(&geometry, shape, &weight, &input);
            let double = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
            let [weight_64, input_64] = [&weight, &input].map(|x| double(x));
            prop_assert_eq!(convolve(&geometry, shape, &weight_64, &input_64), double(&expected));
            prop_assert_eq!(convolve(&geometry, shape, &weight, &input), expected);
        }
    }

    #[test]
    fn the_definition_gives_a_known_result() {
        let geometry = ConvGeometry::same(1, 1, 3, 2);
        let weight = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let input = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let result = reference_convolution(&geometry, Shape::new(1, 3, 3), &weight, &input);
        // Top left: 5*1 + 6*2 + 8*4 + 9*5.
        assert_eq!(result, [94, 106, 106, 94]);
    }
}
