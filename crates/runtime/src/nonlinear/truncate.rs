//! Dropping fractional bits.

use super::{ComparisonCorrelation, ConversionCorrelation};
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ComparisonLayout;
use copriv_ir::{Comparison, Party, Ring};
use zeroize::Zeroizing;

/// One party's correlation for the faithful truncation of one batch of numbers.
#[derive(Debug)]
pub struct TruncationCorrelation {
    ring: Ring,
    shift: u32,
    /// For the wrap of the shares in the ring, and of their low bits.
    comparisons: [ComparisonCorrelation; 2],
    /// The wrap's bit into `Z_{2^shift}`, that of the low bits into the ring.
    conversions: [ConversionCorrelation; 2],
}

impl TruncationCorrelation {
    /// Prepares the truncation of `count` numbers in `ring` by `shift` bits, `0 < shift < ring.bits()`.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If `shift` is not in that range. No [`Plan`](copriv_ir::Plan) has such a step.
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        comparison: &Comparison,
        (ring, shift): (Ring, u32),
        count: usize,
    ) -> Result<Self, RuntimeError> {
        assert!((1..ring.bits()).contains(&shift), "cannot drop {shift} bits in {ring}");
        let wrap_ring = Ring::new(shift).expect("at least 1 and less than a ring's");
        super::requesting(channel, |channel| {
            let kind = comparison.ot;
            let mut comparison = |bits| {
                let layout = ComparisonLayout::new(bits, comparison);
                ComparisonCorrelation::prepare(channel, ots, layout, count)
            };
            let comparisons = [comparison(ring.bits())?, comparison(shift)?];
            let mut conversion =
                |ring| ConversionCorrelation::prepare(channel, ots, kind, (ring, count));
            let conversions = [conversion(wrap_ring)?, conversion(ring)?];
            Ok(Self { ring, shift, comparisons, conversions })
        })
    }

    /// Shares of `x >> shift`, the arithmetic shift, which rounds towards minus infinity (CrypTFlow2, CCS
    /// 2020, section 4; SIRNN, S&P 2021).
    ///
    /// The server adds `2^(l-1)` first, so that the sum is the unsigned number `x + 2^(l-1)`, plus `2^l` where the shares
    /// wrap (`w`); the shifted shares lack a carry where the low bits wrap (`u`):
    /// `x >> s = (x0 >> s) + (x1 >> s) - 2^(l-s) w + u - 2^(l-1-s)`.
    ///
    /// | server: `x0 + 2^(l-1)` | | client: `x1` |
    /// |---|---|---|
    /// | `2^l - 1 - x0`, `2^s - 1 - x0 mod 2^s` | `<->` [`ComparisonCorrelation::compare`]: `w`, `u` | `x1`, `x1 mod 2^s` |
    /// | | `<->` [`ConversionCorrelation::convert`], `w` into `Z_{2^s}`, `u` into the ring | |
    /// | `(x0 >> s) - 2^(l-s) w + u - 2^(l-1-s)` | | `(x1 >> s) - 2^(l-s) w + u` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If there are not as many shares as were prepared.
    pub fn truncate(
        self,
        channel: &mut Channel,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let Self { ring, shift, comparisons, conversions } = self;
        let half = match channel.party() {
            Party::Server => 1 << (ring.bits() - 1),
            Party::Client => 0,
        };
        let moved = shares.iter().map(|&share| ring.add(share, half)).collect::<Vec<_>>();
        let mut moved = Zeroizing::new(moved);
        let numbers = [ring.mask(), (1 << shift) - 1].map(|mask| to_compare(channel, &moved, mask));
        let numbers = numbers.iter().map(|numbers| &numbers[..]);
        let batches = comparisons.into_iter().zip(numbers).collect();
        let wraps = ComparisonCorrelation::compare(channel, batches)?;
        let batches = conversions.into_iter().zip(&wraps).collect();
        let wraps = ConversionCorrelation::convert(channel, batches)?;

        let offset = half >> shift;
        moved.iter_mut().for_each(|share| *share = (*share >> shift).wrapping_sub(offset));
        let factors = [(1_u64 << (ring.bits() - shift)).wrapping_neg(), 1];
        for (wraps, factor) in wraps.iter().zip(factors) {
            for (share, wrap) in moved.iter_mut().zip(&**wraps) {
                *share = ring.reduce(share.wrapping_add(wrap.wrapping_mul(factor)));
            }
        }
        Ok(moved)
    }
}

impl Stored for TruncationCorrelation {
    /// The comparisons, the ring, the bits to drop and the number of elements.
    type Shape = (Comparison, Ring, u32, usize);

    fn store(self, record: &mut RecordWriter) {
        self.comparisons.into_iter().for_each(|comparison| comparison.store(record));
        self.conversions.into_iter().for_each(|conversion| conversion.store(record));
    }

    fn restore(
        (comparison, ring, shift, count): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let wrap_ring = Ring::new(shift).map_err(|_| RecordTooShort)?;
        let mut compare = |bits| {
            let layout = ComparisonLayout::new(bits, &comparison);
            ComparisonCorrelation::restore((layout, count), record)
        };
        let comparisons = [compare(ring.bits())?, compare(shift)?];
        let mut convert = |ring| ConversionCorrelation::restore((ring, count), record);
        let conversions = [convert(wrap_ring)?, convert(ring)?];
        Ok(Self { ring, shift, comparisons, conversions })
    }
}

/// What to compare to learn whether the low bits under `mask` wrap: they do if the client's number is greater.
fn to_compare(channel: &Channel, shares: &[u64], mask: u64) -> Zeroizing<Vec<u64>> {
    let numbers = shares.iter().map(|share| match channel.party() {
        Party::Server => mask - (share & mask),
        Party::Client => share & mask,
    });
    Zeroizing::new(numbers.collect())
}
