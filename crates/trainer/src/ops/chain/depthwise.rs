//! Depthwise 3x3 convolutions with padding 1, at any stride: three lines of the input at a time.
//!
//! Gradients at stride s stand at every s-th place of lines of the input's size, zeros between them. Then the gradient of the input
//! is the correlation with the kernel turned round, and that of the weight comes from the same windows.

use super::flow::{Source, Target};
use super::layout::Layout;
use super::norm::{Moments, Pending};
use crate::ops::map::Unwritten;
use crate::ops::simd::{Block, Kernel, LANES, Lanes};
use std::ops::Range;

/// A convolution with its weights, a row of blocks a tap.
#[derive(Debug)]
pub(super) struct Depthwise {
    layout: Layout,
    vectors: usize,
    taps: Vec<Block>,
}

/// Taps of the kernel.
const TAPS: usize = 9;

impl Depthwise {
    /// `weight` is `[channels, 3, 3]`.
    pub(super) fn new(layout: Layout, weight: &[f32]) -> Self {
        let vectors = Block::count(layout.geometry.in_channels);
        let mut taps = vec![Block::ZERO; TAPS * vectors];
        let flat = Block::flat_mut(&mut taps);
        for (channel, weights) in weight.chunks_exact(TAPS).enumerate() {
            for (tap, weight) in weights.iter().enumerate() {
                flat[tap * vectors * LANES + channel] = *weight;
            }
        }
        Self { layout, vectors, taps }
    }
}

/// Three neighbouring lines with a border of zeros, replaced in turn.
struct Lines {
    vectors: usize,
    lines: [Vec<Block>; 3],
    zeros: Vec<Block>,
    height: usize,
}

impl Lines {
    fn new(layout: &Layout, vectors: usize) -> Self {
        let line = vec![Block::ZERO; (layout.width + 2) * vectors];
        let lines = [line.clone(), line.clone(), line.clone()];
        Self { vectors, lines, zeros: line, height: layout.height }
    }

    /// The pixels of line `y`, to be written.
    #[inline(always)]
    fn line(&mut self, y: usize) -> std::slice::ChunksExactMut<'_, Block> {
        let vectors = self.vectors;
        let line = &mut self.lines[y % 3];
        let end = line.len() - vectors;
        line[vectors..end].chunks_exact_mut(vectors)
    }

    /// Line `y` and those beside it, with the borders.
    #[inline(always)]
    fn window(&self, y: usize) -> [&[Block]; 3] {
        let line = |y: usize| {
            // Line 0 is the border above.
            let inside = (1..=self.height).contains(&y);
            if inside { self.lines[(y - 1) % 3].as_slice() } else { self.zeros.as_slice() }
        };
        [line(y), line(y + 1), line(y + 2)]
    }
}

/// Pixels whose moments are summed up together, at least.
const GROUP: usize = 64;

/// The outputs of some images.
pub(super) struct Forward<'a, 'b> {
    pub(super) depthwise: &'a Depthwise,
    pub(super) source: Source<'a>,
    pub(super) images: Range<usize>,
    pub(super) output: &'a mut Unwritten<'b, Block>,
    pub(super) moments: Option<&'a mut Moments>,
}

impl Kernel for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let Depthwise { layout, vectors, ref taps } = *self.depthwise;
        let (stride, line) = (layout.geometry.stride, layout.out_width * vectors);
        let mut lines = Lines::new(&layout, vectors);
        let group = GROUP.div_ceil(layout.out_width.max(1));
        for image in self.images {
            let mut next = 0;
            for first in (0..layout.out_height).step_by(group) {
                let count = group.min(layout.out_height - first);
                let output = self.output.take(count * line);
                for (y, output) in output.chunks_exact_mut(line).enumerate() {
                    let centre = (first + y) * stride;
                    while next < layout.height.min(centre + 2) {
                        let pixel = image * layout.area() + next * layout.width;
                        for (x, to) in lines.line(next).enumerate() {
                            self.source.pixel::<V>(to, pixel + x);
                        }
                        next += 1;
                    }
                    correlate::<V>(output, lines.window(centre), taps, vectors, stride);
                }
                if let Some(moments) = &mut self.moments {
                    moments.add::<V>(output, vectors);
                }
            }
        }
    }
}

/// A line of outputs.
#[inline(always)]
fn correlate<V: Lanes>(
    output: &mut [Block],
    window: [&[Block]; 3],
    taps: &[Block],
    vectors: usize,
    stride: usize,
) {
    for v in 0..vectors {
        let mut weights = [V::zero(); TAPS];
        for (tap, weight) in weights.iter_mut().enumerate() {
            *weight = V::load(&taps[tap * vectors + v]);
        }
        let [mut left, mut middle] = [column::<V>(window, v), column::<V>(window, vectors + v)];
        for (x, output) in output.chunks_exact_mut(vectors).enumerate() {
            let at = (x * stride + 2) * vectors + v;
            if stride > 1 {
                left = column::<V>(window, at - 2 * vectors);
                middle = column::<V>(window, at - vectors);
            }
            let right = column::<V>(window, at);
            let mut sum = V::zero();
            for y in 0..3 {
                sum = left[y].mul_add(weights[3 * y], sum);
                sum = middle[y].mul_add(weights[3 * y + 1], sum);
                sum = right[y].mul_add(weights[3 * y + 2], sum);
            }
            sum.store(&mut output[v]);
            (left, middle) = (middle, right);
        }
    }
}

