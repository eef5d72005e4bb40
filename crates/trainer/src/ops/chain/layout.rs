//! The sizes of a convolution's maps, and where a window of its input lies.

use crate::ops::simd::Block;
use copriv_ir::ConvGeometry;

/// A convolution on maps of a given size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) geometry: ConvGeometry,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl Layout {
    pub(super) fn new(geometry: ConvGeometry, [height, width]: [usize; 2]) -> Self {
        let extent = |side| geometry.output_extent(side);
        Self { geometry, height, width, out_height: extent(height), out_width: extent(width) }
    }

    pub(super) fn area(&self) -> usize {
        self.height * self.width
    }

    pub(super) fn out_area(&self) -> usize {
        self.out_height * self.out_width
    }

    pub(super) fn out_extents(&self) -> [usize; 2] {
        [self.out_height, self.out_width]
    }

    /// Blocks of a pixel of the output.
    pub(super) fn out_vectors(&self) -> usize {
        Block::count(self.geometry.out_channels)
    }

    /// Pixels of a line with its borders.
    fn pitch(&self) -> usize {
        self.width + 2 * self.geometry.padding
    }

    /// Values of an image with borders.
    pub(super) fn padded_values(&self) -> usize {
        (self.height + 2 * self.geometry.padding) * self.pitch() * self.geometry.in_channels
    }

    /// Where a pixel of the input lies in an image with borders.
    #[inline(always)]
    pub(super) fn padded_at(&self, y: usize, x: usize) -> usize {
        let padding = self.geometry.padding;
        ((y + padding) * self.pitch() + x + padding) * self.geometry.in_channels
    }

    /// Values of a line with its borders.
    pub(super) fn padded_line(&self) -> usize {
        self.pitch() * self.geometry.in_channels
    }

    /// Where the window of an output pixel begins in its image with borders.
    #[inline(always)]
    pub(super) fn window_at(&self, pixel: usize) -> usize {
        let pixel = pixel % self.out_area();
        let (y, x) = (pixel / self.out_width, pixel % self.out_width);
        let stride = self.geometry.stride;
        y * stride * self.padded_line() + x * stride * self.geometry.in_channels
    }
}
