//! Whether the shares of a number add up to more than the ring holds.

use super::{BitProductCorrelation, ComparisonCorrelation};
use crate::bits::Bits;
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::{ComparisonLayout, Wrap, WrapMethod};
use zeroize::Zeroizing;

/// One party's correlation for the wraps of one batch of numbers.
#[derive(Debug)]
pub struct WrapCorrelation {
    wrap: Wrap,
    comparison: Option<ComparisonCorrelation>,
    product: BitProductCorrelation,
}

impl WrapCorrelation {
    /// Prepares `wrap` of `count` numbers.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        wrap: Wrap,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        super::requesting(channel, |channel| {
            let comparison = match &wrap.method {
                WrapMethod::Compare(comparison) => {
                    let layout = ComparisonLayout::new(wrap.bits, comparison);
                    Some(ComparisonCorrelation::prepare(channel, ots, layout, count)?)
                }
                WrapMethod::KnownSign(_) => None,
            };
            let shape = (wrap.product_bits(), count);
            let product = BitProductCorrelation::prepare(channel, ots, wrap.ot(), shape)?;
            Ok(Self { wrap, comparison, product })
        })
    }

    /// Shares of 1 where the low `bits` bits of the shares add up to `2^bits` or more, of 0 elsewhere, in
    /// `Z_{2^into}`; for several wraps side by side. What lies above `into` bits is arbitrary.
    ///
    /// By comparison:
    ///
    /// | server: `x0` | | client: `x1` |
    /// |---|---|---|
    /// | `2^bits - 1 - x0` | `<->` [`ComparisonCorrelation::compare`]: `w = a ^ b` | `x1` |
    /// | | `<->` [`BitProductCorrelation::multiply`]: `a b` | |
    /// | `a - 2 (share of a b)` | | `b - 2 (share of a b)` |
    ///
    /// By a known sign, that is, where the sum modulo `2^bits` has its top bit clear: `a`, `b` are the shares' top bits, and `w =
    /// a | b = a + b - a b`.
    ///
    /// # Errors
    /// As [`ComparisonCorrelation::compare`] and [`BitProductCorrelation::multiply`].
    ///
    /// # Panics
    /// If there are not as many shares as were prepared.
    pub fn shares(
        channel: &mut Channel,
        wraps: Vec<Self>,
        shares: &[u64],
    ) -> Result<Vec<Zeroizing<Vec<u64>>>, RuntimeError> {
        let party = channel.party();
        let (mut compared, mut numbers, mut products) = (Vec::new(), Vec::new(), Vec::new());
        for Self { wrap, comparison, product } in wraps {
            if let Some(comparison) = comparison {
                compared.push(comparison);
                numbers.push(to_compare(party, shares, u64::MAX >> (64 - wrap.bits)));
            }
            products.push((wrap, product));
        }
        let batches = compared.into_iter().zip(numbers.iter().map(|numbers| &numbers[..]));
        let mut compared = ComparisonCorrelation::compare(channel, batches.collect())?.into_iter();
        let bits: Vec<Bits> = products
            .iter()
            .map(|(wrap, _)| match wrap.method {
                WrapMethod::Compare(_) => compared.next().unwrap_or_default(),
                WrapMethod::KnownSign(_) => top_bits(shares, wrap.bits),
            })
            .collect();
        let (wraps, products): (Vec<_>, Vec<_>) = products.into_iter().unzip();
        let batches = products.into_iter().zip(&bits).collect();
        let mut all = BitProductCorrelation::multiply(channel, batches)?;
        for ((wraps, bits), wrap) in all.iter_mut().zip(&bits).zip(wraps) {
            let factor = match wrap.method {
                WrapMethod::Compare(_) => 2,
                WrapMethod::KnownSign(_) => 1,
            };
            for (share, bit) in wraps.iter_mut().zip(bits.iter()) {
                *share = bit.wrapping_sub(share.wrapping_mul(factor));
            }
        }
        Ok(all)
    }
}

impl Stored for WrapCorrelation {
    /// The wrap and the number of elements.
    type Shape = (Wrap, usize);

    fn store(self, record: &mut RecordWriter) {
        self.comparison.into_iter().for_each(|comparison| comparison.store(record));
        self.product.store(record);
    }

    fn restore(
        (wrap, count): (Wrap, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let comparison = match &wrap.method {
            WrapMethod::Compare(comparison) => {
                let layout = ComparisonLayout::new(wrap.bits, comparison);
                Some(ComparisonCorrelation::restore((layout, count), record)?)
            }
            WrapMethod::KnownSign(_) => None,
        };
        let product = BitProductCorrelation::restore((wrap.product_bits(), count), record)?;
        Ok(Self { wrap, comparison, product })
    }
}

/// What to compare to learn whether the low bits under `mask` wrap: they do if the client's number is greater.
fn to_compare(party: Party, shares: &[u64], mask: u64) -> Zeroizing<Vec<u64>> {
    let numbers = shares.iter().map(|share| match party {
        Party::Server => mask - (share & mask),
        Party::Client => share & mask,
    });
    Zeroizing::new(numbers.collect())
}

/// The highest of `bits` bits of each share.
fn top_bits(shares: &[u64], bits: u32) -> Bits {
    let mut tops = Bits::with_capacity(shares.len());
    shares.iter().for_each(|share| tops.push(share >> (bits - 1) & 1));
    tops
}
