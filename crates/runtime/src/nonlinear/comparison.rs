//! The millionaires' problem: which of two secret numbers is greater (CrypTFlow2, CCS 2020, section 3.1).

use super::tree::{self, Item, Tree};
use crate::bits::Bits;
use crate::ot::{BLOCK, Code, Ots, Pairs, Singles};
use crate::packing::{Packer, Unpacker, pack, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::ComparisonLayout;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// One party's part of the random transfers and triples for one batch of comparisons.
#[derive(Debug)]
pub struct ComparisonCorrelation {
    layout: ComparisonLayout,
    count: usize,
    leaves: Leaves,
    singles: Singles,
    pairs: Pairs,
}

enum Leaves {
    /// For each run of digits of equal width the pads of all leaves, comparison by comparison: entry `j` of a leaf
    /// stands `entry_bits * j` bits up. And the server's shares of all leaves.
    Server { pads: Vec<Zeroizing<Vec<u32>>>, shares: Vec<Item> },
    /// The random choices of each comparison, as a number of digits, and the pads that they gave.
    Client { choices: Zeroizing<Vec<u64>>, pads: Vec<Zeroizing<Vec<u8>>> },
}

impl ComparisonCorrelation {
    /// Prepares `count` comparisons.
    ///
    /// | server: its shares of all leaves at random | | client |
    /// |---|---|---|
    /// | all pads of each leaf | `<-` extension, a 1-of-2^width transfer a digit | random choices, their pads |
    /// | | `<->` [`Singles`], [`Pairs`] | |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        layout: ComparisonLayout,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        super::requesting(channel, |channel| {
            let leaves = match channel.party() {
                Party::Server => server_leaves(channel, ots, &layout, count)?,
                Party::Client => client_leaves(channel, ots, &layout, count)?,
            };
            let kind = layout.ot();
            let singles = Singles::make(channel, ots, kind, count * layout.singles())?;
            let pairs = Pairs::make(channel, ots, kind, count * layout.pairs())?;
            Ok(Self { layout, count, leaves, singles, pairs })
        })
    }

    /// XOR shares of `1{a < b}` for several batches side by side, each with its own correlation; the
    /// server brings `a`, the client `b`. Bits above the layout's width are ignored.
    ///
    /// | server: `a` | | client: `b` |
    /// |---|---|---|
    /// | | `<-` corrections, as wide as the numbers | `d = b ^ choice` |
    /// | for each digit and each of its values `v`: `1{a < v}`, `1{a = v}`, each plus its share, masked by pad `v ^ d` | `->` tables | unmasks entry `b`: its shares |
    /// | at each level of the tree: factors of all products, plus the triples' | `<->` openings | the same |
    ///
    /// # Errors
    /// As [`Channel::send`], [`Channel::recv`] and [`Channel::exchange`].
    ///
    /// # Panics
    /// If a batch has not as many numbers as were prepared.
    pub fn compare(
        channel: &mut Channel,
        batches: Vec<(Self, &[u64])>,
    ) -> Result<Vec<Bits>, RuntimeError> {
        for (correlation, numbers) in &batches {
            assert_eq!(numbers.len(), correlation.count, "numbers as prepared");
            if let Leaves::Client { choices, .. } = &correlation.leaves {
                let corrections =
                    numbers.iter().zip(&**choices).map(|(number, choice)| number ^ choice);
                channel.send(&pack(corrections, correlation.layout.bits()))?;
            }
        }
        let mut trees = Vec::with_capacity(batches.len());
        for (correlation, numbers) in batches {
            let Self { layout, count, leaves, singles, pairs } = correlation;
            let items = match leaves {
                Leaves::Server { pads, shares } => {
                    offer_leaves(channel, &layout, &pads, &shares, numbers)?;
                    shares
                }
                Leaves::Client { pads, .. } => take_leaves(channel, &layout, &pads, numbers)?,
            };
            trees.push(Tree::new(&layout, count, items, singles, pairs));
        }
        tree::climb(channel, trees)
    }
}

impl Stored for ComparisonCorrelation {
    /// The layout and the number of comparisons.
    type Shape = (ComparisonLayout, usize);

    fn store(self, record: &mut RecordWriter) {
        let Self { layout, count, leaves, singles, pairs } = self;
        match leaves {
            Leaves::Server { pads, shares } => {
                for_each_leaf(&layout, count, |run, leaf, digit| {
                    record.number(pads[run][leaf].into(), digit.0);
                });
                shares.into_iter().for_each(|share| share.store(record));
            }
            Leaves::Client { choices, pads } => {
                record.numbers(&choices, layout.bits());
                for_each_leaf(&layout, count, |run, leaf, digit| {
                    record.number(pads[run][leaf].into(), digit.1);
                });
            }
        }
        singles.store(record);
        pairs.store(record);
    }

