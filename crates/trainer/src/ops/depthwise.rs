//! Depthwise 3x3 convolutions with padding 1, at any stride.

use super::host::{HostOp, HostTensor};
use super::vector::vectorised;
use copriv_ir::ConvGeometry;
use rayon::prelude::*;

/// Inputs: x `[batch, channels, height, width]`, weight `[channels, 1, 3, 3]`.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    geometry: ConvGeometry,
}

/// Height and width.
type Size = (usize, usize);

impl Depthwise {
    /// The operation for a convolution of this geometry, if it is one.
    pub(super) fn of(geometry: &ConvGeometry) -> Option<Self> {
        let fits = geometry.is_depthwise() && (geometry.kernel, geometry.padding) == (3, 1);
        fits.then_some(Self { geometry: *geometry })
    }

    fn sizes(&self, x: &HostTensor) -> (Size, Size) {
        let (height, width) = (x.shape()[2], x.shape()[3]);
        let extent = |side| self.geometry.output_extent(side);
        ((height, width), (extent(height), extent(width)))
    }
}

impl HostOp<2> for Depthwise {
    type Found = ();

    fn forward(&self, [x, weight]: &[HostTensor; 2]) -> (HostTensor, ()) {
        let ((height, width), (out_height, out_width)) = self.sizes(x);
        let (batch, channels, area) = x.planes();
        let (out_area, stride) = (out_height * out_width, self.geometry.stride);
        let (size, values) = (channels * area, x.values());
        let shape = vec![batch, channels, out_height, out_width];
        let output = HostTensor::build(shape, channels * out_area, |image, output| {
            let x = &values[image * size..][..size];
            let planes = output.chunks_exact_mut(out_area).zip(x.chunks_exact(area));
            for ((output, x), kernel) in planes.zip(weight.values().as_chunks::<9>().0) {
                vectorised(|| {
                    for_row_pairs(stride, height, out_height, |row, out_row, tap| {
                        let output = line_mut(output, out_row, out_width);
                        correlate(output, line(x, row, width), taps(kernel, tap), stride);
                    });
                });
            }
        });
        (output, ())
    }

    fn backward(
        &self,
        [x, weight]: &[HostTensor; 2],
        (): &(),
        gradient: &HostTensor,
        wanted: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        [
            wanted[0].then(|| self.input_gradient(x, weight, gradient)),
            wanted[1].then(|| self.weight_gradient(x, weight, gradient)),
        ]
    }
}

impl Depthwise {
    fn input_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let ((height, width), (out_height, out_width)) = self.sizes(x);
        let (_, channels, area) = x.planes();
        let (out_area, stride) = (out_height * out_width, self.geometry.stride);
        let (size, values) = (channels * out_area, dy.values());
        HostTensor::build(x.shape().to_vec(), channels * area, |image, dx| {
            let dy = &values[image * size..][..size];
            let planes = dx.chunks_exact_mut(area).zip(dy.chunks_exact(out_area));
            for ((dx, dy), kernel) in planes.zip(weight.values().as_chunks::<9>().0) {
                vectorised(|| {
                    for_row_pairs(stride, height, out_height, |row, out_row, tap| {
                        let dy = line(dy, out_row, out_width);
                        spread(line_mut(dx, row, width), dy, taps(kernel, tap), stride);
                    });
                });
            }
        })
    }

    /// Each channel by one task, so that the order of additions does not depend on the threads.
    fn weight_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let ((height, width), (out_height, out_width)) = self.sizes(x);
        let (batch, channels, area) = x.planes();
        let (out_area, stride) = (out_height * out_width, self.geometry.stride);
        let (x, dy) = (x.values(), dy.values());
        let channel = |c: usize| {
            let mut sums = [0.0f64; 9];
            for image in 0..batch {
                let plane = image * channels + c;
                let (x, dy) = (&x[plane * area..][..area], &dy[plane * out_area..][..out_area]);
                vectorised(|| {
                    for_row_pairs(stride, height, out_height, |row, out_row, tap| {
                        let found =
                            products(line(x, row, width), line(dy, out_row, out_width), stride);
                        for (sum, found) in sums[3 * tap..3 * tap + 3].iter_mut().zip(found) {
                            *sum += f64::from(found);
                        }
                    });
                });
            }
            sums.map(|sum| sum as f32)
        };
        let sums: Vec<[f32; 9]> = (0..channels).into_par_iter().map(channel).collect();
        HostTensor::new(sums.concat(), weight.shape().to_vec())
    }
}

