//! How correlations are laid down: one stream of bits.

use crate::Bits;
use crate::packing::{Packer, Unpacker};
use copriv_ir::Party;
use zeroize::Zeroizing;

/// A correlation that can wait on disk.
///
/// Only what is secret is stored. All else follows from the plan and comes back in as [`Self::Shape`], so that
/// the size of what is stored is known beforehand (`copriv_ir::cost::stored`).
pub trait Stored: Sized {
    /// What the plan says of it: rings, counts, layouts.
    type Shape;

    /// Lays it down. It is consumed: what is stored is no longer in memory.
    fn store(self, record: &mut RecordWriter);

    /// Takes it up again.
    ///
    /// # Errors
    /// [`RecordTooShort`] where the record ends before it does.
    fn restore(shape: Self::Shape, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort>;
}

/// A record ends before everything has been read that its plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record ends before its plan does")]
pub struct RecordTooShort;

/// The payload of a record being written.
pub struct RecordWriter {
    packer: Packer,
}

impl RecordWriter {
    /// An empty payload. `bytes` must be what it will hold, or copies of secrets stay behind in memory.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { packer: Packer::with_capacity(bytes) }
    }

    /// The low `bits` bits of a number, at most 64.
    #[inline]
    pub fn number(&mut self, number: u64, bits: u32) {
        self.packer.push(number, bits);
    }

    /// The low `bits` bits of each number, at most 64.
    pub fn numbers(&mut self, numbers: &[u64], bits: u32) {
        if bits > 0 {
            self.packer.push_all(numbers, bits);
        }
    }

    /// All bits of a vector.
    pub fn bits(&mut self, bits: &Bits) {
        bits.pack_into(&mut self.packer);
    }

    /// The payload; the unused bits of its last byte are zero.
    #[must_use]
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.packer.finish())
    }
}

/// The payload of a record being read.
pub struct RecordReader<'a> {
    party: Party,
    unpacker: Unpacker<'a>,
    /// Bits not yet read.
    left: u64,
}

impl<'a> RecordReader<'a> {
    /// From the first bit of a payload that belongs to `party`.
    #[must_use]
    pub fn new(party: Party, payload: &'a [u8]) -> Self {
        Self { party, unpacker: Unpacker::new(payload), left: 8 * payload.len() as u64 }
    }

    /// Whose record it is.
    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// The next number of `bits` bits, at most 64.
    ///
    /// # Errors
    /// [`RecordTooShort`].
    #[inline]
    pub fn number(&mut self, bits: u32) -> Result<u64, RecordTooShort> {
        self.take(1, bits)?;
        Ok(self.unpacker.next(bits))
    }

    /// The next `count` numbers of `bits` bits, at most 64.
    ///
    /// # Errors
    /// [`RecordTooShort`]; nothing is allocated then.
    pub fn numbers(
        &mut self,
        count: usize,
        bits: u32,
    ) -> Result<Zeroizing<Vec<u64>>, RecordTooShort> {
        self.take(count, bits)?;
        let mut numbers = Zeroizing::new(vec![0; count]);
        if bits > 0 {
            self.unpacker.fill(&mut numbers, bits);
        }
        Ok(numbers)
    }

    /// The next `len` bits.
    ///
    /// # Errors
    /// [`RecordTooShort`]; nothing is allocated then.
    pub fn bits(&mut self, len: usize) -> Result<Bits, RecordTooShort> {
        self.take(len, 1)?;
        Ok(Bits::unpack_from(&mut self.unpacker, len))
    }

    /// Whether all has been read but the unused bits of the last byte.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.left < 8
    }

    fn take(&mut self, count: usize, bits: u32) -> Result<(), RecordTooShort> {
        let needed = (count as u64).checked_mul(bits.into()).ok_or(RecordTooShort)?;
        self.left = self.left.checked_sub(needed).ok_or(RecordTooShort)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;

    #[test]
    fn what_was_written_is_read_and_not_a_bit_more() {
        let mut random = Prg::from_seed(&[5; 16]);
        for (count, width) in [(0, 7), (1, 1), (5, 64), (100, 41), (9, 0)] {
            let numbers: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
            let flags = Bits::random(count + 3, &mut random);
            let bits = 13 + count * width as usize + flags.len();
            let mut writer = RecordWriter::with_capacity(bits.div_ceil(8));
            writer.number(0x1fff, 13);
            writer.numbers(&numbers, width);
            writer.bits(&flags);
            let payload = writer.finish();
            assert_eq!(payload.len(), bits.div_ceil(8));

            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            let mut reader = RecordReader::new(Party::Client, &payload);
            assert_eq!(reader.number(13), Ok(0x1fff));
            let read = reader.numbers(count, width).expect("there");
            assert!(read.iter().zip(&numbers).all(|(read, number)| *read == number & mask));
            assert!(reader.bits(flags.len()).expect("there").iter().eq(flags.iter()));
            assert!(reader.is_at_end());
            assert_eq!(reader.number(8), Err(RecordTooShort));
        }
    }

    #[test]
    fn what_is_not_there_is_not_allocated() {
        let mut reader = RecordReader::new(Party::Server, &[0; 4]);
        assert_eq!(reader.numbers(usize::MAX, 64).map(drop), Err(RecordTooShort));
        assert_eq!(reader.bits(33).map(drop), Err(RecordTooShort));
        assert!(reader.bits(32).is_ok());
    }
}
