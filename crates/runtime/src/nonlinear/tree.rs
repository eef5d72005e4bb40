//! Combining digits: the tree of a comparison.

use crate::bits::Bits;
use crate::ot::{Pairs, Singles};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::ComparisonLayout;

/// A party's shares of what is known of a digit, or of some neighbouring digits, in all comparisons.
#[derive(Debug)]
pub(super) struct Item {
    /// Whether the server's part is less.
    pub lt: Bits,
    /// Whether the parts are equal; empty for what contains the lowest digit.
    pub eq: Bits,
}

impl Item {
    pub(super) fn zeros(digit: usize, count: usize) -> Self {
        let eq = if digit == 0 { 0 } else { count };
        Self { lt: Bits::zeros(count), eq: Bits::zeros(eq) }
    }
}

/// One batch on its way from the leaves to the root.
pub(super) struct Tree {
    count: usize,
    /// Merges of the levels still to climb, the next one last.
    levels: Vec<usize>,
    /// From the least significant.
    items: Vec<Item>,
    /// Merges of the level that is being climbed.
    merges: Vec<Merge>,
    triples: Triples,
}

/// Takes all trees to their roots, level by level: an exchange for each level of the tallest. The shares at
/// the roots; zeros where there was nothing to compare.
pub(super) fn climb(
    channel: &mut Channel,
    mut trees: Vec<Tree>,
) -> Result<Vec<Bits>, RuntimeError> {
    while trees.iter().any(|tree| !tree.levels.is_empty()) {
        let messages: Vec<_> = trees.iter_mut().map(Tree::open_level).collect();
        let mut theirs = vec![0; messages.iter().map(Vec::len).sum()];
        channel.exchange(&messages.concat(), &mut theirs)?;
        let mut rest = &theirs[..];
        for (tree, ours) in trees.iter_mut().zip(&messages) {
            let (message, later) = rest.split_at(ours.len());
            tree.close_level(channel.party(), message);
            rest = later;
        }
    }
    Ok(trees.into_iter().map(Tree::root).collect())
}

impl Tree {
    /// The tree over the digits `leaves` of `count` comparisons, with all triples that it takes.
    pub(super) fn new(
        layout: &ComparisonLayout,
        count: usize,
        leaves: Vec<Item>,
        singles: Singles,
        pairs: Pairs,
    ) -> Self {
        let levels = layout.levels().iter().rev().copied().collect();
        let triples = Triples { singles, singles_used: 0, pairs, pairs_used: 0 };
        Self { count, levels, items: leaves, merges: Vec::new(), triples }
    }

    /// Begins the merges of the next level; our message of openings, packed without gaps.
    fn open_level(&mut self) -> Vec<u8> {
        let Some(merges) = self.levels.pop() else { return Vec::new() };
        let bits = ComparisonLayout::opening_bits(merges);
        let mut message = Packer::with_capacity(packed_len(self.count, bits));
        let mut items = std::mem::take(&mut self.items).into_iter();
        for merge in 0..merges {
            let (Some(low), Some(high)) = (items.next(), items.next()) else { break };
            let triple = match merge {
                0 => self.triples.single(self.count),
                _ => self.triples.pair(self.count),
            };
            let merge = Merge::begin(low, high, triple);
            merge.opened.iter().for_each(|opened| opened.pack_into(&mut message));
            self.merges.push(merge);
        }
        self.items.extend(items);
        message.finish()
    }

    /// Finishes the merges of the level with the peer's openings.
    fn close_level(&mut self, party: Party, theirs: &[u8]) {
        let mut theirs = Unpacker::new(theirs);
        let merged: Vec<_> =
            self.merges.drain(..).map(|merge| merge.finish(party, &mut theirs)).collect();
        // The odd item at the top, if any, stays behind the merged ones.
        self.items.splice(..0, merged);
    }

    fn root(self) -> Bits {
        let root = self.items.into_iter().next();
        root.map_or_else(|| Bits::zeros(self.count), |item| item.lt)
    }
}

/// The triples not yet used.
struct Triples {
    singles: Singles,
    singles_used: usize,
    pairs: Pairs,
    pairs_used: usize,
}

/// A factor and one or two others with which it is multiplied.
struct Triple {
    a: Bits,
    b: Vec<Bits>,
    c: Vec<Bits>,
}

impl Triples {
    /// The next triples without a partner.
    fn single(&mut self, count: usize) -> Triple {
        let range = self.singles_used..self.singles_used + count;
        self.singles_used = range.end;
        let [a, b, c] = [&self.singles.a, &self.singles.b, &self.singles.c]
            .map(|bits| bits.slice(range.clone()));
        Triple { a, b: vec![b], c: vec![c] }
    }

    /// The next pairs of triples.
    fn pair(&mut self, count: usize) -> Triple {
        let range = self.pairs_used..self.pairs_used + count;
        self.pairs_used = range.end;
        let both = |bits: &[Bits; 2]| bits.iter().map(|bits| bits.slice(range.clone())).collect();
        Triple {
            a: self.pairs.a.slice(range.clone()),
            b: both(&self.pairs.b),
            c: both(&self.pairs.c),
        }
    }
}

/// Two neighbours becoming one: `lt = lt_high ^ (eq_high & lt_low)`, `eq = eq_high & eq_low`.
struct Merge {
    /// `lt` of the high item.
    lt: Bits,
    triple: Triple,
    /// Our share of `eq_high ^ a`, `lt_low ^ b` and, for a pair, `eq_low ^ b'`.
    opened: Vec<Bits>,
}

impl Merge {
    fn begin(low: Item, high: Item, triple: Triple) -> Self {
        let mut opened = vec![high.eq, low.lt];
        if triple.b.len() == 2 {
            opened.push(low.eq);
        }
        let factors = std::iter::once(&triple.a).chain(&triple.b);
        opened.iter_mut().zip(factors).for_each(|(opened, factor)| opened.xor(factor));
        Self { lt: high.lt, triple, opened }
    }

    fn finish(self, party: Party, theirs: &mut Unpacker<'_>) -> Item {
        let Self { mut lt, triple, mut opened } = self;
        for opened in &mut opened {
            opened.xor(&Bits::unpack_from(theirs, opened.len()));
        }
        let products = opened.split_first().into_iter().flat_map(|(x, others)| {
            let triple = &triple;
            let others = others.iter().zip(&triple.b).zip(&triple.c);
            others.map(move |((y, b), c)| product(party, (x, &triple.a), (y, b), c))
        });
        let mut products = products.collect::<Vec<_>>().into_iter();
        products.next().into_iter().for_each(|product| lt.xor(&product));
        Item { lt, eq: products.next().unwrap_or_default() }
    }
}

/// Beaver's product (CRYPTO 1991) from the opened sums `x = ... ^ a` and `y = ... ^ b`:
/// `c ^ x b ^ y a`, and `x y` at one of the parties.
fn product(party: Party, (x, a): (&Bits, &Bits), (y, b): (&Bits, &Bits), c: &Bits) -> Bits {
    let both = if party == Party::Server { u64::MAX } else { 0 };
    let [wx, wa, wy, wb, wc] = [x, a, y, b, c].map(Bits::words);
    Bits::from_words(c.len(), |word| {
        let (x, a, y, b) = (wx[word], wa[word], wy[word], wb[word]);
        wc[word] ^ x & b ^ y & a ^ x & y & both
    })
}
