//! The layout of a comparison: its digits, its tree, and what both cost.

use super::ot::{self, Choices, message};
use super::{Flights, Offline, OtUse, packed};
use crate::{Comparison, Direction, OtKind, Party};

/// How secret numbers of some width are compared: cut into digits, combined in a tree.
///
/// Digits stand from the least significant. A level of the tree merges neighbours, the first two, the next
/// two and so on; an odd item at the top moves up unchanged. The first merge of a level involves the least
/// significant item and needs "less than" alone: a single triple. All others also need "equal": a
/// pair of triples.
///
/// The runtime executes this layout and the cost formulae count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonLayout {
    ot: OtKind,
    tables: bool,
    bits: u32,
    digits: Vec<u32>,
    /// Merges of each level.
    levels: Vec<usize>,
}

impl ComparisonLayout {
    /// For numbers of `bits` bits; there is nothing to compare in none.
    ///
    /// Digits are 1 to 4 bits wide, as every [`crate::Plan`] has been checked for; other widths
    /// are taken as the nearest of these.
    #[must_use]
    pub fn new(bits: u32, comparison: &Comparison) -> Self {
        let width = comparison.leaf_bits.clamp(1, 4);
        let full = std::iter::repeat_n(width, (bits / width) as usize);
        let digits: Vec<u32> =
            full.chain((!bits.is_multiple_of(width)).then_some(bits % width)).collect();
        let halve = |&items: &usize| Some(items.div_ceil(2)).filter(|&items| items > 1);
        let items = std::iter::successors(Some(digits.len()).filter(|&items| items > 1), halve);
        let levels = items.map(|items| items / 2).collect();
        Self { ot: comparison.ot, tables: comparison.tables, bits, digits, levels }
    }

    /// Width of the numbers.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The OT extension behind it.
    #[must_use]
    pub const fn ot(&self) -> OtKind {
        self.ot
    }

    /// Whether leaves are one-time truth tables.
    #[must_use]
    pub const fn tables(&self) -> bool {
        self.tables
    }

    /// Widths of the digits from the least significant; the last may be narrower than the others.
    #[must_use]
    pub fn digits(&self) -> &[u32] {
        &self.digits
    }

    /// The digits cut into runs of equal width: their width and number.
    #[must_use]
    pub fn runs(&self) -> Vec<(u32, usize)> {
        self.digits.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
    }

    /// Bits of digit `index`'s leaf table entries, `width` being its own: "less than", and "equal" except for the lowest
    /// digit, where it is not needed, and digits of one bit, where it is local.
    #[must_use]
    pub const fn entry_bits(index: usize, width: u32) -> u32 {
        if index == 0 || width == 1 { 1 } else { 2 }
    }

    /// Bits of all leaf tables of a comparison, each without its first entry.
    #[must_use]
    pub fn table_bits(&self) -> u32 {
        let tables = self.digits.iter().enumerate();
        tables.map(|(index, width)| Self::entry_bits(index, *width) * ((1 << width) - 1)).sum()
    }

    /// Number of merges at each level of the tree, from the leaves. The first of a level takes a single
    /// triple, the others a pair each.
    #[must_use]
    pub fn levels(&self) -> &[usize] {
        &self.levels
    }

    /// Single triples that a comparison takes.
    #[must_use]
    pub fn singles(&self) -> usize {
        self.levels.len()
    }

