//! One-time truth tables (Ishai, Kushilevitz, Meldgaard, Orlandi, Paskin-Cherniavsky, TCC 2013): a leaf for one round and its own bits
//! each way.
//!
//! For a digit of `m` bits the parties share, bit by bit, the table `T(u, v) = f(u ^ r, v ^ s)` of all `u` and `v`; the server
//! knows `r`, the client `s`. Online they send `u = a ^ r` and `v = b ^ s` and look up their shares of `f(a, b)`.
//!
//! The server begins with `f(u ^ r, v)` in clear, the client with zeros. Then the table's `v` is permuted by one bit of `s` after the other:
//! where bit `i` of `s` is one, its halves change places. With `D` the sum of the halves, `s_i D` is added to both. The client knows
//! `s_i` times its own share of `D`; for the server's share `D0` a transfer with choice `s_i` and pads `p_0, p_1` of half a table serves:
//! the server sends `p_0 ^ p_1 ^ D0` and adds `p_0`, the client adds `p_(s_i)`, plus the message if `s_i` is one.
//!
//! A digit of one bit takes no message: "less" is a product of private bits, which one random transfer gives
//! (`r = p_0 ^ p_1`), and "equal" is local.

use super::leaves::{Run, empty_items, runs};
use super::tree::Item;
use crate::ot::{BLOCK, Code, Ots, TweakedHash};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::ComparisonLayout;
use copriv_ir::cost::streams::TABLE_WINDOW;
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// One party's shares of the tables of one batch of comparisons.
pub(super) struct TruthTables {
    /// `r` or `s` of each comparison, digit beside digit.
    masks: Zeroizing<Vec<u64>>,
    /// For each run all tables, comparison by comparison.
    runs: Vec<Zeroizing<Vec<u16>>>,
}

/// Numbers that make up a table of `width` bits: for each `v` the bits of "less" for all `u`; then the same of "equal".
const fn slices(width: u32) -> usize {
    if width == 1 { 2 } else { 2 << width }
}

impl TruthTables {
    /// Makes the tables of `count` comparisons.
    pub(super) fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        layout: &ComparisonLayout,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        let mut made = Self { masks: Zeroizing::new(vec![0; count]), runs: Vec::new() };
        for run in runs(layout) {
            let mut tables = Zeroizing::new(vec![0; count * run.digits * slices(run.width)]);
            let mut maker =
                Maker { layout, run: &run, masks: &mut made.masks, tables: &mut tables };
            match channel.party() {
                Party::Server => maker.offer(channel, ots, count)?,
                Party::Client => maker.choose(channel, ots, count)?,
            }
            made.runs.push(tables);
        }
        Ok(made)
    }

    /// What hides the party's numbers.
    pub(super) fn masks(&self) -> &[u64] {
        &self.masks
    }

    /// The shares of all leaves, from this party's numbers and the peer's masked ones.
    pub(super) fn look_up(
        &self,
        party: Party,
        layout: &ComparisonLayout,
        (numbers, theirs): (&[u64], &[u8]),
    ) -> Vec<Item> {
        let mut theirs = Unpacker::new(theirs);
        let mut items = empty_items(layout, numbers.len());
        let all_runs = runs(layout);
        for (index, (&number, mask)) in numbers.iter().zip(self.masks.iter()).enumerate() {
            let theirs = theirs.next(layout.bits());
            let (u, v) = match party {
                Party::Server => (number ^ mask, theirs),
                Party::Client => (theirs, number ^ mask),
            };
            for (run, tables) in all_runs.iter().zip(&self.runs) {
                let tables = tables.chunks_exact(slices(run.width)).skip(index * run.digits);
                let leaves = tables.zip(&mut items[run.first..][..run.digits]);
                for (digit, (table, item)) in leaves.enumerate() {
                    let (u, v) = (run.digit(u, digit), run.digit(v, digit) as usize);
                    let bit = |slice: usize| u64::from(table[slice] >> u & 1);
                    item.lt.flip(index, bit(v));
                    if item.eq.is_empty() {
                        continue;
                    }
                    let equal = if run.width == 1 {
                        // The sum of the digits, and one more.
                        u64::from(run.digit(number, digit)) ^ u64::from(party == Party::Server)
                    } else {
                        bit(v | 1 << run.width)
                    };
                    item.eq.flip(index, equal);
                }
            }
        }
        items
    }

    pub(super) fn store(self, layout: &ComparisonLayout, record: &mut RecordWriter) {
        record.numbers(&self.masks, layout.bits());
        for (run, tables) in runs(layout).iter().zip(&self.runs) {
            tables.iter().for_each(|&slice| record.number(slice.into(), 1 << run.width));
        }
    }

    pub(super) fn restore(
        layout: &ComparisonLayout,
        count: usize,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let masks = record.numbers(count, layout.bits())?;
        let tables = runs(layout).into_iter().map(|run| {
            let len = count * run.digits * slices(run.width);
            let slices = record.numbers(len, 1 << run.width)?;
            Ok(Zeroizing::new(slices.iter().map(|&slice| slice as u16).collect()))
        });
        Ok(Self { runs: tables.collect::<Result<_, _>>()?, masks })
    }
}