#[inline(always)]
fn column<V: Lanes>(window: [&[Block]; 3], at: usize) -> [V; 3] {
    [V::load(&window[0][at]), V::load(&window[1][at]), V::load(&window[2][at])]
}

/// Gradients of some images: that of the input goes to the target, that of the weight is returned as sums for [`weight_gradient`].
pub(super) struct Backward<'a, 'b> {
    pub(super) depthwise: &'a Depthwise,
    pub(super) source: Source<'a>,
    pub(super) images: Range<usize>,
    pub(super) gradient: Pending<'a>,
    pub(super) target: Target<'a, 'b>,
}

impl Kernel for Backward<'_, '_> {
    type Output = Vec<Block>;

    #[inline(always)]
    fn run<V: Lanes>(mut self) -> Vec<Block> {
        let Depthwise { layout, vectors, ref taps } = *self.depthwise;
        let line = vec![Block::ZERO; layout.width * vectors];
        let (mut inputs, mut products) = (line.clone(), line);
        let mut sums = vec![Block::ZERO; TAPS * vectors];
        let mut lines = Lines::new(&layout, vectors);
        for image in self.images {
            for y in 0..layout.height {
                let first = if y == 0 { 0 } else { y + 1 };
                for next in first..layout.height.min(y + 2) {
                    spread::<V>(&mut lines, &self.gradient, &layout, image, next);
                }
                let pixel = image * layout.area() + y * layout.width;
                for (x, to) in inputs.chunks_exact_mut(vectors).enumerate() {
                    self.source.pixel::<V>(to, pixel + x);
                }
                derive::<V>(&mut products, &inputs, lines.window(y), taps, &mut sums, vectors);
                self.target.put::<V>(pixel, &products, vectors);
            }
            self.target.flush();
        }
        sums
    }
}

/// Line `y` of the gradients, each at the pixel where its window is centred.
#[inline(always)]
fn spread<V: Lanes>(
    lines: &mut Lines,
    gradient: &Pending<'_>,
    layout: &Layout,
    image: usize,
    y: usize,
) {
    let stride = layout.geometry.stride;
    let to = lines.line(y);
    if !y.is_multiple_of(stride) {
        to.for_each(|to| to.fill(Block::ZERO));
        return;
    }
    let first = image * layout.out_area() + y / stride * layout.out_width;
    for (x, to) in to.step_by(stride).enumerate() {
        gradient.pixel::<V>(to, first + x);
    }
}

/// A line of the input's gradient from the windows of the output's, and their products with the input added to the sums.
#[inline(always)]
fn derive<V: Lanes>(
    products: &mut [Block],
    inputs: &[Block],
    window: [&[Block]; 3],
    taps: &[Block],
    sums: &mut [Block],
    vectors: usize,
) {
    for v in 0..vectors {
        let (mut weights, mut totals) = ([V::zero(); TAPS], [V::zero(); TAPS]);
        for tap in 0..TAPS {
            weights[tap] = V::load(&taps[tap * vectors + v]);
            totals[tap] = V::load(&sums[tap * vectors + v]);
        }
        let [mut left, mut middle] = [column::<V>(window, v), column::<V>(window, vectors + v)];
        let pixels = products.chunks_exact_mut(vectors).zip(inputs.chunks_exact(vectors));
        for (x, (product, input)) in pixels.enumerate() {
            let right = column::<V>(window, (x + 2) * vectors + v);
            let input = V::load(&input[v]);
            let mut sum = V::zero();
            for y in 0..3 {
                for (x, dy) in [left[y], middle[y], right[y]].into_iter().enumerate() {
                    // The kernel turned round.
                    let tap = TAPS - 1 - (3 * y + x);
                    sum = dy.mul_add(weights[tap], sum);
                    totals[tap] = dy.mul_add(input, totals[tap]);
                }
            }
            sum.store(&mut product[v]);
            (left, middle) = (middle, right);
        }
        for (tap, total) in totals.into_iter().enumerate() {
            total.store(&mut sums[tap * vectors + v]);
        }
    }
}

/// The gradient `[channels, 3, 3]` of the weight from the total of all tasks' sums.
pub(super) fn weight_gradient(layout: &Layout, sums: &[Block]) -> Vec<f32> {
    let channels = layout.geometry.in_channels;
    let (pitch, sums) = (Block::count(channels) * LANES, Block::flat(sums));
    (0..channels).flat_map(|c| (0..TAPS).map(move |tap| sums[tap * pitch + c])).collect()
}
