//! Products of a shared bit and a shared number.

use crate::bits::Bits;
use crate::ot::{BLOCK, Code, Ots};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::{OtKind, Ring};
use std::fmt;
use zeroize::Zeroizing;

/// One party's part of random 1-of-2 transfers in both directions, for one batch of products.
pub struct MultiplexerCorrelation {
    ring: Ring,
    /// Its random choices.
    choices: Bits,
    /// The pads that they gave.
    chosen: Zeroizing<Vec<u64>>,
    /// Both pads of the transfers in which the peer chose.
    offered: Zeroizing<Vec<[u64; 2]>>,
}

impl fmt::Debug for MultiplexerCorrelation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiplexerCorrelation").finish_non_exhaustive()
    }
}

impl MultiplexerCorrelation {
    /// Prepares `count` products in `ring`.
    ///
    /// | server | | client |
    /// |---|---|---|
    /// | random choices `r` | `<->` extension, `count` 1-of-2 transfers each way | random choices `r'` |
    /// | pad `p_r` of its own, pads `q_0, q_1` | | pads `p_0, p_1`, pad `q_r'` of its own |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        (ring, count): (Ring, usize),
    ) -> Result<Self, RuntimeError> {
        let mut prepared = Self {
            ring,
            choices: Bits::with_capacity(count),
            chosen: Zeroizing::new(Vec::with_capacity(count)),
            offered: Zeroizing::new(Vec::with_capacity(count)),
        };
        let mut lane = channel.lane();
        for first in (0..count).step_by(BLOCK) {
            let count = BLOCK.min(count - first);
            let Ots { sender, receiver, rng, .. } = &mut *ots;
            let (choices, block) =
                receiver.extend_random(&mut lane, kind, Code::OneOf2, (count, rng))?;
            prepared.chosen.extend(block.pads().iter().map(|&pad| ring.reduce(pad as u64)));
            prepared.choices.extend_from_bytes(&choices);
            let block = sender.extend_random(&mut lane, kind, Code::OneOf2, count)?;
            block.for_each(|_, pads| {
                if let [zero, one] = *pads {
                    prepared.offered.push([zero, one].map(|pad| ring.reduce(pad as u64)));
                }
            });
        }
        Ok(prepared)
    }

    /// Shares of `bits * values`.
    ///
    /// With the bit `b ^ b'` and the number `x + x'`, the sum of `(b ^ b') x` and `(b ^ b') x'`: in each the
    /// owner of `x` offers `b x - k_0` and `(1 - b) x - k_0`, the other chooses by its bit.
    ///
    /// | server: `b`, `x` | | client: `b'`, `x'` |
    /// |---|---|---|
    /// | `d = b ^ r` | `<->` 1 bit a product | `d' = b' ^ r'` |
    /// | `k_i = q_(i ^ d')` | | `k'_i = p_(i ^ d)` |
    /// | `k_0 - k_1 + (1 - 2b) x` | `<->` l bits a product | `k'_0 - k'_1 + (1 - 2b') x'` |
    /// | `b x - k_0 + p_r + b (received)` | | `b' x' - k'_0 + q_r' + b' (received)` |
    ///
    /// # Errors
    /// As [`Channel::exchange`].
    ///
    /// # Panics
    /// If there are not as many bits and values as were prepared.
    pub fn multiply(
        self,
        channel: &mut Channel,
        bits: &Bits,
        values: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
        let Self { ring, mut choices, chosen, offered } = self;
        let count = chosen.len();
        assert_eq!((bits.len(), values.len()), (count, count), "bits and values as prepared");
        choices.xor(bits);
        let corrections = exchange_bits(channel, &choices)?;

        let mut product = Zeroizing::new(vec![0; count]);
        let mut differences = Packer::with_capacity(packed_len(count, ring.bits()));
        for (index, share) in product.iter_mut().enumerate() {
            let (bit, value) = (bits.get(index), values[index]);
            let [k0, k1] = swapped(offered[index], corrections.get(index));
            let sign = 1_u64.wrapping_sub(2 * bit);
            let difference = k0.wrapping_sub(k1).wrapping_add(sign.wrapping_mul(value));
            differences.push(difference, ring.bits());
            *share = bit.wrapping_mul(value).wrapping_sub(k0).wrapping_add(chosen[index]);
        }
        let differences = differences.finish();
        let mut theirs = vec![0; differences.len()];
        channel.exchange(&differences, &mut theirs)?;
        let mut theirs = Unpacker::new(&theirs);
        for (share, bit) in product.iter_mut().zip(bits.iter()) {
            let received = bit.wrapping_mul(theirs.next(ring.bits()));
            *share = ring.reduce(share.wrapping_add(received));
        }
        Ok(product)
    }
}

impl Stored for MultiplexerCorrelation {
    /// The ring and the number of products.
    type Shape = (Ring, usize);

    fn store(self, record: &mut RecordWriter) {
        let bits = self.ring.bits();
        record.bits(&self.choices);
        record.numbers(&self.chosen, bits);
        record.numbers(self.offered.as_flattened(), bits);
    }

    fn restore(
        (ring, count): (Ring, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let (choices, chosen) = (record.bits(count)?, record.numbers(count, ring.bits())?);
        let offered = restore_offered(record, count, ring.bits())?;
        Ok(Self { ring, choices, chosen, offered })
    }
}

/// Both pads, of `bits` bits, of each of `count` transfers.
fn restore_offered(
    record: &mut RecordReader<'_>,
    count: usize,
    bits: u32,
) -> Result<Zeroizing<Vec<[u64; 2]>>, RecordTooShort> {
    let pads = record.numbers(2 * count, bits)?;
    let (pairs, _) = pads.as_chunks::<2>();
    Ok(Zeroizing::new(pairs.to_vec()))
}

/// Sends bits while the peer sends as many.
pub(super) fn exchange_bits(channel: &mut Channel, ours: &Bits) -> Result<Bits, RuntimeError> {
    let mut packer = Packer::with_capacity(packed_len(ours.len(), 1));
    ours.pack_into(&mut packer);
    let ours_packed = packer.finish();
    let mut theirs = vec![0; ours_packed.len()];
    channel.exchange(&ours_packed, &mut theirs)?;
    Ok(Bits::unpack_from(&mut Unpacker::new(&theirs), ours.len()))
}

/// The pair, exchanged if `bit` is one.
fn swapped([zero, one]: [u64; 2], bit: u64) -> [u64; 2] {
    let swap = (zero ^ one) & bit.wrapping_neg();
    [zero ^ swap, one ^ swap]
}
