//! An activation of single channels or pixels, each with its own weight.
//!
//! `y = a act(x) + (1 - a) x` with one `a` for each channel or for each value of a map, the same for every image. So
//! `dx = dy (a act'(x) + 1 - a)` and `da` is the sum of `dy (act(x) - x)` over all that `a` weighs.

use super::host::{HostOp, HostTensor};
use super::map::build;
use super::sum::{slope, upper};
use super::vector::vectorised;
use copriv_ir::Activation;

/// Inputs: maps `[batch, channels, height, width]` and weights, `[channels]` or `[channels * height * width]` in that order.
#[derive(Clone, Debug)]
pub(super) struct PartialActivation {
    pub(super) activation: Activation,
}

/// Values that a task sums up over the images.
const CHUNK: usize = 1 << 12;

impl HostOp<2> for PartialActivation {
    type Found = ();

    fn forward(&self, [x, weights]: &[HostTensor; 2]) -> (HostTensor, ()) {
        let upper = upper(self.activation);
        let (weights, input) = (Weights::of(x, weights), x.values());
        let (output, _) = build(input.len(), weights.image(), |number, output| {
            let range = weights.range(number, input.len());
            let (output, input) = (output.take(range.len()), &input[range]);
            vectorised(|| {
                for (output, input) in weights.rows_mut(output).zip(weights.rows(input)) {
                    let places = output.iter_mut().zip(input).zip(&weights.list);
                    places.for_each(|((y, &x), &a)| *y = a * x.max(0.0).min(upper) + (1.0 - a) * x);
                }
            });
        });
        (HostTensor::new(output, x.shape().to_vec()), ())
    }

    fn backward(
        &self,
        [x, weights]: &[HostTensor; 2],
        (): &(),
        gradient: &HostTensor,
        wanted: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        let upper = upper(self.activation);
        let by = Weights::of(x, weights);
        let dx = wanted[0].then(|| by.input_gradient(x, gradient, upper));
        let da = wanted[1].then(|| {
            let list = by.gradient(x.values(), gradient.values(), upper);
            HostTensor::new(list, weights.shape().to_vec())
        });
        [dx, da]
    }
}

/// The weights in the order of a map's values in memory, channels last: those of all channels, or of all values.
struct Weights {
    list: Vec<f32>,
    channels: usize,
    area: usize,
}

impl Weights {
    fn of(x: &HostTensor, weights: &HostTensor) -> Self {
        let (_, [height, width]) = x.extents();
        let channels = x.shape().last().copied().unwrap_or(1);
        let area = height * width;
        let list = weights.values();
        let list =
            if list.len() == channels { list.to_vec() } else { turned(list, channels, area) };
        Self { list, channels, area }
    }

    /// Values of an image.
    fn image(&self) -> usize {
        self.channels * self.area
    }

    /// The values of image `number` of a batch of `len` values.
    fn range(&self, number: usize, len: usize) -> std::ops::Range<usize> {
        let start = number * self.image();
        start..(start + self.image()).min(len)
    }

    /// Rows of values that have a weight each.
    fn rows<'a>(&self, values: &'a [f32]) -> std::slice::Chunks<'a, f32> {
        values.chunks(self.list.len().max(1))
    }

    fn rows_mut<'a>(&self, values: &'a mut [f32]) -> std::slice::ChunksMut<'a, f32> {
        values.chunks_mut(self.list.len().max(1))
    }

    /// `dy (a act'(x) + 1 - a)`.
    fn input_gradient(&self, x: &HostTensor, gradient: &HostTensor, upper: f32) -> HostTensor {
        let (input, dy) = (x.values(), gradient.values());
        let (dx, _) = build(input.len(), self.image(), |number, dx| {
            let range = self.range(number, input.len());
            let (dx, input, dy) = (dx.take(range.len()), &input[range.clone()], &dy[range]);
            vectorised(|| {
                let rows = self.rows_mut(dx).zip(self.rows(input).zip(self.rows(dy)));
                for (dx, (input, dy)) in rows {
                    let places = dx.iter_mut().zip(input.iter().zip(dy)).zip(&self.list);
                    places.for_each(|((dx, (&x, &dy)), &a)| *dx = dy * slope(x, upper, a));
                }
            });
        });
        HostTensor::new(dx, x.shape().to_vec())
    }

    /// The sums of `dy (act(x) - x)`, in the order of the operation's input: over the images in theirs, whatever the threads,
    /// and over the pixels where there is a weight for each channel.
    fn gradient(&self, input: &[f32], dy: &[f32], upper: f32) -> Vec<f32> {
        let image = self.image().max(1);
        let (sums, _) = build(image, CHUNK, |number, sums: &mut super::map::Unwritten<'_, f32>| {
            let start = number * CHUNK;
            let sums = sums.take(CHUNK.min(image - start));
            let range = start..start + sums.len();
            for (input, dy) in input.chunks(image).zip(dy.chunks(image)) {
                let (input, dy) = (&input[range.clone()], &dy[range.clone()]);
                vectorised(|| {
                    let places = sums.iter_mut().zip(input.iter().zip(dy));
                    places.for_each(|(sum, (&x, &dy))| *sum += dy * (x.max(0.0).min(upper) - x));
                });
            }
        });
        if self.list.len() != self.channels {
            return turned(&sums, self.area, self.channels);
        }
        let mut totals = vec![0.0f64; self.channels];
        for pixel in sums.chunks(self.channels.max(1)) {
            totals.iter_mut().zip(pixel).for_each(|(total, &sum)| *total += f64::from(sum));
        }
        totals.into_iter().map(|total| total as f32).collect()
    }
}

/// A matrix of so many rows by columns, columns first.
fn turned(list: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| list[row * columns + column])).collect()
}
