//! Dropping fractional bits.

use super::WrapCorrelation;
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::truncation_wraps;
use copriv_ir::{Party, Ring, TruncateMethod};
use zeroize::Zeroizing;

/// One party's correlation for the truncation of one batch of numbers.
#[derive(Debug)]
pub struct TruncationCorrelation {
    ring: Ring,
    shift: u32,
    method: TruncateMethod,
    /// For the wrap of the shares in the ring, into `Z_{2^shift}`, and then for that of their low bits, into the ring.
    wraps: Vec<WrapCorrelation>,
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
        method: TruncateMethod,
        (ring, shift): (Ring, u32),
        count: usize,
    ) -> Result<Self, RuntimeError> {
        assert!((1..ring.bits()).contains(&shift), "cannot drop {shift} bits in {ring}");
        super::requesting(channel, |channel| {
            let wraps = truncation_wraps(ring, shift, method).into_iter();
            let wraps = wraps.map(|wrap| WrapCorrelation::prepare(channel, ots, wrap, count));
            Ok(Self { ring, shift, method, wraps: wraps.collect::<Result<_, _>>()? })
        })
    }

    /// Shares of `x / 2^shift`, rounded as the method says.
    ///
    /// Where the sign is not known the server adds `2^(l-1)` first, so that the sum is the unsigned number `x + 2^(l-1)`. It is
    /// `x0 + x1 - 2^l w`, `w` the shares' wrap, and the shifted shares lack a carry where the low bits wrap (`u`):
    /// `x >> s = (x0 >> s) + (x1 >> s) - 2^(l-s) w + u - 2^(l-1-s)` (CrypTFlow2, CCS 2020, section 4; SIRNN, S&P 2021).
    ///
    /// Without `u` that rounds down or is one less. So the server rounds its share up instead: the result is then
    /// `x >> s`, or one more with the probability of the bits dropped (see [`TruncateMethod`]).
    ///
    /// | server: `x0`, plus `2^(l-1)` if the sign is unknown | | client: `x1` |
    /// |---|---|---|
    /// | | `<->` [`WrapCorrelation::shares`]: `w` in `Z_{2^s}`, and for the exact result `u` in the ring | |
    /// | `x0 / 2^s` (down if exact, else up) `- 2^(l-s) w + u - 2^(l-1-s)` | | `(x1 >> s) - 2^(l-s) w + u` |
    ///
    /// Truncate and reduce leaves out `w` too: modulo `2^(l-s)` it does not count.
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
        let Self { ring, shift, method, wraps } = self;
        let server = channel.party() == Party::Server;
        let half = match method {
            TruncateMethod::Faithful(_) | TruncateMethod::OneOff(_) if server => {
                1 << (ring.bits() - 1)
            }
            _ => 0,
        };
        let moved = shares.iter().map(|&share| ring.add(share, half)).collect::<Vec<_>>();
        let mut moved = Zeroizing::new(moved);
        let wraps = WrapCorrelation::shares(channel, wraps, &moved)?;

        let dropped = (1 << shift) - 1;
        let up = if server && !matches!(method, TruncateMethod::Faithful(_)) { dropped } else { 0 };
        let offset = half >> shift;
        for share in moved.iter_mut() {
            let carry = ((*share & dropped) + up) >> shift;
            *share = (*share >> shift).wrapping_add(carry).wrapping_sub(offset);
        }
        let factors = [(1_u64 << (ring.bits() - shift)).wrapping_neg(), 1];
        for (wraps, factor) in wraps.iter().zip(factors) {
            for (share, wrap) in moved.iter_mut().zip(&**wraps) {
                *share = share.wrapping_add(wrap.wrapping_mul(factor));
            }
        }
        let unused = match method {
            TruncateMethod::Reduce => shift,
            _ => 0,
        };
        moved.iter_mut().for_each(|share| *share = ring.reduce(*share) & ring.mask() >> unused);
        Ok(moved)
    }
}

impl Stored for TruncationCorrelation {
    /// The method, the ring, the bits to drop and the number of elements.
    type Shape = (TruncateMethod, Ring, u32, usize);

    fn store(self, record: &mut RecordWriter) {
        self.wraps.into_iter().for_each(|wrap| wrap.store(record));
    }

    fn restore(
        (method, ring, shift, count): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let wraps = truncation_wraps(ring, shift, method).into_iter();
        let wraps = wraps.map(|wrap| WrapCorrelation::restore((wrap, count), record));
        Ok(Self { ring, shift, method, wraps: wraps.collect::<Result<_, _>>()? })
    }
}
