//! From XOR shares of a bit to additive shares (b2a).

use super::multiplexer::{restore_offered, swapped};
use crate::bits::Bits;
use crate::ot::{BLOCK, Code, Ots};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::{OtKind, Party, Ring};
use std::fmt;
use zeroize::Zeroizing;

/// One party's part of random 1-of-2 transfers in which the client chose, for one batch of bits.
#[derive(Debug)]
pub struct ConversionCorrelation {
    ring: Ring,
    part: Part,
}

enum Part {
    Server { offered: Zeroizing<Vec<[u64; 2]>> },
    Client { choices: Bits, chosen: Zeroizing<Vec<u64>> },
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

impl ConversionCorrelation {
    /// Prepares `count` conversions into `ring`: one message from the client, `count` 1-of-2 transfers.
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        (ring, count): (Ring, usize),
    ) -> Result<Self, RuntimeError> {
        let blocks = (0..count).step_by(BLOCK).map(|first| BLOCK.min(count - first));
        let part = if channel.party() == Party::Server {
            let mut offered = Zeroizing::new(Vec::with_capacity(count));
            for count in blocks {
                let block = ots.sender.extend_random(channel, kind, Code::OneOf2, count)?;
                block.for_each(|_, pads| {
                    if let [zero, one] = *pads {
                        offered.push([zero as u64, one as u64]);
                    }
                });
            }
            Part::Server { offered }
        } else {
            let mut choices = Bits::with_capacity(count);
            let mut chosen = Zeroizing::new(Vec::with_capacity(count));
            for count in blocks {
                let Ots { receiver, rng, .. } = &mut *ots;
                let (bits, block) =
                    receiver.extend_random(channel, kind, Code::OneOf2, (count, rng))?;
                bits.iter().for_each(|&choice| choices.push(choice.into()));
                chosen.extend(block.pads().iter().map(|&pad| pad as u64));
            }
            Part::Client { choices, chosen }
        };
        Ok(Self { ring, part })
    }

    /// Additive shares of several batches of bits, side by side, each with its own correlation.
    ///
    /// `b ^ b' = b + b' - 2 b b'`; the product needs one bit less than the ring.
    ///
    /// | server: `b`, pads `q_0, q_1` | | client: `b'`, choice `r`, pad `q_r` |
    /// |---|---|---|
    /// | | `<-` 1 bit each | `d = b' ^ r` |
    /// | `k_i = q_(i ^ d)`; `k_0 - k_1 + b` | `->` l - 1 bits each | |
    /// | `b + 2 k_0` | | `b' - 2 (q_r + b' (received))` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    ///
    /// # Panics
    /// If a batch has not as many bits as were prepared.
    pub fn convert(
        channel: &mut Channel,
        batches: Vec<(Self, &Bits)>,
    ) -> Result<Vec<Zeroizing<Vec<u64>>>, RuntimeError> {
        let mut shares = Vec::with_capacity(batches.len());
        let mut requested = Vec::new();
        for (Self { ring, part }, bits) in batches {
            match part {
                Part::Server { offered } => shares.push(answer(channel, ring, &offered, bits)?),
                Part::Client { choices, chosen } => {
                    request(channel, choices, bits)?;
                    requested.push((ring, chosen, bits));
                }
            }
        }
        for (ring, chosen, bits) in requested {
            shares.push(take(channel, ring, &chosen, bits)?);
        }
        Ok(shares)
    }
}

impl Stored for ConversionCorrelation {
    /// The ring and the number of conversions.
    type Shape = (Ring, usize);

    fn store(self, record: &mut RecordWriter) {
        // The top bit of a pad does not matter: shares take it twice.
        let bits = self.ring.bits() - 1;
        match self.part {
            Part::Server { offered } => record.numbers(offered.as_flattened(), bits),
            Part::Client { choices, chosen } => {
                record.bits(&choices);
                record.numbers(&chosen, bits);
            }
        }
    }

    fn restore(
        (ring, count): (Ring, usize),
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let bits = ring.bits() - 1;
        let part = match record.party() {
            Party::Server => Part::Server { offered: restore_offered(record, count, bits)? },
            Party::Client => {
                Part::Client { choices: record.bits(count)?, chosen: record.numbers(count, bits)? }
            }
        };
        Ok(Self { ring, part })
    }
}

/// The client's corrections of one batch.
fn request(channel: &mut Channel, mut choices: Bits, bits: &Bits) -> Result<(), RuntimeError> {
    assert_eq!(bits.len(), choices.len(), "bits as prepared");
    choices.xor(bits);
    let mut corrections = Packer::with_capacity(packed_len(bits.len(), 1));
    choices.pack_into(&mut corrections);
    channel.send(&corrections.finish())
}

/// The server's answer to one batch; its shares.
fn answer(
    channel: &mut Channel,
    ring: Ring,
    offered: &[[u64; 2]],
    bits: &Bits,
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    assert_eq!(bits.len(), offered.len(), "bits as prepared");
    let corrections = channel.recv(packed_len(bits.len(), 1))?;
    let mut corrections = Unpacker::new(&corrections);
    let mut differences = Packer::with_capacity(packed_len(bits.len(), ring.bits() - 1));
    let mut shares = Zeroizing::new(Vec::with_capacity(bits.len()));
    for (bit, &pads) in bits.iter().zip(offered) {
        let [k0, k1] = swapped(pads, corrections.next(1));
        differences.push(k0.wrapping_sub(k1).wrapping_add(bit), ring.bits() - 1);
        shares.push(ring.add(bit, k0.wrapping_mul(2)));
    }
    channel.send(&differences.finish())?;
    Ok(shares)
}

/// The client's shares from the server's answer to one batch.
fn take(
    channel: &mut Channel,
    ring: Ring,
    chosen: &[u64],
    bits: &Bits,
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    let differences = channel.recv(packed_len(bits.len(), ring.bits() - 1))?;
    let mut differences = Unpacker::new(&differences);
    let shares = bits.iter().zip(chosen).map(|(bit, &pad)| {
        let product = pad.wrapping_add(bit.wrapping_mul(differences.next(ring.bits() - 1)));
        ring.sub(bit, product.wrapping_mul(2))
    });
    Ok(Zeroizing::new(shares.collect()))
}
