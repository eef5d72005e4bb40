//! Depthwise 3x3 convolutions with padding 1, at any stride.
//!
//! Each plane is copied into a buffer with a border of zeros. There a tap is an offset, and an output or a
//! gradient is a sum over nine slices however short the rows are. Gradients at stride s stand at every s-th
//! place, zeros between them.

use super::host::{HostOp, HostTensor};
use super::vector::vectorised;
use copriv_ir::ConvGeometry;
use rayon::prelude::*;

/// Inputs: x `[batch, channels, height, width]`, weight `[channels, 1, 3, 3]`.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    geometry: ConvGeometry,
}

impl Depthwise {
    /// The operation for a convolution of this geometry, if it is one.
    pub(super) fn of(geometry: &ConvGeometry) -> Option<Self> {
        let fits = geometry.is_depthwise() && (geometry.kernel, geometry.padding) == (3, 1);
        fits.then_some(Self { geometry: *geometry })
    }

    fn layout(&self, x: &HostTensor) -> Layout {
        let (height, width) = (x.shape()[2], x.shape()[3]);
        let extent = |side| self.geometry.output_extent(side);
        Layout {
            height,
            width,
            out_height: extent(height),
            out_width: extent(width),
            stride: self.geometry.stride,
        }
    }
}

impl HostOp<2> for Depthwise {
    type Found = ();

