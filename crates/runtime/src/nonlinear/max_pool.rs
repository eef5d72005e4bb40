//! The greatest value of each window.

use super::ActivationCorrelation;
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::{Activation, Comparison, PoolWindow, Ring, Shape, SidePool, next_round};
use zeroize::Zeroizing;

/// One party's correlation for the pooling of one map.
#[derive(Debug)]
pub struct MaxPoolCorrelation {
    ring: Ring,
    /// Both sides in turn, with the ReLUs of each round of matches.
    sides: Vec<(SidePool, Vec<ActivationCorrelation>)>,
}

impl MaxPoolCorrelation {
    /// Prepares the pooling of a map of shape `input` in `ring`: a ReLU for each match, all side by side.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        (window, comparison): (PoolWindow, &Comparison),
        (ring, input): (Ring, Shape),
    ) -> Result<Self, RuntimeError> {
        let relu = (Activation::Relu, comparison);
        super::requesting(channel, |channel| {
            let mut sides = Vec::new();
            for side in window.sides(input) {
                let rounds = side.matches().into_iter().map(|matches| {
                    ActivationCorrelation::prepare(channel, ots, relu, ring, matches)
                });
                let rounds = rounds.collect::<Result<Vec<_>, _>>()?;
                sides.push((side, rounds));
            }
            Ok(Self { ring, sides })
        })
    }

    /// Shares of the greatest value of each window. Two values meet as `max(x, y) = y + relu(x - y)`: the ring must have
    /// room for their difference.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If there are not as many shares as the map has values.
    pub fn pool(
        self,
        channel: &mut Channel,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let ring = self.ring;
        let mut values = Zeroizing::new(shares.to_vec());
        for (side, rounds) in self.sides {
            let mut groups = side.groups();
            // Rooms are large enough from the start: what a vector leaves behind as it grows is not cleared.
            let mut entrants = Zeroizing::new(Vec::with_capacity(groups.iter().sum()));
            entrants.extend(side.entrants().map(|at| values[at]));
            values = entrants;
            for relu in rounds {
                let matches = next_round(&groups).filter(|place| place.is_match);
                let mut differences = Zeroizing::new(Vec::with_capacity(values.len() / 2));
                differences
                    .extend(matches.map(|place| ring.sub(values[place.at], values[place.at + 1])));
                let leads = relu.apply(channel, 0, &differences)?;
                let mut leads = leads.iter();
                let mut next = Zeroizing::new(Vec::with_capacity(values.len()));
                for place in next_round(&groups) {
                    next.push(match place.is_match.then(|| leads.next()).flatten() {
                        Some(&lead) => ring.add(values[place.at + 1], lead),
                        None => values[place.at],
                    });
                }
                values = next;
                groups.iter_mut().for_each(|size| *size = size.div_ceil(2));
            }
        }
        Ok(values)
    }
}

impl Stored for MaxPoolCorrelation {
    /// The windows, the comparison, the ring and the shape of the map.
    type Shape = (PoolWindow, Comparison, Ring, Shape);

    fn store(self, record: &mut RecordWriter) {
        let relus = self.sides.into_iter().flat_map(|(_, rounds)| rounds);
        relus.for_each(|relu| relu.store(record));
    }

    fn restore(
        (window, comparison, ring, input): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let mut sides = Vec::new();
        for side in window.sides(input) {
            let rounds = side.matches().into_iter().map(|matches| {
                let shape = (Activation::Relu, comparison, ring, matches);
                ActivationCorrelation::restore(shape, record)
            });
            let rounds = rounds.collect::<Result<Vec<_>, _>>()?;
            sides.push((side, rounds));
        }
        Ok(Self { ring, sides })
    }
}
