//! The same number in another ring.

use super::WrapCorrelation;
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::extension_wrap;
use copriv_ir::{ExtendMethod, Party, Ring};
use zeroize::Zeroizing;

/// One party's correlation for the extension of one batch of numbers.
#[derive(Debug)]
pub struct ExtensionCorrelation {
    from: Ring,
    to: Ring,
    method: ExtendMethod,
    wrap: Option<WrapCorrelation>,
}

impl ExtensionCorrelation {
    /// Prepares the extension of `count` numbers of `from` to the wider ring `to`.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        method: ExtendMethod,
        (from, to): (Ring, Ring),
        count: usize,
    ) -> Result<Self, RuntimeError> {
        let wrap = extension_wrap(from, to, method);
        let prepare = |wrap| WrapCorrelation::prepare(channel, ots, wrap, count);
        Ok(Self { from, to, method, wrap: wrap.map(prepare).transpose()? })
    }

    /// Shares of the same numbers in the wider ring.
    ///
    /// The server adds `c` first, so that the sum is an unsigned number: `2^(l-1)` for any number, `2^(l-2)` with
    /// [`ExtendMethod::Offset`], 0 where the sign is known. It is `x0 + x1 - 2^l w`, `w` the shares' wrap.
    ///
    /// | server: `x0 + c` | | client: `x1` |
    /// |---|---|---|
    /// | | `<->` [`WrapCorrelation::shares`]: `w` in `Z_{2^(L-l)}` | |
    /// | `x0 + c - 2^l w - c` | | `x1 - 2^l w` |
    ///
    /// What the client alone knows is its share; it extends that, and the server's is zero.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If there are not as many shares as were prepared.
    pub fn extend(
        self,
        channel: &mut Channel,
        shares: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let Self { from, to, method, wrap } = self;
        let Some(wrap) = wrap else {
            let signed = shares.iter().map(|&share| to.from_signed(from.to_signed(share)));
            return Ok(Zeroizing::new(signed.collect()));
        };
        let offset = match (channel.party(), method) {
            (Party::Server, ExtendMethod::Compare(_)) => 1 << (from.bits() - 1),
            (Party::Server, ExtendMethod::Offset(_)) => 1 << (from.bits() - 2),
            _ => 0,
        };
        let moved = shares.iter().map(|&share| from.add(share, offset)).collect::<Vec<_>>();
        let mut moved = Zeroizing::new(moved);
        let wraps = WrapCorrelation::shares(channel, vec![wrap], &moved)?;
        for (share, wrap) in moved.iter_mut().zip(wraps.iter().flat_map(|wraps| wraps.iter())) {
            let lost = wrap << from.bits();
            *share = to.reduce(share.wrapping_sub(lost).wrapping_sub(offset));
        }
        Ok(moved)
    }
}

impl Stored for ExtensionCorrelation {
    /// The method, the narrower and the wider ring, and the number of elements.
    type Shape = (ExtendMethod, Ring, Ring, usize);

    fn store(self, record: &mut RecordWriter) {
        self.wrap.into_iter().for_each(|wrap| wrap.store(record));
    }

    fn restore(
        (method, from, to, count): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let wrap = extension_wrap(from, to, method);
        let restore = |wrap| WrapCorrelation::restore((wrap, count), record);
        Ok(Self { from, to, method, wrap: wrap.map(restore).transpose()? })
    }
}