    fn forward(&self, [x, weight]: &[HostTensor; 2]) -> (HostTensor, ()) {
        let layout = self.layout(x);
        let (batch, channels, area) = x.planes();
        let (size, values) = (channels * area, x.values());
        let shape = vec![batch, channels, layout.out_height, layout.out_width];
        let out_area = layout.out_area();
        let output = HostTensor::build(shape, channels * out_area, |image, output| {
            let x = &values[image * size..][..size];
            let planes = output.chunks_exact_mut(out_area).zip(x.chunks_exact(area));
            let (mut padded, mut sums) = (layout.padded(), layout.sums());
            for ((output, x), taps) in planes.zip(weight.values().as_chunks::<9>().0) {
                vectorised(|| {
                    layout.place(&mut padded, x);
                    correlate(&mut sums, &padded, layout.pitch(), taps);
                    layout.pick(output, &sums);
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

/// Planes of this many values together are summed up by one task.
const BLOCK: usize = 1 << 12;

impl Depthwise {
    /// The correlation of the gradient with the kernel turned round.
    fn input_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let layout = self.layout(x);
        let (_, channels, area) = x.planes();
        let out_area = layout.out_area();
        let (size, values) = (channels * out_area, dy.values());
        HostTensor::build(x.shape().to_vec(), channels * area, |image, dx| {
            let dy = &values[image * size..][..size];
            let planes = dx.chunks_exact_mut(area).zip(dy.chunks_exact(out_area));
            let (mut padded, mut sums) = (layout.padded(), layout.sums());
            for ((dx, dy), taps) in planes.zip(weight.values().as_chunks::<9>().0) {
                let mut taps = *taps;
                taps.reverse();
                vectorised(|| {
                    layout.spread(&mut padded, dy);
                    correlate(&mut sums, &padded, layout.pitch(), &taps);
                    layout.pick_all(dx, &sums);
                });
            }
        })
    }

    /// Each channel by one task, so that the order of additions does not depend on the threads; neighbouring
    /// channels by the same one, because they lie side by side.
    fn weight_gradient(&self, x: &HostTensor, weight: &HostTensor, dy: &HostTensor) -> HostTensor {
        let layout = self.layout(x);
        let (batch, channels, area) = x.planes();
        let out_area = layout.out_area();
        let (x, dy) = (x.values(), dy.values());
        let mut gradient = vec![0.0f32; 9 * channels];
        let block = (BLOCK / area.max(1)).clamp(1, 64);
        gradient.par_chunks_mut(9 * block).enumerate().for_each(|(number, gradient)| {
            let first = number * block;
            let mut sums = vec![[[0.0f32; LANES]; 9]; gradient.len() / 9];
            let (mut padded, mut spread) = (layout.padded(), layout.padded());
            for image in 0..batch {
                for (c, sums) in sums.iter_mut().enumerate() {
                    let plane = image * channels + first + c;
                    vectorised(|| {
                        layout.place(&mut padded, &x[plane * area..][..area]);
                        layout.spread(&mut spread, &dy[plane * out_area..][..out_area]);
                        add_products(sums, &padded, &spread, layout.pitch());
                    });
                }
            }
            for (gradient, sums) in gradient.as_chunks_mut::<9>().0.iter_mut().zip(&sums) {
                *gradient =
                    sums.map(|lanes| lanes.iter().map(|&x| f64::from(x)).sum::<f64>() as f32);
            }
        });
        HostTensor::new(gradient, weight.shape().to_vec())
    }
}

/// Sizes of the planes, and where their values stand among zeros.
#[derive(Clone, Copy)]
struct Layout {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    stride: usize,
}

impl Layout {
    fn out_area(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Values from one row to the next.
    fn pitch(&self) -> usize {
        self.width + 2
    }

    /// A plane of zeros with a border.
    fn padded(&self) -> Vec<f32> {
        vec![0.0; (self.height + 2) * self.pitch()]
    }

    /// Room for the sums at all places, two of no use after each row but the last.
    fn sums(&self) -> Vec<f32> {
        vec![0.0; self.height * self.pitch() - 2]
    }

    /// Copies a plane into the middle.
    #[inline(always)]
    fn place(&self, padded: &mut [f32], plane: &[f32]) {
        let rows = padded.chunks_exact_mut(self.pitch()).skip(1);
        for (to, from) in rows.zip(plane.chunks_exact(self.width)) {
            copy(&mut to[1..=self.width], from);
        }
    }

    /// Copies a plane of outputs into the middle, each to where its window is centred.
    #[inline(always)]
    fn spread(&self, padded: &mut [f32], plane: &[f32]) {
        if self.stride == 1 {
            self.place(padded, plane);
            return;
        }
        let rows = padded.chunks_exact_mut(self.pitch()).skip(1).step_by(self.stride);
        for (to, from) in rows.zip(plane.chunks_exact(self.out_width)) {
            for (to, from) in to[1..].iter_mut().step_by(self.stride).zip(from) {
                *to = *from;
            }
        }
    }

    /// The sums of the windows that there are.
    #[inline(always)]
    fn pick(&self, output: &mut [f32], sums: &[f32]) {
        if self.stride == 1 {
            self.pick_all(output, sums);
            return;
        }
        let rows = sums.chunks(self.pitch()).step_by(self.stride);
        for (to, from) in output.chunks_exact_mut(self.out_width).zip(rows) {
            for (to, from) in to.iter_mut().zip(from.iter().step_by(self.stride)) {
                *to = *from;
            }
        }
    }

    #[inline(always)]
    fn pick_all(&self, output: &mut [f32], sums: &[f32]) {
        let rows = sums.chunks(self.pitch());
        for (to, from) in output.chunks_exact_mut(self.width).zip(rows) {
            copy(to, &from[..self.width]);
        }
    }
}

/// In the loop's own instructions: rows are short, and calls are not.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<4>(), from.as_chunks::<4>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = *from);
}

/// `sums[i] = sum_t taps[t] padded[i + offset of t]`.
#[inline(always)]
fn correlate(sums: &mut [f32], padded: &[f32], pitch: usize, taps: &[f32; 9]) {
    let len = sums.len();
    let [a, b, c, d, e, f, g, h, i]: [&[f32]; 9] =
        std::array::from_fn(|t| &padded[t / 3 * pitch + t % 3..][..len]);
    for (n, sum) in sums.iter_mut().enumerate() {
        let top = taps[0] * a[n] + taps[1] * b[n] + taps[2] * c[n];
        let middle = taps[3] * d[n] + taps[4] * e[n] + taps[5] * f[n];
        let bottom = taps[6] * g[n] + taps[7] * h[n] + taps[8] * i[n];
        *sum = top + middle + bottom;
    }
}

/// Partial sums kept side by side, so that the compiler can add them in one instruction.
const LANES: usize = 8;

/// `sums[t] += sum_i padded[i + offset of t] spread[i + offset of the middle]`.
#[inline(always)]
fn add_products(sums: &mut [[f32; LANES]; 9], padded: &[f32], spread: &[f32], pitch: usize) {
    let centred = &spread[pitch + 1..];
    let len = padded.len() - 2 * pitch - 2;
    let (blocks, rest) = centred[..len].as_chunks::<LANES>();
    for (t, sums) in sums.iter_mut().enumerate() {
        let taps = &padded[t / 3 * pitch + t % 3..][..len];
        let (taps, taps_rest) = taps.as_chunks::<LANES>();
        let mut lanes = *sums;
        for (x, dy) in taps.iter().zip(blocks) {
            (0..LANES).for_each(|lane| lanes[lane] += x[lane] * dy[lane]);
        }
        for (lane, (x, dy)) in lanes.iter_mut().zip(taps_rest.iter().zip(rest)) {
            *lane += x * dy;
        }
        *sums = lanes;
    }
}