/// Calls `f(row, output row, kernel row)` wherever a kernel's row falls on a row of the map.
#[inline(always)]
fn for_row_pairs(
    stride: usize,
    height: usize,
    out_height: usize,
    mut f: impl FnMut(usize, usize, usize),
) {
    for out_row in 0..out_height {
        for tap in 0..3 {
            if let Some(row) = (out_row * stride + tap).checked_sub(1).filter(|&row| row < height) {
                f(row, out_row, tap);
            }
        }
    }
}

#[inline(always)]
fn line(plane: &[f32], row: usize, width: usize) -> &[f32] {
    &plane[row * width..(row + 1) * width]
}

#[inline(always)]
fn line_mut(plane: &mut [f32], row: usize, width: usize) -> &mut [f32] {
    &mut plane[row * width..(row + 1) * width]
}

#[inline(always)]
fn taps(kernel: &[f32; 9], row: usize) -> [f32; 3] {
    [kernel[3 * row], kernel[3 * row + 1], kernel[3 * row + 2]]
}

/// `y[i] += sum_t taps[t] x[i stride + t - 1]`, zero outside.
#[inline(always)]
fn correlate(y: &mut [f32], x: &[f32], taps: [f32; 3], stride: usize) {
    let [left, middle, right] = taps;
    if stride != 1 || x.len() < 2 {
        for (i, y) in y.iter_mut().enumerate() {
            let at =
                |t: usize| (i * stride + t).checked_sub(1).and_then(|i| x.get(i)).unwrap_or(&0.0);
            *y += left * at(0) + middle * at(1) + right * at(2);
        }
        return;
    }
    let last = y.len() - 1;
    y[0] += middle * x[0] + right * x[1];
    y[last] += left * x[last - 1] + middle * x[last];
    let (before, after) = (&x[..last - 1], &x[2..]);
    for (((y, a), b), c) in y[1..last].iter_mut().zip(before).zip(&x[1..last]).zip(after) {
        *y += left * a + middle * b + right * c;
    }
}

/// `dx[i stride + t - 1] += taps[t] dy[i]`: the transpose of [`correlate`].
#[inline(always)]
fn spread(dx: &mut [f32], dy: &[f32], taps: [f32; 3], stride: usize) {
    let [left, middle, right] = taps;
    if stride == 1 {
        correlate(dx, dy, [right, middle, left], 1);
        return;
    }
    for (i, dy) in dy.iter().enumerate() {
        for (t, tap) in taps.into_iter().enumerate() {
            if let Some(dx) = (i * stride + t).checked_sub(1).and_then(|i| dx.get_mut(i)) {
                *dx += tap * dy;
            }
        }
    }
}

/// `sum_i x[i stride + t - 1] dy[i]` for the three taps t.
#[inline(always)]
fn products(x: &[f32], dy: &[f32], stride: usize) -> [f32; 3] {
    if stride == 1 && x.len() > 1 {
        let last = x.len() - 1;
        return [dot(&x[..last], &dy[1..]), dot(x, dy), dot(&x[1..], &dy[..last])];
    }
    let mut sums = [0.0; 3];
    for (i, dy) in dy.iter().enumerate() {
        for (t, sum) in sums.iter_mut().enumerate() {
            *sum += (i * stride + t).checked_sub(1).and_then(|i| x.get(i)).unwrap_or(&0.0) * dy;
        }
    }
    sums
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        (0..8).for_each(|lane| lanes[lane] += a[lane] * b[lane]);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
