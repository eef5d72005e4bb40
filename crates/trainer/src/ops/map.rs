//! Maps in channels-last order: a row of blocks a pixel, its channels padded by zeros.

use super::simd::Block;
use rayon::prelude::*;
use std::mem::{MaybeUninit, take};

/// Values of all pixels of some images.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) blocks: Vec<Block>,
    /// Blocks a pixel.
    pub(super) vectors: usize,
}

impl Map {
    /// The blocks of a pixel.
    #[inline(always)]
    pub(super) fn pixel(&self, pixel: usize) -> &[Block] {
        &self.blocks[pixel * self.vectors..][..self.vectors]
    }
}

/// A list of `len` values written by one task for each `chunk` of them, and what the tasks return, in order.
///
/// `write` is given the number of a task and its part of the list.
pub(super) fn build<T: Copy + Default + Send, R: Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut Unwritten<'_, T>) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let mut values = Vec::with_capacity(len);
    let unwritten: &mut [MaybeUninit<T>] = &mut values.spare_capacity_mut()[..len];
    let task = |(number, values)| {
        let mut unwritten = Unwritten { values };
        let result = write(number, &mut unwritten);
        unwritten.take(unwritten.values.len());
        result
    };
    let results = unwritten.par_chunks_mut(chunk.max(1)).enumerate().map(task).collect();
    // SAFETY: the chunks cover the first `len` values, and each was taken to its end, which fills it.
    unsafe { values.set_len(len) };
    (values, results)
}

/// Memory that is taken bit by bit from the front.
pub(super) struct Unwritten<'a, T> {
    values: &'a mut [MaybeUninit<T>],
}

impl<'a, T: Copy + Default> Unwritten<'a, T> {
    /// The next `count` values, zeros. They are cleared only now, so that they are still in the cache when they are written.
    #[inline(always)]
    pub(super) fn take(&mut self, count: usize) -> &'a mut [T] {
        let (first, rest) = take(&mut self.values).split_at_mut(count);
        self.values = rest;
        first.fill(MaybeUninit::new(T::default()));
        // SAFETY: every value was just written.
        unsafe { first.assume_init_mut() }
    }
}
