//! The millionaires' problem: which of two secret numbers is greater (CrypTFlow2, CCS 2020, section 3.1).

use super::leaves::Leaves;
use super::tree::{self, Tree};
use crate::bits::Bits;
use crate::ot::{Ots, Pairs, Singles};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ComparisonLayout;

/// One party's part of the random transfers, tables and triples for one batch of comparisons.
#[derive(Debug)]
pub struct ComparisonCorrelation {
    layout: ComparisonLayout,
    count: usize,
    leaves: Leaves,
    singles: Singles,
    pairs: Pairs,
}

impl ComparisonCorrelation {
    /// Prepares `count` comparisons.
    ///
    /// | server | | client |
    /// |---|---|---|
    /// | all pads of each leaf | `<-` extension, a 1-of-2^width transfer a digit | random choices, their pads |
    /// | or shares of each leaf's table, moved by random digits | `<->` one-time truth tables | the same |
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
            let leaves = Leaves::prepare(channel, ots, &layout, count)?;
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
    /// | for each digit and each of its values `v`: `1{a < v}`, `1{a = v}`, each plus its share, masked by pad `v ^ d` | `->` tables without their first entries | unmasks entry `b`: its shares |
    /// | at each level of the tree: factors of all products, plus the triples' | `<->` openings | the same |
    ///
    /// With one-time truth tables the first two messages are one exchange of masked numbers instead.
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
        // What waits for nothing is one round of all batches.
        let mut lane = channel.lane();
        let mut opened = Vec::with_capacity(batches.len());
        for (Self { layout, count, leaves, .. }, numbers) in &batches {
            assert_eq!(numbers.len(), *count, "numbers as prepared");
            opened.push(leaves.open(&mut lane, layout, numbers)?);
        }
        drop(lane);
        let mut trees = Vec::with_capacity(batches.len());
        for ((correlation, numbers), theirs) in batches.into_iter().zip(opened) {
            let Self { layout, count, leaves, singles, pairs } = correlation;
            let items = leaves.close(channel, &layout, numbers, &theirs)?;
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
        leaves.store(&layout, count, record);
        singles.store(record);
        pairs.store(record);
    }

    fn restore(
        (layout, count): (ComparisonLayout, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let leaves = Leaves::restore(&layout, count, record)?;
        let singles = Singles::restore(count * layout.singles(), record)?;
        let pairs = Pairs::restore(count * layout.pairs(), record)?;
        Ok(Self { layout, count, leaves, singles, pairs })
    }
}
