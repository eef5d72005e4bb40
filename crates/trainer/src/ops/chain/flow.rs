//! Where a convolution's input comes from, and where the gradient of it goes.

use super::norm::{Norm, Sums};
use crate::ops::map::{Map, Unwritten};
use crate::ops::simd::{Block, Lanes};

/// The input of a convolution.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Values of all pixels, `channels` each.
    Plain { values: &'a [f32], channels: usize },
    /// The output of the convolution before, to go through its batch norm and gate.
    Normed { map: &'a Map, norm: &'a Norm },
}

impl Source<'_> {
    /// The values of one pixel.
    #[inline(always)]
    pub(super) fn pixel<V: Lanes>(&self, to: &mut [Block], pixel: usize) {
        match self {
            Self::Plain { values, channels } => {
                let from = &values[pixel * channels..][..*channels];
                Block::flat_mut(to)[..*channels].copy_from_slice(from);
            }
            Self::Normed { map, norm } => norm.apply::<V>(to, map.pixel(pixel)),
        }
    }
}

/// The gradient of a convolution's input, written from the first pixel to the last.
pub(super) enum Target<'a, 'b> {
    /// Nobody wants it.
    None,
    /// As it is, `channels` a pixel.
    Plain { values: &'a mut Unwritten<'b, f32>, channels: usize },
    /// Brought back through the gate, with the sums that the batch norm's own gradient needs.
    Normed {
        blocks: &'a mut Unwritten<'b, Block>,
        map: &'a Map,
        norm: &'a Norm,
        sums: &'a mut Sums,
    },
}

impl Target<'_, '_> {
    /// Takes the gradients of the pixels from number `first` on.
    #[inline(always)]
    pub(super) fn put<V: Lanes>(&mut self, first: usize, gradients: &[Block], vectors: usize) {
        match self {
            Self::None => {}
            Self::Plain { values, channels } => {
                let count = gradients.len() / vectors;
                let to = values.take(count * *channels);
                let rows = to.chunks_exact_mut(*channels).zip(gradients.chunks_exact(vectors));
                for (to, from) in rows {
                    to.copy_from_slice(&Block::flat(from)[..*channels]);
                }
            }
            Self::Normed { blocks, map, norm, sums } => {
                let to = blocks.take(gradients.len());
                let x = &map.blocks[first * vectors..][..gradients.len()];
                for v in 0..vectors {
                    let mut of_vector = sums.load::<V>(v);
                    let rows = to.chunks_exact_mut(vectors).zip(x.chunks_exact(vectors));
                    for ((to, x), dy) in rows.zip(gradients.chunks_exact(vectors)) {
                        let (x, dy) = (V::load(&x[v]), V::load(&dy[v]));
                        norm.gradient(v, x, dy, &mut of_vector).store(&mut to[v]);
                    }
                    sums.store(v, of_vector);
                }
            }
        }
    }

    /// To be called every few hundred pixels.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        if let Self::Normed { sums, .. } = self {
            sums.flush();
        }
    }
}
