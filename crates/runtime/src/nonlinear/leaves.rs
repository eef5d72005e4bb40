//! The leaves of a comparison's tree: shares of what each digit says.

use super::tree::Item;
use super::truth_table::TruthTables;
use crate::ot::{BLOCK, Code, Ots};
use crate::packing::{Packer, Unpacker, pack, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::ComparisonLayout;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// One party's part of what the leaves of one batch of comparisons take.
pub(super) enum Leaves {
    /// The server's end of a transfer for each leaf. For each run of digits of equal width the pads of all leaves,
    /// comparison by comparison: entry `j` of a leaf stands `entry_bits * j` bits up.
    Offered { pads: Vec<Zeroizing<Vec<u32>>> },
    /// The client's end: the random choices of each comparison, as a number of digits, and the pads that they gave.
    Chosen { choices: Zeroizing<Vec<u64>>, pads: Vec<Zeroizing<Vec<u8>>> },
    /// Either party's end of one-time truth tables.
    Tables(TruthTables),
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}

/// The digits of a run: width, first bit, index of the first, number of digits.
pub(super) struct Run {
    pub width: u32,
    pub shift: u32,
    pub first: usize,
    pub digits: usize,
}

pub(super) fn runs(layout: &ComparisonLayout) -> Vec<Run> {
    let (mut shift, mut first) = (0, 0);
    let place = |(width, digits)| {
        let run = Run { width, shift, first, digits };
        shift += width * digits as u32;
        first += digits;
        run
    };
    layout.runs().into_iter().map(place).collect()
}

impl Run {
    /// The code of its leaf transfers.
    fn code(&self) -> Code {
        Code::of_bits(self.width).expect("digits of a layout have 1 to 4 bits")
    }

    /// Digit number `digit` of the run in `number`.
    #[inline]
    pub(super) fn digit(&self, number: u64, digit: usize) -> u32 {
        let shift = self.shift + self.width * digit as u32;
        (number >> shift) as u32 & ((1 << self.width) - 1)
    }

    /// Bits of a leaf table's entries.
    #[inline]
    fn entry_bits(&self, digit: usize) -> u32 {
        ComparisonLayout::entry_bits(self.first + digit, self.width)
    }

    /// The comparison and digit of each of its leaves, from leaf number `leaf` on.
    pub(super) fn leaves_from(&self, leaf: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let digits = self.digits;
        let (mut comparison, mut digit) = (leaf / digits, leaf % digits);
        std::iter::repeat_with(move || {
            let place = (comparison, digit);
            digit += 1;
            if digit == digits {
                (comparison, digit) = (comparison + 1, 0);
            }
            place
        })
    }
}

impl Leaves {
    /// Prepares the leaves of `count` comparisons: random transfers, one a leaf, or truth tables.
    pub(super) fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        layout: &ComparisonLayout,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        match channel.party() {
            _ if layout.tables() => {
                TruthTables::prepare(channel, ots, layout, count).map(Self::Tables)
            }
            Party::Server => server_leaves(channel, ots, layout, count),
            Party::Client => client_leaves(channel, ots, layout, count),
        }
    }

    /// Sends and receives what waits for nothing: the client's corrections, or both parties' masked digits. The peer's
    /// part of it.
    pub(super) fn open(
        &self,
        channel: &mut Channel,
        layout: &ComparisonLayout,
        numbers: &[u64],
    ) -> Result<Vec<u8>, RuntimeError> {
        let len = packed_len(numbers.len(), layout.bits());
        let masked = |masks: &[u64]| {
            pack(numbers.iter().zip(masks).map(|(number, mask)| number ^ mask), layout.bits())
        };
        match self {
            Self::Offered { .. } => channel.recv(len),
            Self::Chosen { choices, .. } => {
                channel.send(&masked(choices))?;
                Ok(Vec::new())
            }
            Self::Tables(tables) => {
                let mut theirs = vec![0; len];
                channel.exchange(&masked(tables.masks()), &mut theirs)?;
                Ok(theirs)
            }
        }
    }

    /// Answers the peer's part where that is due, or waits for its answer; the shares of all leaves.
    pub(super) fn close(
        self,
        channel: &mut Channel,
        layout: &ComparisonLayout,
        numbers: &[u64],
        theirs: &[u8],
    ) -> Result<Vec<Item>, RuntimeError> {
        match self {
            Self::Offered { pads } => offer_leaves(channel, layout, &pads, (numbers, theirs)),
            Self::Chosen { pads, .. } => take_leaves(channel, layout, &pads, numbers),
            Self::Tables(tables) => Ok(tables.look_up(channel.party(), layout, (numbers, theirs))),
        }
    }

    pub(super) fn store(self, layout: &ComparisonLayout, count: usize, record: &mut RecordWriter) {
        match self {
            Self::Offered { pads } => for_each_leaf(layout, count, |run, index, leaf, bits| {
                record.number(pads[index][leaf].into(), bits << run.width);
            }),
            Self::Chosen { choices, pads } => {
                record.numbers(&choices, layout.bits());
                for_each_leaf(layout, count, |_, index, leaf, bits| {
                    record.number(pads[index][leaf].into(), bits);
                });
            }
            Self::Tables(tables) => tables.store(layout, record),
        }
    }

    pub(super) fn restore(
        layout: &ComparisonLayout,
        count: usize,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        if layout.tables() {
            return TruthTables::restore(layout, count, record).map(Self::Tables);
        }
        Ok(match record.party() {
            Party::Server => {
                let bits = |run: &Run, bits| bits << run.width;
                Self::Offered { pads: restore_pads(layout, count, record, bits, |pad| pad as u32)? }
            }
            Party::Client => Self::Chosen {
                choices: record.numbers(count, layout.bits())?,
                pads: restore_pads(layout, count, record, |_, bits| bits, |pad| pad as u8)?,
            },
        })
    }
}

