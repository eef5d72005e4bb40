//! A block of transfers as either party knows it: rows, and the pads that are made of them.

use super::hash::{self, TweakRun, TweakedHash};
use std::fmt;
use std::ops::Range;
use zeroize::Zeroizing;

/// A block of transfers as the sender knows them. The pads are derived when asked for.
pub struct SenderBlock<'a> {
    /// At least `count` of them.
    pub(super) rows: &'a mut Zeroizing<Vec<u128>>,
    pub(super) count: usize,
    /// What is added to a row for each option.
    pub(super) offsets: &'a [u128],
    /// Tweak of the first transfer.
    pub(super) first: u128,
    pub(super) hash: &'a TweakedHash,
}

impl SenderBlock<'_> {
    /// Calls `f` with the position of each transfer and its N pads.
    #[inline]
    pub fn for_each(self, f: impl FnMut(usize, &[u128])) {
        match self.offsets.len() {
            2 => self.each::<2>(f),
            4 => self.each::<4>(f),
            8 => self.each::<8>(f),
            _ => self.each::<16>(f),
        }
    }

    /// Both pads of each transfer; for 1-of-2 transfers.
    #[must_use]
    pub fn keys(self) -> Zeroizing<Vec<[u128; 2]>> {
        let mut keys = Zeroizing::new(Vec::with_capacity(self.count));
        if let Some(offsets) = self.offsets.first_chunk::<2>() {
            let rows = self.rows[..self.count].iter();
            keys.extend(rows.map(|row| offsets.map(|offset| row ^ offset)));
        }
        self.hash.hash(keys.as_flattened_mut(), TweakRun { first: self.first, shared: 1 });
        keys
    }

    /// What it takes to make the pads elsewhere, for 1-of-2 transfers. Leaves the room of `spare` to the next block.
    #[must_use]
    pub fn take(self, mut spare: Zeroizing<Vec<u128>>) -> OfferedRows {
        spare.resize(self.rows.len(), 0);
        let rows = std::mem::replace(self.rows, spare);
        let offset = Zeroizing::new(self.offsets.get(1).copied().unwrap_or_default());
        OfferedRows { rows, count: self.count, offset, first: self.first, hash: self.hash.clone() }
    }

    #[inline]
    fn each<const OPTIONS: usize>(self, mut f: impl FnMut(usize, &[u128])) {
        let Some(offsets) = self.offsets.first_chunk::<OPTIONS>() else { return };
        let mut pads = Zeroizing::new([0; hash::BATCH]);
        let mut position = 0;
        for rows in self.rows[..self.count].chunks(hash::BATCH / OPTIONS) {
            let pads = &mut pads[..rows.len() * OPTIONS];
            for (pads, row) in pads.as_chunks_mut::<OPTIONS>().0.iter_mut().zip(rows) {
                *pads = offsets.map(|offset| row ^ offset);
            }
            let first = self.first + position as u128;
            self.hash.hash(pads, TweakRun { first, shared: OPTIONS.trailing_zeros() });
            for pads in pads.as_chunks::<OPTIONS>().0 {
                f(position, pads);
                position += 1;
            }
        }
    }
}

/// A block of 1-of-2 transfers of which the sender has still to make the pads.
pub struct OfferedRows {
    rows: Zeroizing<Vec<u128>>,
    count: usize,
    offset: Zeroizing<u128>,
    first: u128,
    hash: TweakedHash,
}

impl OfferedRows {
    /// How many transfers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first and the second pad of some transfers.
    ///
    /// # Panics
    /// If there are no such transfers, or more or fewer than there is room for.
    pub fn pads(&self, transfers: Range<usize>, [zero, one]: [&mut [u128]; 2]) {
        let first = self.first + transfers.start as u128;
        let rows = &self.rows[..self.count][transfers];
        self.hash.hash_pairs((rows, *self.offset), first, [zero, one]);
    }

    /// The pads of all transfers, in pairs.
    pub fn keys_to(&self, keys: &mut Zeroizing<Vec<[u128; 2]>>) {
        keys.clear();
        keys.extend(self.rows[..self.count].iter().map(|&row| [row, row ^ *self.offset]));
        self.hash.hash(keys.as_flattened_mut(), TweakRun { first: self.first, shared: 1 });
    }

    /// Room for other rows.
    #[must_use]
    pub fn into_spare(self) -> Zeroizing<Vec<u128>> {
        self.rows
    }
}

/// A block of transfers as the receiver knows them.
pub struct ReceiverBlock<'a> {
    pub(super) pads: &'a [u128],
}

impl ReceiverBlock<'_> {
    /// The chosen pad of each transfer.
    #[must_use]
    pub fn pads(&self) -> &[u128] {
        self.pads
    }

    /// The chosen pad of each transfer, to keep.
    #[must_use]
    pub fn keys(self) -> Zeroizing<Vec<u128>> {
        Zeroizing::new(self.pads.to_vec())
    }
}

impl fmt::Debug for OfferedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferedRows").field("count", &self.count).finish_non_exhaustive()
    }
}
