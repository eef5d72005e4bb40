//! ReLU and ReLU6.

use super::drelu::drelu_layout;
use super::{ComparisonCorrelation, MultiplexerCorrelation, drelu};
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::{Activation, ActivationMask, Comparison, Party, Ring};
use zeroize::Zeroizing;

/// One party's correlation for an activation on one batch of numbers.
#[derive(Debug)]
pub struct ActivationCorrelation {
    function: Activation,
    ring: Ring,
    comparison: ComparisonCorrelation,
    multiplexer: MultiplexerCorrelation,
}

impl ActivationCorrelation {
    /// Prepares `function` of `count` numbers in `ring`: a comparison and a product for each ReLU, two ReLUs for
    /// each ReLU6, made side by side.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        (function, comparison): (Activation, &Comparison),
        ring: Ring,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        let (count, layout) = (rectified(function, count), drelu_layout(ring, comparison));
        super::requesting(channel, |channel| {
            // First what the server asks for too: it must not count as an answer to the comparisons.
            let multiplexer =
                MultiplexerCorrelation::prepare(channel, ots, comparison.ot, (ring, count))?;
            let comparison = ComparisonCorrelation::prepare(channel, ots, layout, count)?;
            Ok(Self { function, ring, comparison, multiplexer })
        })
    }

    /// Shares of the function of each number, at the same scale.
    ///
    /// | server: `x0` | | client: `x1` |
    /// |---|---|---|
    /// | ReLU6: `x0`, then all `x0 - 6 2^scale` | | ReLU6: `x1` twice |
    /// | | `<->` [`drelu`] | |
    /// | | `<->` [`MultiplexerCorrelation::multiply`]: ReLU | |
    /// | ReLU6: difference of the halves | | ReLU6: difference of the halves |
    ///
    /// ReLU6 subtracts six from every number: the ring must have room for that, or what is below `6 2^scale - 2^(l-1)` wraps.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If there are not as many shares as were prepared.
    pub fn apply(
        self,
        channel: &mut Channel,
        scale: u32,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        match self.function {
            Activation::Relu => self.rectify(channel, shares),
            Activation::Relu6 => {
                let ring = self.ring;
                let cap = match channel.party() {
                    Party::Server => ring.reduce(6_u64.wrapping_shl(scale)),
                    Party::Client => 0,
                };
                let mut both = Zeroizing::new(Vec::with_capacity(2 * shares.len()));
                both.extend_from_slice(shares);
                both.extend(shares.iter().map(|&share| ring.sub(share, cap)));
                let mut rectified = self.rectify(channel, &both)?;
                let (below, above) = rectified.split_at_mut(shares.len());
                below.iter_mut().zip(above).for_each(|(x, above)| *x = ring.sub(*x, *above));
                rectified.truncate(shares.len());
                Ok(rectified)
            }
        }
    }

    /// The same for the values of a mask, which are as many as were prepared; the others pass as they are. The mask is
    /// part of the plan, so both parties gather and scatter alike.
    ///
    /// # Errors
    /// As [`Self::apply`].
    ///
    /// # Panics
    /// If the mask is not one of so many shares, or not as many as were prepared are in it.
    pub fn apply_in_part(
        self,
        channel: &mut Channel,
        scale: u32,
        mask: &ActivationMask,
        mut shares: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let mut gathered = Zeroizing::new(Vec::with_capacity(mask.count()));
        gathered.extend(mask.positions().map(|position| shares[position]));
        let activated = self.apply(channel, scale, &gathered)?;
        for (position, &share) in mask.positions().zip(activated.iter()) {
            shares[position] = share;
        }
        Ok(shares)
    }

    /// Shares of the ReLU of each number.
    fn rectify(
        self,
        channel: &mut Channel,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let signs = drelu(channel, self.comparison, self.ring, shares)?;
        self.multiplexer.multiply(channel, &signs, shares)
    }
}

impl Stored for ActivationCorrelation {
    /// The function, its comparisons, the ring and the number of elements.
    type Shape = (Activation, Comparison, Ring, usize);

    fn store(self, record: &mut RecordWriter) {
        self.comparison.store(record);
        self.multiplexer.store(record);
    }

    fn restore(
        (function, comparison, ring, count): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let (count, layout) = (rectified(function, count), drelu_layout(ring, &comparison));
        let comparison = ComparisonCorrelation::restore((layout, count), record)?;
        let multiplexer = MultiplexerCorrelation::restore((ring, count), record)?;
        Ok(Self { function, ring, comparison, multiplexer })
    }
}

/// ReLUs that the function of `count` numbers takes.
fn rectified(function: Activation, count: usize) -> usize {
    match function {
        Activation::Relu => count,
        Activation::Relu6 => 2 * count,
    }
}
