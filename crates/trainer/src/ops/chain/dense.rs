//! Convolutions of one group as matrix products: of pixels where the kernel is a point, of patches otherwise.

use super::flow::{Source, Target};
use super::layout::Layout;
use super::norm::{Moments, Pending};
use crate::ops::map::Unwritten;
use crate::ops::product::{Panels, ROWS, Rows, add_outer, multiply, outer_rows};
use crate::ops::simd::{Block, Kernel, LANES, Lanes};
use std::ops::Range;

/// A convolution with its weights `[out, kernel, kernel, in]`.
#[derive(Debug)]
pub(super) struct Dense {
    layout: Layout,
    forward: Panels,
    backward: Panels,
}

impl Dense {
    pub(super) fn new(layout: Layout, weight: &[f32]) -> Self {
        let (outputs, depth) = (layout.geometry.out_channels, depth(&layout));
        let forward = Panels::pack(depth, outputs, |k, out| weight[out * depth + k]);
        let backward = Panels::pack(outputs, depth, |out, k| weight[out * depth + k]);
        Self { layout, forward, backward }
    }
}

/// Values of a patch.
fn depth(layout: &Layout) -> usize {
    layout.geometry.kernel.pow(2) * layout.geometry.in_channels
}

/// Whether a patch is a pixel.
fn is_direct(layout: &Layout) -> bool {
    let geometry = &layout.geometry;
    (geometry.kernel, geometry.stride, geometry.padding) == (1, 1, 0)
}

/// Output pixels that follow one another: of all images where patches are pixels, else of one.
fn runs(layout: &Layout, images: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let area = layout.out_area();
    let (first, end) = (images.start * area, images.end * area);
    let length = if is_direct(layout) { end - first } else { area }.max(1);
    (first..end).step_by(length).map(move |start| start..start + length)
}

/// Patches of the input, some at a time.
struct Patches<'a> {
    layout: Layout,
    source: Source<'a>,
    rows: Vec<Block>,
    pitch: usize,
    /// The image that the patches are cut from, with a border of zeros, unless patches are pixels.
    padded: Vec<f32>,
    pixel: Vec<Block>,
}

impl<'a> Patches<'a> {
    fn new(layout: Layout, source: Source<'a>) -> Self {
        let pitch = Block::count(depth(&layout));
        let padded = if is_direct(&layout) { 0 } else { layout.padded_values() };
        Self {
            layout,
            source,
            rows: vec![Block::ZERO; ROWS * pitch + 1],
            pitch,
            padded: vec![0.0; padded],
            pixel: vec![Block::ZERO; Block::count(layout.geometry.in_channels)],
        }
    }

    /// To be called at the start of a run.
    #[inline(always)]
    fn begin<V: Lanes>(&mut self, first: usize) {
        if self.padded.is_empty() {
            return;
        }
        let (layout, channels) = (self.layout, self.layout.geometry.in_channels);
        let image = first / layout.out_area();
        for y in 0..layout.height {
            for x in 0..layout.width {
                let pixel = image * layout.area() + y * layout.width + x;
                self.source.pixel::<V>(&mut self.pixel, pixel);
                let to = &mut self.padded[layout.padded_at(y, x)..][..channels];
                to.copy_from_slice(&Block::flat(&self.pixel)[..channels]);
            }
        }
    }

    /// Patches of the output pixels from `first` on.
    #[inline(always)]
    fn fill<V: Lanes>(&mut self, first: usize, count: usize) {
        let Self { layout, pitch, .. } = *self;
        let rows = self.rows[..count * pitch].chunks_exact_mut(pitch).enumerate();
        if self.padded.is_empty() {
            for (row, to) in rows {
                self.source.pixel::<V>(to, first + row);
            }
            return;
        }
        let width = layout.geometry.kernel * layout.geometry.in_channels;
        for (row, to) in rows {
            let window = &self.padded[layout.window_at(first + row)..];
            let lines = Block::flat_mut(to)
                .chunks_exact_mut(width)
                .zip(window.chunks(layout.padded_line()));
            for (to, from) in lines.take(layout.geometry.kernel) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { blocks: &self.rows, pitch: self.pitch }
    }
}

/// The outputs of some images.
pub(super) struct Forward<'a, 'b> {
    pub(super) dense: &'a Dense,
    pub(super) source: Source<'a>,
    pub(super) images: Range<usize>,
    pub(super) output: &'a mut Unwritten<'b, Block>,
    pub(super) moments: Option<&'a mut Moments>,
}

impl Kernel for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let Dense { layout, forward, .. } = self.dense;
        let vectors = forward.vectors();
        let mut patches = Patches::new(*layout, self.source);
        for run in runs(layout, self.images) {
            patches.begin::<V>(run.start);
            for first in run.clone().step_by(ROWS) {
                let count = ROWS.min(run.end - first);
                patches.fill::<V>(first, count);
                let output = self.output.take(count * vectors);
                multiply::<V>(output, patches.rows(), count, forward);
                if let Some(moments) = &mut self.moments {
                    moments.add::<V>(output, vectors);
                }
            }
        }
    }
}

/// Gradients of some images: that of the input goes to the target, that of the weight is returned as sums for [`weight_gradient`].
pub(super) struct Backward<'a, 'b> {
    pub(super) dense: &'a Dense,
    pub(super) source: Source<'a>,
    pub(super) images: Range<usize>,
    pub(super) gradient: Pending<'a>,
    pub(super) target: Target<'a, 'b>,
}

impl Kernel for Backward<'_, '_> {
    type Output = Vec<Block>;