/// Calls `f` with each leaf's run, the run's number, the leaf's number in it, and the bits of an entry, in the order in
/// which leaves were made.
fn for_each_leaf(
    layout: &ComparisonLayout,
    count: usize,
    mut f: impl FnMut(&Run, usize, usize, u32),
) {
    for (index, run) in runs(layout).iter().enumerate() {
        let places = run.leaves_from(0).take(count * run.digits);
        places
            .enumerate()
            .for_each(|(leaf, (_, digit))| f(run, index, leaf, run.entry_bits(digit)));
    }
}

/// The pads of all leaves; `width` is that of one, from its run and the bits of an entry.
fn restore_pads<T: Zeroize>(
    layout: &ComparisonLayout,
    count: usize,
    record: &mut RecordReader<'_>,
    width: impl Fn(&Run, u32) -> u32,
    narrow: impl Fn(u64) -> T,
) -> Result<Vec<Zeroizing<Vec<T>>>, RecordTooShort> {
    let pads = runs(layout).into_iter().map(|run| {
        let leaves = count * run.digits;
        let mut pads = Zeroizing::new(Vec::with_capacity(leaves));
        for (_, digit) in run.leaves_from(0).take(leaves) {
            pads.push(narrow(record.number(width(&run, run.entry_bits(digit)))?));
        }
        Ok(pads)
    });
    pads.collect()
}

fn server_leaves(
    channel: &mut Channel,
    ots: &mut Ots,
    layout: &ComparisonLayout,
    count: usize,
) -> Result<Leaves, RuntimeError> {
    let mut all = Vec::new();
    for run in runs(layout) {
        let leaves = count * run.digits;
        let mut packed = Zeroizing::new(Vec::with_capacity(leaves));
        for first in (0..leaves).step_by(BLOCK) {
            let count = BLOCK.min(leaves - first);
            let block = ots.sender.extend_random(channel, layout.ot(), run.code(), count)?;
            let mut places = run.leaves_from(first);
            block.for_each(|_, pads| {
                let (_, digit) = places.next().unwrap_or_default();
                let bits = run.entry_bits(digit);
                let entry = |&pad: &u128| pad as u32 & ((1 << bits) - 1);
                packed.push(pads.iter().rev().fold(0, |all, pad| all << bits | entry(pad)));
            });
        }
        all.push(packed);
    }
    Ok(Leaves::Offered { pads: all })
}

fn client_leaves(
    channel: &mut Channel,
    ots: &mut Ots,
    layout: &ComparisonLayout,
    count: usize,
) -> Result<Leaves, RuntimeError> {
    let mut choices = Zeroizing::new(vec![0; count]);
    let mut all = Vec::new();
    for run in runs(layout) {
        let leaves = count * run.digits;
        let mut pads = Zeroizing::new(Vec::with_capacity(leaves));
        for first in (0..leaves).step_by(BLOCK) {
            let Ots { receiver, rng, .. } = &mut *ots;
            let count = BLOCK.min(leaves - first);
            let (digits, block) =
                receiver.extend_random(channel, layout.ot(), run.code(), (count, rng))?;
            for ((index, digit), &choice) in run.leaves_from(first).zip(digits.iter()) {
                choices[index] |= u64::from(choice) << (run.shift + run.width * digit as u32);
            }
            pads.extend(block.pads().iter().map(|&pad| pad as u8));
        }
        all.push(pads);
    }
    Ok(Leaves::Chosen { choices, pads: all })
}