    fn restore(
        (layout, count): (ComparisonLayout, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let leaves = match record.party() {
            Party::Server => {
                let pads = restore_pads(&layout, count, record, |bits| bits.0, |pad| pad as u32)?;
                let share = |digit| Item::restore((digit, count), record);
                let shares = (0..layout.digits().len()).map(share).collect::<Result<_, _>>()?;
                Leaves::Server { pads, shares }
            }
            Party::Client => Leaves::Client {
                choices: record.numbers(count, layout.bits())?,
                pads: restore_pads(&layout, count, record, |bits| bits.1, |pad| pad as u8)?,
            },
        };
        let singles = Singles::restore(count * layout.singles(), record)?;
        let pairs = Pairs::restore(count * layout.pairs(), record)?;
        Ok(Self { layout, count, leaves, singles, pairs })
    }
}

/// Calls `f` with the run and number of each leaf, in the order in which they were made, and the bits of its
/// table and of an entry.
fn for_each_leaf(
    layout: &ComparisonLayout,
    count: usize,
    mut f: impl FnMut(usize, usize, (u32, u32)),
) {
    for (index, run) in runs(layout).iter().enumerate() {
        let places = run.leaves_from(0).take(count * run.digits);
        places.enumerate().for_each(|(leaf, (_, digit))| f(index, leaf, run.table(digit)));
    }
}

/// The pads of all leaves; `width` is that of one, from the bits of the leaf's table and of an entry.
fn restore_pads<T: Zeroize>(
    layout: &ComparisonLayout,
    count: usize,
    record: &mut RecordReader<'_>,
    width: impl Fn((u32, u32)) -> u32,
    narrow: impl Fn(u64) -> T,
) -> Result<Vec<Zeroizing<Vec<T>>>, RecordTooShort> {
    let pads = runs(layout).into_iter().map(|run| {
        let leaves = count * run.digits;
        let mut pads = Zeroizing::new(Vec::with_capacity(leaves));
        for (_, digit) in run.leaves_from(0).take(leaves) {
            pads.push(narrow(record.number(width(run.table(digit)))?));
        }
        Ok(pads)
    });
    pads.collect()
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}

/// The digits of a run: width, first bit, index of the first, number of digits.
struct Run {
    width: u32,
    shift: u32,
    first: usize,
    digits: usize,
}

fn runs(layout: &ComparisonLayout) -> Vec<Run> {
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
    fn digit(&self, number: u64, digit: usize) -> u32 {
        let shift = self.shift + self.width * digit as u32;
        (number >> shift) as u32 & ((1 << self.width) - 1)
    }

    /// Bits of a leaf's table and of its entries.
    fn table(&self, digit: usize) -> (u32, u32) {
        let entry_bits = ComparisonLayout::entry_bits(self.first + digit);
        (entry_bits << self.width, entry_bits)
    }

    /// The comparison and digit of each of its leaves, from leaf number `leaf` on.
    fn leaves_from(&self, leaf: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
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
                let (_, entry_bits) = run.table(digit);
                let entry = |&pad: &u128| pad as u32 & ((1 << entry_bits) - 1);
                packed.push(pads.iter().rev().fold(0, |all, pad| all << entry_bits | entry(pad)));
            });
        }
        all.push(packed);
    }
    let shares = (0..layout.digits().len()).map(|digit| Item::random(digit, count, &mut ots.rng));
    Ok(Leaves::Server { shares: shares.collect(), pads: all })
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
    Ok(Leaves::Client { choices, pads: all })
}

/// The server's tables, from the client's corrections.
fn offer_leaves(
    channel: &mut Channel,
    layout: &ComparisonLayout,
    pads: &[Zeroizing<Vec<u32>>],
    shares: &[Item],
    numbers: &[u64],
) -> Result<(), RuntimeError> {
    let corrections = channel.recv(packed_len(numbers.len(), layout.bits()))?;
    let mut corrections = Unpacker::new(&corrections);
    let runs = runs(layout);
    let entries: Vec<_> = runs.iter().map(|run| leaf_tables(run.width)).collect();
    let mut message = Packer::with_capacity(packed_len(numbers.len(), layout.table_bits()));
    for (index, &number) in numbers.iter().enumerate() {
        let correction = corrections.next(layout.bits());
        for ((run, pads), entries) in runs.iter().zip(pads).zip(&entries) {
            let pads = &pads[index * run.digits..][..run.digits];
            for (digit, (&pads, share)) in pads.iter().zip(&shares[run.first..]).enumerate() {
                let (table_bits, entry_bits) = run.table(digit);
                let value = run.digit(number, digit) as usize;
                let table = if entry_bits == 1 {
                    entries.lt[value] ^ spread(share.lt.get(index), 0xffff)
                } else {
                    entries.both[value]
                        ^ spread(share.lt.get(index), 0x5555_5555)
                        ^ spread(share.eq.get(index), 0xaaaa_aaaa)
                };
                let pads = permute(pads, run.digit(correction, digit), entry_bits);
                message.push((table ^ pads).into(), table_bits);
            }
        }
    }
    channel.send(&message.finish())
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
    let digits = 0..layout.digits().len();
    let mut items: Vec<_> = digits.map(|digit| Item::zeros(digit, numbers.len())).collect();
    let runs = runs(layout);
    for (index, &number) in numbers.iter().enumerate() {
        for (run, pads) in runs.iter().zip(pads) {
            let pads = &pads[index * run.digits..][..run.digits];
            for (digit, (&pad, item)) in pads.iter().zip(&mut items[run.first..]).enumerate() {
                let (table_bits, entry_bits) = run.table(digit);
                let table = tables.next(table_bits);
                let entry = table >> (entry_bits * run.digit(number, digit)) ^ u64::from(pad);
                item.lt.flip(index, entry & 1);
                if entry_bits == 2 {
                    item.eq.flip(index, entry >> 1 & 1);
                }
            }
        }
    }
    Ok(items)
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
fn spread(bit: u64, mask: u32) -> u32 {
    (bit as u32).wrapping_neg() & mask
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
