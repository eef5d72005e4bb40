//! Of two shared numbers the one that a shared bit points at.

use crate::bits::Bits;
use crate::ot::{BLOCK, Code, Ots};
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::OtKind;
use std::fmt;
use zeroize::Zeroizing;

/// A value, shared by addition, and the number of its place, shared by XOR.
pub(super) type Candidate = [u64; 2];

/// One party's part of random 1-of-2 transfers in both directions, for one batch of selections.
///
/// As in [`super::MultiplexerCorrelation`], but of two numbers with one bit: a pad of 128 bits masks both.
pub(super) struct SelectionCorrelation {
    bits: [u32; 2],
    choices: Bits,
    chosen: Zeroizing<Vec<Candidate>>,
    offered: Zeroizing<Vec<[Candidate; 2]>>,
}

impl fmt::Debug for SelectionCorrelation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectionCorrelation").finish_non_exhaustive()
    }
}

impl SelectionCorrelation {
    /// Prepares `count` selections of values of `bits[0]` and numbers of `bits[1]` bits; nothing where both are none.
    ///
    /// | server | | client |
    /// |---|---|---|
    /// | random choices `r` | `<->` extension, `count` 1-of-2 transfers each way | random choices `r'` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub(super) fn prepare(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        (bits, count): ([u32; 2], usize),
    ) -> Result<Self, RuntimeError> {
        let mut prepared = Self {
            bits,
            choices: Bits::with_capacity(count),
            chosen: Zeroizing::new(Vec::with_capacity(count)),
            offered: Zeroizing::new(Vec::with_capacity(count)),
        };
        if bits == [0, 0] {
            return Ok(prepared);
        }
        let mut lane = channel.lane();
        for first in (0..count).step_by(BLOCK) {
            let count = BLOCK.min(count - first);
            let Ots { sender, receiver, rng, .. } = &mut *ots;
            let (choices, block) =
                receiver.extend_random(&mut lane, kind, Code::OneOf2, (count, rng))?;
            prepared.chosen.extend(block.pads().iter().map(|&pad| split(pad, bits)));
            choices.iter().for_each(|&choice| prepared.choices.push(choice.into()));
            let block = sender.extend_random(&mut lane, kind, Code::OneOf2, count)?;
            block.for_each(|_, pads| {
                if let [zero, one] = *pads {
                    prepared.offered.push([zero, one].map(|pad| split(pad, bits)));
                }
            });
        }
        Ok(prepared)
    }

    /// Shares of `b x`: of a bit and a difference of values, and of a bit and a difference of numbers.
    ///
    /// | server: `b`, `x` | | client: `b'`, `x'` |
    /// |---|---|---|
    /// | `d = b ^ r` | `<->` 1 bit | `d' = b' ^ r'` |
    /// | `k_0 - k_1 + (1 - 2b) x`; the same modulo 2 for the number | `<->` value and number | `k'_0 - k'_1 + (1 - 2b') x'` |
    /// | `b x - k_0 + p_r + b (received)` | | `b' x' - k'_0 + q_r' + b' (received)` |
    ///
    /// # Errors
    /// As [`Channel::exchange`].
    ///
    /// # Panics
    /// If there are not as many bits and differences as were prepared.
    pub(super) fn multiply(
        self,
        channel: &mut Channel,
        flags: &Bits,
        differences: &[Candidate],
    ) -> Result<Zeroizing<Vec<Candidate>>, RuntimeError> {
        let Self { bits, mut choices, chosen, offered } = self;
        if bits == [0, 0] {
            return Ok(Zeroizing::new(vec![[0, 0]; differences.len()]));
        }
        let count = chosen.len();
        assert_eq!((flags.len(), differences.len()), (count, count), "as many as prepared");
        choices.xor(flags);
        let corrections = super::exchange_bits(channel, &choices)?;

        let mut product = Zeroizing::new(Vec::with_capacity(count));
        let mut message = Packer::with_capacity(packed_len(count, bits[0] + bits[1]));
        for (index, (offered, chosen)) in offered.iter().zip(chosen.iter()).enumerate() {
            let (flag, [value, number]) = (flags.get(index), differences[index]);
            let mask = flag.wrapping_neg();
            let [k0, k1] = swapped(*offered, corrections.get(index));
            let sign = 1_u64.wrapping_sub(2 * flag);
            let sent = k0[0].wrapping_sub(k1[0]).wrapping_add(sign.wrapping_mul(value));
            message.push(sent, bits[0]);
            message.push(k0[1] ^ k1[1] ^ number, bits[1]);
            let value = (mask & value).wrapping_sub(k0[0]).wrapping_add(chosen[0]);
            product.push([value, mask & number ^ k0[1] ^ chosen[1]]);
        }
        let message = message.finish();
        let mut theirs = vec![0; message.len()];
        channel.exchange(&message, &mut theirs)?;
        let mut theirs = Unpacker::new(&theirs);
        for (share, flag) in product.iter_mut().zip(flags.iter()) {
            let mask = flag.wrapping_neg();
            let [value, number] = bits.map(|bits| theirs.next(bits) & mask);
            *share =
                [reduce(share[0].wrapping_add(value), bits[0]), reduce(share[1] ^ number, bits[1])];
        }
        Ok(product)
    }
}

impl Stored for SelectionCorrelation {
    /// Bits of values and of numbers, and how many selections.
    type Shape = ([u32; 2], usize);

    fn store(self, record: &mut RecordWriter) {
        let mut candidate = |candidate: &Candidate| {
            candidate.iter().zip(self.bits).for_each(|(&part, bits)| record.number(part, bits));
        };
        self.chosen.iter().for_each(&mut candidate);
        self.offered.as_flattened().iter().for_each(&mut candidate);
        record.bits(&self.choices);
    }

    fn restore(
        (bits, count): Self::Shape,
        record: &mut RecordReader<'_>,
    ) -> Result<Self, RecordTooShort> {
        let count = if bits == [0, 0] { 0 } else { count };
        let mut chosen = Zeroizing::new(vec![[0_u64; 2]; count]);
        let mut offered = Zeroizing::new(vec![[[0_u64; 2]; 2]; count]);
        for candidate in chosen.iter_mut().chain(offered.as_flattened_mut()) {
            *candidate = [record.number(bits[0])?, record.number(bits[1])?];
        }
        Ok(Self { bits, choices: record.bits(count)?, chosen, offered })
    }
}

/// Both halves of a pad, of so many bits.
fn split(pad: u128, bits: [u32; 2]) -> Candidate {
    [reduce(pad as u64, bits[0]), reduce((pad >> 64) as u64, bits[1])]
}

/// The low `bits` bits.
fn reduce(number: u64, bits: u32) -> u64 {
    number & 1_u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1)
}

/// The pair, exchanged if `bit` is one.
fn swapped([zero, one]: [Candidate; 2], bit: u64) -> [Candidate; 2] {
    let mask = bit.wrapping_neg();
    let swap = [(zero[0] ^ one[0]) & mask, (zero[1] ^ one[1]) & mask];
    [[zero[0] ^ swap[0], zero[1] ^ swap[1]], [one[0] ^ swap[0], one[1] ^ swap[1]]]
}