#[cfg(test)]
impl TruthTables {
    /// What hides numbers, and no tables to look anything up in.
    pub(super) fn masking(masks: Vec<u64>) -> Self {
        Self { masks: Zeroizing::new(masks), runs: Vec::new() }
    }
}

/// A block that waits for the server: its first leaf, its choices and their keys.
type InFlight = (usize, Zeroizing<Vec<u8>>, Zeroizing<Vec<u128>>);

/// The tables of a run being made.
struct Maker<'a> {
    layout: &'a ComparisonLayout,
    run: &'a Run,
    masks: &'a mut [u64],
    tables: &'a mut [u16],
}

impl Maker<'_> {
    /// Transfers: one for each bit of each digit.
    fn transfers(&self, count: usize) -> usize {
        count * self.run.digits * self.run.width as usize
    }

    /// Leaves in a block: all transfers of a leaf are in the same one.
    fn leaves_in_block(&self) -> usize {
        BLOCK / self.run.width as usize
    }

    fn offer(
        &mut self,
        channel: &mut Channel,
        ots: &mut Ots,
        count: usize,
    ) -> Result<(), RuntimeError> {
        let (kind, width) = (self.layout.ot(), self.run.width);
        let hash = TweakedHash::new();
        let leaves = self.transfers(count) / width as usize;
        for first in (0..leaves).step_by(self.leaves_in_block()) {
            let count = self.leaves_in_block().min(leaves - first);
            let Ots { sender, rng, .. } = &mut *ots;
            let block =
                sender.extend_random(channel, kind, Code::OneOf2, count * width as usize)?;
            let keys = block.keys();
            let pads = stretch(&hash, keys.as_flattened(), width);
            let words = pads.len() / keys.as_flattened().len().max(1);
            let mut message = Packer::with_capacity(packed_len(keys.len(), 1 << (2 * width)));
            let places = self.run.leaves_from(first).take(count);
            for (leaf, (index, digit)) in places.enumerate() {
                let table = &mut self.tables[(first + leaf) * slices(width)..][..slices(width)];
                let pads = &pads[leaf * width as usize * 2 * words..];
                let mask = if width == 1 {
                    product_offered(pads, table)
                } else {
                    let mask = rng.next_u64() & ((1 << width) - 1);
                    begin(mask as u32, width, table);
                    for bit in 0..width {
                        let [zero, one] =
                            [0, 1].map(|w| &pads[(2 * bit as usize + w) * words..][..words]);
                        swap_offered(width, bit, table, [zero, one], &mut message);
                    }
                    mask
                };
                self.masks[index] |= mask << (self.run.shift + width * digit as u32);
            }
            channel.answer().send(&message.finish())?;
        }
        Ok(())
    }

    fn choose(
        &mut self,
        channel: &mut Channel,
        ots: &mut Ots,
        count: usize,
    ) -> Result<(), RuntimeError> {
        let (kind, width) = (self.layout.ot(), self.run.width);
        let leaves = self.transfers(count) / width as usize;
        let mut lane = channel.lane();
        let mut in_flight: VecDeque<InFlight> = VecDeque::with_capacity(TABLE_WINDOW);
        for first in (0..leaves).step_by(self.leaves_in_block()) {
            if in_flight.len() == TABLE_WINDOW
                && let Some((first, choices, keys)) = in_flight.pop_front()
            {
                self.take_in(&mut lane, first, &choices, &keys)?;
            }
            let transfers = self.leaves_in_block().min(leaves - first) * width as usize;
            let Ots { receiver, rng, .. } = &mut *ots;
            let (choices, block) =
                receiver.extend_random(&mut lane, kind, Code::OneOf2, (transfers, rng))?;
            let keys = block.keys();
            in_flight.push_back((first, choices, keys));
        }
        in_flight
            .into_iter()
            .try_for_each(|(first, choices, keys)| self.take_in(&mut lane, first, &choices, &keys))
    }

    /// The client's tables of a block, from its choices and their keys.
    fn take_in(
        &mut self,
        channel: &mut Channel,
        first: usize,
        choices: &[u8],
        keys: &[u128],
    ) -> Result<(), RuntimeError> {
        let width = self.run.width;
        let bits = if width == 1 { 0 } else { 1 << (2 * width) };
        let message = channel.recv(packed_len(keys.len(), bits))?;
        let mut message = Unpacker::new(&message);
        let pads = stretch(&TweakedHash::new(), keys, width);
        let words = pads.len() / keys.len().max(1);
        let places = self.run.leaves_from(first);
        let leaves =
            choices.chunks_exact(width as usize).zip(pads.chunks_exact(words * width as usize));
        for ((leaf, (index, digit)), (choices, pads)) in places.enumerate().zip(leaves) {
            let table = &mut self.tables[(first + leaf) * slices(width)..][..slices(width)];
            let mut mask = 0;
            for (bit, &choice) in (0..width).zip(choices) {
                mask |= u64::from(choice) << bit;
                if width == 1 {
                    product_chosen(choice, pads, table);
                } else {
                    let pad = &pads[bit as usize * words..][..words];
                    swap_chosen(width, bit, table, (choice, pad), &mut message);
                }
            }
            self.masks[index] |= mask << (self.run.shift + width * digit as u32);
        }
        Ok(())
    }
}

