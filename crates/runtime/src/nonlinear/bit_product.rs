//! Products of a bit that the server knows and a bit that the client knows.

use crate::bits::Bits;
use crate::ot::{BLOCK, Code, Ots};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::streams::PRODUCT_WINDOW;
use copriv_ir::{OtKind, Party};
use std::collections::VecDeque;
use std::fmt;
use zeroize::Zeroizing;

/// One party's part of such products of random bits, as shares in `Z_{2^bits}`.
pub struct BitProductCorrelation {
    bits: u32,
    /// This party's random bits.
    factors: Bits,
    /// Its shares of the products, what lies above `bits` is arbitrary. Empty where `bits` is 0.
    products: Zeroizing<Vec<u64>>,
}

impl fmt::Debug for BitProductCorrelation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BitProductCorrelation").field("bits", &self.bits).finish_non_exhaustive()
    }
}

impl BitProductCorrelation {
    /// Prepares `count` products with shares of `bits` bits, at most 64. Without any bits there is nothing to prepare.
    ///
    /// | server: random bits `r` | | client: random bits `r'` |
    /// |---|---|---|
    /// | | `<-` extension | its choices are `r'` |
    /// | `k_0 - k_1 + r` | `->` `bits` bits each | |
    /// | `-k_0` | | `k_r' + r' (received)` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        (bits, count): (u32, usize),
    ) -> Result<Self, RuntimeError> {
        let count = if bits == 0 { 0 } else { count };
        let products = Zeroizing::new(Vec::with_capacity(count));
        let mut prepared = Self { bits, factors: Bits::default(), products };
        super::requesting(channel, |channel| {
            match channel.party() {
                Party::Server => prepared.offer(channel, ots, (kind, count))?,
                Party::Client => prepared.request(channel, ots, (kind, count))?,
            }
            Ok(prepared)
        })
    }

    fn offer(
        &mut self,
        channel: &mut Channel,
        ots: &mut Ots,
        (kind, count): (OtKind, usize),
    ) -> Result<(), RuntimeError> {
        let Self { bits, factors, products } = self;
        *factors = Bits::random(count, &mut ots.rng);
        for first in (0..count).step_by(BLOCK) {
            let count = BLOCK.min(count - first);
            let mut message = Packer::with_capacity(packed_len(count, *bits));
            let block = ots.sender.extend_random(channel, kind, Code::OneOf2, count)?;
            block.for_each(|position, pads| {
                if let [zero, one] = *pads {
                    let difference = (zero as u64).wrapping_sub(one as u64);
                    message.push(difference.wrapping_add(factors.get(first + position)), *bits);
                    products.push((zero as u64).wrapping_neg());
                }
            });
            channel.answer().send(&message.finish())?;
        }
        Ok(())
    }

    fn request(
        &mut self,
        channel: &mut Channel,
        ots: &mut Ots,
        (kind, count): (OtKind, usize),
    ) -> Result<(), RuntimeError> {
        self.factors = Bits::with_capacity(count);
        let mut in_flight = VecDeque::with_capacity(PRODUCT_WINDOW);
        for first in (0..count).step_by(BLOCK) {
            if in_flight.len() == PRODUCT_WINDOW
                && let Some(pads) = in_flight.pop_front()
            {
                self.take(channel, pads)?;
            }
            let Ots { receiver, rng, .. } = &mut *ots;
            let count = BLOCK.min(count - first);
            let (choices, block) =
                receiver.extend_random(channel, kind, Code::OneOf2, (count, rng))?;
            self.factors.extend_from_bytes(&choices);
            let pads = block.pads().iter().map(|&pad| pad as u64).collect::<Vec<_>>();
            in_flight.push_back(Zeroizing::new(pads));
        }
        in_flight.into_iter().try_for_each(|pads| self.take(channel, pads))
    }

    /// The client's products of the next block, of which these are the pads.
    fn take(
        &mut self,
        channel: &mut Channel,
        pads: Zeroizing<Vec<u64>>,
    ) -> Result<(), RuntimeError> {
        let message = channel.recv(packed_len(pads.len(), self.bits))?;
        let mut differences = Unpacker::new(&message);
        for &pad in pads.iter() {
            let factor = self.factors.get(self.products.len());
            let difference = factor.wrapping_mul(differences.next(self.bits));
            self.products.push(pad.wrapping_add(difference));
        }
        Ok(())
    }

    /// Shares of the products of the parties' bits, for several batches side by side. What lies above a batch's width
    /// is arbitrary.
    ///
    /// With `d = a ^ r` and `d' = b ^ r'` in the open, `a = d + (1 - 2d) r`, `b = d' + (1 - 2d') r'`, and all but `r r'` is
    /// known to one of the parties.
    ///
    /// | server: `a`, `r`, share of `r r'` | | client: `b`, `r'`, share of `r r'` |
    /// |---|---|---|
    /// | `d` | `<->` 1 bit each | `d'` |
    /// | `d d' + d' (1 - 2d) r + (1 - 2d)(1 - 2d') (share)` | | `d (1 - 2d') r' + (1 - 2d)(1 - 2d') (share)` |
    ///
    /// # Errors
    /// As [`Channel::exchange`].
    ///
    /// # Panics
    /// If a batch with any width has not as many bits as were prepared.
    pub fn multiply(
        channel: &mut Channel,
        batches: Vec<(Self, &Bits)>,
    ) -> Result<Vec<Zeroizing<Vec<u64>>>, RuntimeError> {
        let mut message = Vec::new();
        let mut masked = Vec::with_capacity(batches.len());
        for (correlation, bits) in &batches {
            let mut difference = correlation.factors.slice(0..correlation.factors.len());
            if correlation.bits > 0 {
                assert_eq!(bits.len(), difference.len(), "bits as prepared");
                difference.xor(bits);
            }
            let mut packer = Packer::with_capacity(packed_len(difference.len(), 1));
            difference.pack_into(&mut packer);
            message.extend(packer.finish());
            masked.push(difference);
        }
        let mut theirs = vec![0; message.len()];
        channel.exchange(&message, &mut theirs)?;
        let mut theirs = &theirs[..];
        let mut shares = Vec::with_capacity(batches.len());
        for ((correlation, bits), ours) in batches.into_iter().zip(masked) {
            let (batch, rest) = theirs.split_at(packed_len(ours.len(), 1));
            let theirs_masked = Bits::unpack_from(&mut Unpacker::new(batch), ours.len());
            shares.push(correlation.finish(channel.party(), &ours, &theirs_masked, bits.len()));
            theirs = rest;
        }
        Ok(shares)
    }

    fn finish(self, party: Party, ours: &Bits, theirs: &Bits, count: usize) -> Zeroizing<Vec<u64>> {
        if self.bits == 0 {
            return Zeroizing::new(vec![0; count]);
        }
        let mut shares = self.products;
        let server = u64::from(party == Party::Server);
        for (index, share) in shares.iter_mut().enumerate() {
            let (d, e) = (ours.get(index), theirs.get(index));
            let [our_sign, their_sign] = [d, e].map(|bit| 1_u64.wrapping_sub(2 * bit));
            let random = share.wrapping_mul(their_sign).wrapping_add(e & self.factors.get(index));
            *share = random.wrapping_mul(our_sign).wrapping_add(server & d & e);
        }
        shares
    }
}

impl Stored for BitProductCorrelation {
    /// Bits of the shares, number of products.
    type Shape = (u32, usize);

    fn store(self, record: &mut RecordWriter) {
        record.bits(&self.factors);
        record.numbers(&self.products, self.bits);
    }

    fn restore(
        (bits, count): (u32, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let count = if bits == 0 { 0 } else { count };
        let (factors, products) = (record.bits(count)?, record.numbers(count, bits)?);
        Ok(Self { bits, factors, products })
    }
}