    #[inline(always)]
    fn run<V: Lanes>(mut self) -> Vec<Block> {
        let Dense { layout, backward, .. } = self.dense;
        let sizes = Sizes::of(layout);
        let mut sums = sizes.sums();
        let mut patches = Patches::new(*layout, self.source);
        let mut dz = vec![Block::ZERO; ROWS * sizes.out_vectors + 1];
        let mut products = vec![Block::ZERO; ROWS * backward.vectors()];
        let mut scattered = Scattered::new(*layout);
        let wanted = !matches!(self.target, Target::None);
        for run in runs(layout, self.images) {
            patches.begin::<V>(run.start);
            for first in run.clone().step_by(ROWS) {
                let count = ROWS.min(run.end - first);
                patches.fill::<V>(first, count);
                let rows = &mut dz[..count * sizes.out_vectors];
                for (row, to) in rows.chunks_exact_mut(sizes.out_vectors).enumerate() {
                    self.gradient.pixel::<V>(to, first + row);
                }
                let dz = Rows { blocks: &dz, pitch: sizes.out_vectors };
                sizes.add::<V>(&mut sums, patches.rows(), dz, count);
                if wanted {
                    let products = &mut products[..count * backward.vectors()];
                    multiply::<V>(products, dz, count, backward);
                    if is_direct(layout) {
                        self.target.put::<V>(first, products, backward.vectors());
                        self.target.flush();
                    } else {
                        scattered.add(first, products);
                    }
                }
            }
            if wanted && !is_direct(layout) {
                scattered.put::<V>(run.start, &mut self.target);
            }
        }
        sums
    }
}

/// How the weight's gradient is summed up: the longer side lies along the vectors.
struct Sizes {
    depth: usize,
    outputs: usize,
    depth_vectors: usize,
    out_vectors: usize,
}

impl Sizes {
    fn of(layout: &Layout) -> Self {
        let (depth, outputs) = (depth(layout), layout.geometry.out_channels);
        let (depth_vectors, out_vectors) = (Block::count(depth), Block::count(outputs));
        Self { depth, outputs, depth_vectors, out_vectors }
    }

    fn is_turned(&self) -> bool {
        self.out_vectors > self.depth_vectors
    }

    fn sums(&self) -> Vec<Block> {
        let (rows, vectors) = if self.is_turned() {
            (self.depth, self.out_vectors)
        } else {
            (self.outputs, self.depth_vectors)
        };
        vec![Block::ZERO; outer_rows(rows) * vectors]
    }

    #[inline(always)]
    fn add<V: Lanes>(&self, sums: &mut [Block], patches: Rows<'_>, dz: Rows<'_>, rows: usize) {
        if self.is_turned() {
            add_outer::<V>(sums, patches, dz, (self.depth, self.out_vectors), rows);
        } else {
            add_outer::<V>(sums, dz, patches, (self.outputs, self.depth_vectors), rows);
        }
    }
}

/// The gradient `[out, kernel, kernel, in]` of the weight from the total of all tasks' sums.
pub(super) fn weight_gradient(layout: &Layout, sums: &[Block]) -> Vec<f32> {
    let (sizes, sums) = (Sizes::of(layout), Block::flat(sums));
    let Sizes { depth, outputs, .. } = sizes;
    let mut gradient = vec![0.0; outputs * depth];
    if sizes.is_turned() {
        let pitch = sizes.out_vectors * LANES;
        // A square at a time, so that both sides stay within a few lines of the cache.
        for (first_out, first_k) in (0..outputs)
            .step_by(LANES)
            .flat_map(|out| (0..depth).step_by(LANES).map(move |k| (out, k)))
        {
            for out in first_out..outputs.min(first_out + LANES) {
                for k in first_k..depth.min(first_k + LANES) {
                    gradient[out * depth + k] = sums[k * pitch + out];
                }
            }
        }
    } else {
        let rows = sums.chunks_exact(sizes.depth_vectors * LANES);
        for (to, from) in gradient.chunks_exact_mut(depth).zip(rows) {
            to.copy_from_slice(&from[..depth]);
        }
    }
    gradient
}

/// The gradient of an image, from those of its patches.
struct Scattered {
    layout: Layout,
    padded: Vec<f32>,
    line: Vec<Block>,
}

impl Scattered {
    fn new(layout: Layout) -> Self {
        let (padded, vectors) = (layout.padded_values(), Block::count(layout.geometry.in_channels));
        let (padded, line) =
            if is_direct(&layout) { (0, 0) } else { (padded, layout.width * vectors) };
        Self { layout, padded: vec![0.0; padded], line: vec![Block::ZERO; line] }
    }

    #[inline(always)]
    fn add(&mut self, first: usize, patches: &[Block]) {
        let geometry = &self.layout.geometry;
        let width = geometry.kernel * geometry.in_channels;
        let pitch = Block::count(depth(&self.layout));
        for (row, patch) in patches.chunks_exact(pitch).enumerate() {
            let window = &mut self.padded[self.layout.window_at(first + row)..];
            let lines = window.chunks_mut(self.layout.padded_line());
            let lines = lines.zip(Block::flat(patch).chunks_exact(width));
            for (to, from) in lines.take(geometry.kernel) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }

    /// Hands the image of output pixel `first` on and begins anew.
    #[inline(always)]
    fn put<V: Lanes>(&mut self, first: usize, target: &mut Target<'_, '_>) {
        let (layout, channels) = (self.layout, self.layout.geometry.in_channels);
        let (image, vectors) = (first / layout.out_area(), Block::count(channels));
        for y in 0..layout.height {
            for (x, to) in self.line.chunks_exact_mut(vectors).enumerate() {
                let from = &self.padded[layout.padded_at(y, x)..][..channels];
                Block::flat_mut(to)[..channels].copy_from_slice(from);
            }
            target.put::<V>(image * layout.area() + y * layout.width, &self.line, vectors);
        }
        target.flush();
        self.padded.fill(0.0);
    }
}