/// Pads of half a table for each key: the key itself, or two words of it.
fn stretch(hash: &TweakedHash, keys: &[u128], width: u32) -> Zeroizing<Vec<u128>> {
    if width < 4 {
        return Zeroizing::new(keys.to_vec());
    }
    let mut pads = Zeroizing::new(vec![0; 2 * keys.len()]);
    hash.expand(keys, |_| 0, &mut pads);
    pads
}

/// Number `position` of those of `2^width` bits that a pad is made of.
#[inline]
fn piece(pad: &[u128], position: usize, width: u32) -> u16 {
    let bit = position << width;
    let piece = pad[bit / 128] >> (bit % 128);
    piece as u16 & slice_mask(width)
}

#[inline]
const fn slice_mask(width: u32) -> u16 {
    u16::MAX >> (16 - (1 << width))
}

/// `f(u ^ mask, v)` in clear: "less" and "equal".
fn begin(mask: u32, width: u32, table: &mut [u16]) {
    let (less, equal) = table.split_at_mut(1 << width);
    for (v, (less, equal)) in less.iter_mut().zip(equal).enumerate() {
        *less = moved((1_u32 << v) as u16 - 1, mask);
        *equal = 1 << (v as u32 ^ mask);
    }
}

/// Moves bit `u` to `u ^ mask`, in the same time for all masks.
fn moved(mut bits: u16, mask: u32) -> u16 {
    for (bit, low) in [0x5555_u16, 0x3333, 0x0f0f, 0x00ff].into_iter().enumerate() {
        let swapped = bits >> (1 << bit) & low | (bits & low) << (1 << bit);
        bits ^= (bits ^ swapped) & ((mask >> bit & 1) as u16).wrapping_neg();
    }
    bits
}

/// The pairs of slices that change places with bit `bit`.
fn pairs(width: u32, bit: u32) -> impl Iterator<Item = (usize, usize)> {
    (0..slices(width)).filter(move |v| v >> bit & 1 == 0).map(move |v| (v, v | 1 << bit))
}

/// The server's part of a conditional swap: the message, and its new table.
fn swap_offered(
    width: u32,
    bit: u32,
    table: &mut [u16],
    [zero, one]: [&[u128]; 2],
    message: &mut Packer,
) {
    for (position, (low, high)) in pairs(width, bit).enumerate() {
        let [zero, one] = [zero, one].map(|pad| piece(pad, position, width));
        message.push((table[low] ^ table[high] ^ zero ^ one).into(), 1 << width);
        table[low] ^= zero;
        table[high] ^= zero;
    }
}

/// The client's part of a conditional swap.
fn swap_chosen(
    width: u32,
    bit: u32,
    table: &mut [u16],
    (choice, pad): (u8, &[u128]),
    message: &mut Unpacker<'_>,
) {
    let chosen = u16::from(choice).wrapping_neg();
    for (position, (low, high)) in pairs(width, bit).enumerate() {
        let sum = table[low] ^ table[high] ^ message.next(1 << width) as u16;
        let change = piece(pad, position, width) ^ sum & chosen;
        table[low] ^= change;
        table[high] ^= change;
    }
}

/// The server's table of a digit of one bit: `(1 ^ u ^ r)(v ^ s)` less the client's `(1 ^ u) s ^ p_s`. Its `r`.
fn product_offered(pads: &[u128], table: &mut [u16]) -> u64 {
    let [zero, one] = [0, 1].map(|w| pads.get(w).map_or(0, |&pad| pad as u16 & 1));
    let r = zero ^ one;
    // Bit u of slice v.
    table[0] = zero * 3;
    table[1] = (zero * 3) ^ 0b01 ^ (r * 3);
    r.into()
}

/// The client's table of a digit of one bit.
fn product_chosen(choice: u8, pads: &[u128], table: &mut [u16]) {
    let pad = pads.first().map_or(0, |&pad| pad as u16 & 1);
    let share = (pad * 3) ^ u16::from(choice);
    (table[0], table[1]) = (share, share);
}