/// The server's tables, from the client's corrections; its shares.
///
/// Entry 0 is not sent: the server's share is such that it is the pad itself.
fn offer_leaves(
    channel: &mut Channel,
    layout: &ComparisonLayout,
    pads: &[Zeroizing<Vec<u32>>],
    (numbers, corrections): (&[u64], &[u8]),
) -> Result<Vec<Item>, RuntimeError> {
    let mut corrections = Unpacker::new(corrections);
    let mut items = empty_items(layout, numbers.len());
    let runs = runs(layout);
    let entries: Vec<_> = runs.iter().map(|run| leaf_tables(run.width)).collect();
    let mut message = Packer::with_capacity(packed_len(numbers.len(), layout.table_bits()));
    for (index, &number) in numbers.iter().enumerate() {
        let correction = corrections.next(layout.bits());
        for ((run, pads), entries) in runs.iter().zip(pads).zip(&entries) {
            let pads = &pads[index * run.digits..][..run.digits];
            for (digit, (&pads, item)) in pads.iter().zip(&mut items[run.first..]).enumerate() {
                let bits = run.entry_bits(digit);
                let value = run.digit(number, digit);
                let pads = permute(pads, run.digit(correction, digit), bits);
                let table = if bits == 1 {
                    entries.lt[value as usize] ^ pads
                } else {
                    entries.both[value as usize] ^ pads
                };
                item.lt.flip(index, u64::from(table & 1));
                let masked =
                    table ^ spread(table & 1, 0x5555_5555 | if bits == 1 { u32::MAX } else { 0 });
                let masked = if bits == 2 {
                    item.eq.flip(index, u64::from(table >> 1 & 1));
                    masked ^ spread(table >> 1 & 1, 0xaaaa_aaaa)
                } else {
                    if run.width == 1 && !item.eq.is_empty() {
                        item.eq.flip(index, u64::from(1 ^ value));
                    }
                    masked
                };
                message.push(u64::from(masked) >> bits, (bits << run.width) - bits);
            }
        }
    }
    channel.send(&message.finish())?;
    Ok(items)
}

/// The client's shares of all leaves, from the server's tables.
fn take_leaves(
    channel: &mut Channel,
    layout: &ComparisonLayout,
    pads: &[Zeroizing<Vec<u8>>],
    numbers: &[u64],
) -> Result<Vec<Item>, RuntimeError> {
    let message = channel.recv(packed_len(numbers.len(), layout.table_bits()))?;
    let mut tables = Unpacker::new(&message);
    let mut items = empty_items(layout, numbers.len());
    let runs = runs(layout);
    for (index, &number) in numbers.iter().enumerate() {
        for (run, pads) in runs.iter().zip(pads) {
            let pads = &pads[index * run.digits..][..run.digits];
            for (digit, (&pad, item)) in pads.iter().zip(&mut items[run.first..]).enumerate() {
                let bits = run.entry_bits(digit);
                let value = run.digit(number, digit);
                // Entry 0 is nothing but its pad.
                let table = tables.next((bits << run.width) - bits) << bits;
                let entry = table >> (bits * value) ^ u64::from(pad);
                item.lt.flip(index, entry & 1);
                if bits == 2 {
                    item.eq.flip(index, entry >> 1 & 1);
                } else if run.width == 1 && !item.eq.is_empty() {
                    item.eq.flip(index, value.into());
                }
            }
        }
    }
    Ok(items)
}

/// Zeros for all leaves.
pub(super) fn empty_items(layout: &ComparisonLayout, count: usize) -> Vec<Item> {
    (0..layout.digits().len()).map(|digit| Item::zeros(digit, count)).collect()
}

/// For each value of the server's digit, what all values `v` of the client's make of it.
struct LeafTables {
    /// Bit `v`: less than `v`.
    lt: [u32; 16],
    /// Bit `2 v`: less than `v`; bit `2 v + 1`: equal to `v`.
    both: [u32; 16],
}

fn leaf_tables(width: u32) -> LeafTables {
    let mut tables = LeafTables { lt: [0; 16], both: [0; 16] };
    for a in 0..1 << width {
        for v in 0..1 << width {
            tables.lt[a] |= u32::from(a < v) << v;
            tables.both[a] |= (u32::from(a < v) | u32::from(a == v) << 1) << (2 * v);
        }
    }
    tables
}

/// `mask` if `bit` is one.
fn spread(bit: u32, mask: u32) -> u32 {
    bit.wrapping_neg() & mask
}

/// Moves entry `j` of 16 to `j ^ delta`. `delta` is no secret.
fn permute(mut entries: u32, delta: u32, entry_bits: u32) -> u32 {
    for bit in 0..4 {
        if delta >> bit & 1 == 1 {
            let shift = entry_bits << bit;
            let low = u32::MAX / ((1 << shift) + 1);
            entries = entries >> shift & low | (entries & low) << shift;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TcpTransport;
    use copriv_ir::{Comparison, OtKind};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn masked_digits_may_be_more_than_fits_on_the_way() {
        let comparison = Comparison { ot: OtKind::Silent, leaf_bits: 1, tables: true };
        let layout = ComparisonLayout::new(64, &comparison);
        // 48 MiB each way: more than a channel's queue and the sockets' buffers.
        let numbers = vec![u64::MAX / 3; 6 << 20];
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
        let (server, _) = listener.accept().expect("connects");
        let open = |stream, party: Party| {
            let line = TcpTransport::new(stream, Duration::from_secs(20)).expect("a socket");
            let mut channel = Channel::new(line, party).expect("threads start");
            let leaves = Leaves::Tables(TruthTables::masking(vec![party as u64; numbers.len()]));
            let theirs = leaves.open(&mut channel, &layout, &numbers).expect("nobody is stuck");
            let mut theirs = Unpacker::new(&theirs);
            assert!(numbers.iter().all(|x| theirs.next(64) == x ^ party.peer() as u64));
        };
        thread::scope(|scope| {
            scope.spawn(|| open(server, Party::Server));
            open(client, Party::Client);
        });
    }
}