    /// Pairs of triples that a comparison takes.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.levels.iter().map(|merges| merges - 1).sum()
    }

    /// Bits that each party opens at a level with so many merges: 2 for the single, 3 a pair.
    #[must_use]
    pub const fn opening_bits(merges: usize) -> u32 {
        2 + 3 * (merges as u32 - 1)
    }

    /// What `count` comparisons take offline.
    #[must_use]
    pub fn offline(&self, count: u64) -> Offline {
        let leaves = self.runs().into_iter().map(|(width, digits)| {
            let leaves = count * digits as u64;
            if self.tables {
                truth_tables(self.ot, leaves, width)
            } else {
                ot::random(self.ot, Party::Server, leaves, width)
            }
        });
        let triples = [
            ot::singles(self.ot, count * self.singles() as u64),
            ot::pairs(self.ot, count * self.pairs() as u64),
        ];
        leaves.chain(triples).fold(Offline::default(), Offline::beside)
    }

    /// What `count` comparisons take online.
    #[must_use]
    pub fn online(&self, count: u64) -> Flights {
        let numbers = packed(count, self.bits.into());
        let leaves = if self.tables {
            Flights::crossing(numbers)
        } else {
            let tables = packed(count, self.table_bits().into());
            Flights::one_way(Direction::ClientToServer, numbers)
                + Flights::one_way(Direction::ServerToClient, tables)
        };
        let opening = |&merges| Flights::crossing(packed(count, Self::opening_bits(merges).into()));
        leaves + self.levels.iter().map(opening).sum()
    }
}

/// What one-time truth tables of `leaves` digits of `width` bits take: a random transfer for each bit, in blocks of whole
/// digits, and for digits of several bits half a table in each.
fn truth_tables(kind: OtKind, leaves: u64, width: u32) -> Offline {
    let bits = u64::from(width);
    let block = ot::BLOCK / bits;
    let (blocks, rest) = (leaves / block, leaves % block);
    let extension = |leaves: u64| ot::extension(kind, Choices::Random, leaves * bits, 1);
    let up = message(Direction::ClientToServer, blocks * extension(block) + extension(rest));
    let half = if width == 1 { 0 } else { 1 << (2 * bits) };
    Offline {
        traffic: up + message(Direction::ServerToClient, packed(leaves * bits, half)),
        ots: OtUse::new(kind, Party::Server, leaves * bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Traffic;
    use proptest::prelude::*;

    fn layout(bits: u32, leaf_bits: u32) -> ComparisonLayout {
        ComparisonLayout::new(bits, &Comparison { ot: OtKind::Iknp, leaf_bits, tables: false })
    }

    #[test]
    fn forty_bits_are_ten_digits_on_four_levels() {
        let layout = layout(40, 4);
        assert_eq!(layout.digits(), [4; 10]);
        assert_eq!(layout.levels(), [5, 2, 1, 1]);
        assert_eq!((layout.singles(), layout.pairs()), (4, 5));
        assert_eq!(layout.table_bits(), 15 + 9 * 30);
        let online = layout.online(8).traffic();
        assert_eq!(online.rounds, 6);
        let openings = (2 + 12) + (2 + 3) + 2 + 2;
        assert_eq!(online.client_to_server, 40 + openings);
        assert_eq!(online.server_to_client, 285 + openings);
    }

    #[test]
    fn a_single_digit_has_no_tree() {
        assert_eq!(layout(3, 4).digits(), [3]);
        let up = Traffic::one_way(Direction::ClientToServer, 224, 1);
        assert_eq!(layout(3, 4).offline(5).traffic, up);
        assert_eq!(layout(3, 4).online(5).traffic().rounds, 2);
        assert_eq!(layout(0, 4).online(5), Flights::default());
        assert_eq!(layout(41, 4).offline(0), Offline::default());
    }

    #[test]
    fn a_relu_costs_no_more_than_cryptflow2_says() {
        // CrypTFlow2 (CCS 2020), section 5.1: fewer than (128 + 18) l bits for ReLU.
        let layout = layout(40, 4);
        let count = 1 << 20;
        let bits =
            (layout.offline(count).traffic + layout.online(count).traffic()).bytes() * 8 / count;
        assert!(bits < 41 * (128 + 18), "{bits} bits");
    }

    proptest! {
        #[test]
        fn a_tree_merges_all_digits_into_one(bits in 1_u32..=64, leaf_bits in 1_u32..=4) {
            let layout = layout(bits, leaf_bits);
            prop_assert_eq!(layout.digits().iter().sum::<u32>(), bits);
            prop_assert_eq!(layout.singles() + layout.pairs(), layout.digits().len() - 1);
            let depth = layout.digits().len().next_power_of_two().trailing_zeros();
            prop_assert_eq!(layout.levels().len() as u32, depth);
        }
    }
}
