//! Which of many shared numbers is the greatest.

use super::drelu::drelu_layout;
use super::selection::{Candidate, SelectionCorrelation};
use super::{ComparisonCorrelation, drelu};
use crate::bits::Bits;
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ArgMaxRound;
use copriv_ir::{Comparison, Party, Ring, class_digits};
use zeroize::Zeroizing;

/// One party's correlation for the argmax of one value.
#[derive(Debug)]
pub struct ArgMaxCorrelation {
    ring: Ring,
    count: usize,
    /// Of each round, with the digits that its winners' numbers have before it.
    rounds: Vec<(u32, ComparisonCorrelation, SelectionCorrelation)>,
}

impl ArgMaxCorrelation {
    /// Prepares the argmax of `count` elements of `ring`: a comparison and a selection for each match of a knock-out, all side by
    /// side.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        comparison: &Comparison,
        (ring, count): (Ring, usize),
    ) -> Result<Self, RuntimeError> {
        let layout = drelu_layout(ring, comparison);
        super::requesting(channel, |channel| {
            let mut prepare = |round: ArgMaxRound| {
                let ArgMaxRound { matches, value_bits, index_bits } = round;
                let shape = ([value_bits, index_bits], matches);
                let selection = SelectionCorrelation::prepare(channel, ots, comparison.ot, shape)?;
                let comparison =
                    ComparisonCorrelation::prepare(channel, ots, layout.clone(), matches)?;
                Ok((index_bits, comparison, selection))
            };
            let rounds = ArgMaxRound::all(ring, count).into_iter().map(&mut prepare);
            let rounds = rounds.collect::<Result<_, RuntimeError>>()?;
            Ok(Self { ring, count, rounds })
        })
    }

    /// XOR shares of the binary digits, from the least significant, of the number of the greatest element, the first
    /// of several. The ring must have room for differences of elements.
    ///
    /// In each round neighbours `x, y` with the numbers `i, j` meet; the last of an odd number goes on unmatched:
    ///
    /// | server: `x0, y0, i0, j0` | | client: `x1, y1, i1, j1` |
    /// |---|---|---|
    /// | | `<->` [`drelu`] of `x - y`: `b` | |
    /// | | `<->` products with one bit: `b (x - y)`, `b (i ^ j)` | |
    /// | `y0 +`, `j0 ^` its shares; next digit `1 ^ b0` | | `y1 +`, `j1 ^` its shares; next digit `b1` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If there are not as many shares as were prepared.
    pub fn find(
        self,
        channel: &mut Channel,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let Self { ring, count, rounds } = self;
        assert_eq!(shares.len(), count, "shares as prepared");
        let mut standing: Zeroizing<Vec<Candidate>> =
            Zeroizing::new(shares.iter().map(|&share| [share, 0]).collect());
        for (digit, comparison, selection) in rounds {
            let (pairs, _) = standing.as_chunks::<2>();
            let differences = pairs.iter().map(|[x, y]| [ring.sub(x[0], y[0]), x[1] ^ y[1]]);
            let differences: Zeroizing<Vec<Candidate>> = Zeroizing::new(differences.collect());
            let values = Zeroizing::new(differences.iter().map(|d| d[0]).collect::<Vec<_>>());
            let leads = drelu(channel, comparison, ring, &values)?;
            let taken = selection.multiply(channel, &leads, &differences)?;
            standing = winners(channel.party(), ring, &standing, (digit, &leads, &taken));
        }
        let index = standing.first().map_or(0, |winner| winner[1]);
        Ok(Zeroizing::new((0..class_digits(count)).map(|place| index >> place & 1).collect()))
    }
}

/// Who goes on: of each pair the second plus what was `taken`, with another digit that says which it was.
fn winners(
    party: Party,
    ring: Ring,
    standing: &[Candidate],
    (digit, leads, taken): (u32, &Bits, &[Candidate]),
) -> Zeroizing<Vec<Candidate>> {
    let (pairs, unmatched) = standing.as_chunks::<2>();
    let one = u64::from(party == Party::Server);
    let winner = |((index, [_, y]), taken): ((usize, &[Candidate; 2]), &Candidate)| {
        let is_second = leads.get(index) ^ one;
        [ring.add(y[0], taken[0]), y[1] ^ taken[1] ^ is_second << digit]
    };
    let mut next = Zeroizing::new(Vec::with_capacity(standing.len().div_ceil(2)));
    next.extend(pairs.iter().enumerate().zip(taken).map(winner));
    next.extend_from_slice(unmatched);
    next
}

impl Stored for ArgMaxCorrelation {
    /// The ring, the number of elements, the comparisons.
    type Shape = (Ring, usize, Comparison);

    fn store(self, record: &mut RecordWriter) {
        for (_, comparison, selection) in self.rounds {
            comparison.store(record);
            selection.store(record);
        }
    }

    fn restore(
        (ring, count, comparison): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let layout = drelu_layout(ring, &comparison);
        let mut restore = |round: ArgMaxRound| {
            let ArgMaxRound { matches, value_bits, index_bits } = round;
            let comparison = ComparisonCorrelation::restore((layout.clone(), matches), record)?;
            let shape = ([value_bits, index_bits], matches);
            Ok((index_bits, comparison, SelectionCorrelation::restore(shape, record)?))
        };
        let rounds = ArgMaxRound::all(ring, count).into_iter().map(&mut restore);
        Ok(Self { ring, count, rounds: rounds.collect::<Result<_, _>>()? })
    }
}
