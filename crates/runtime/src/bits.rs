//! A vector of secret bits: one bit of many independent values.

use crate::ot::Prg;
use crate::packing::{Packer, Unpacker};
use std::fmt;
use std::ops::Range;
use zeroize::{Zeroize, ZeroizeOnDrop};

const WORD: usize = 64;

/// Secret bits, 64 to a word. Forgets them when dropped; cannot be copied.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct Bits {
    /// Unused bits of the last word are zero.
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// So many zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(WORD)], len }
    }

    /// So many random bits.
    #[must_use]
    pub fn random(len: usize, rng: &mut Prg) -> Self {
        let mut bits = Self::zeros(len);
        bits.words.iter_mut().for_each(|word| *word = rng.next_u64());
        bits.clear_unused();
        bits
    }

    /// No bits, with room for so many.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        Self { words: Vec::with_capacity(len.div_ceil(WORD)), len: 0 }
    }

    /// Number of bits.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bit `index` as 0 or 1.
    ///
    /// # Panics
    /// If there is no such bit.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        self.words[index / WORD] >> (index % WORD) & 1
    }

    /// Adds `bit`, 0 or 1, to bit `index` modulo 2.
    ///
    /// # Panics
    /// If there is no such bit.
    #[inline]
    pub(crate) fn flip(&mut self, index: usize, bit: u64) {
        self.words[index / WORD] ^= bit << (index % WORD);
    }

    /// Appends a bit, 0 or 1.
    #[inline]
    pub(crate) fn push(&mut self, bit: u64) {
        if self.len.is_multiple_of(WORD) {
            self.words.push(0);
        }
        self.len += 1;
        self.flip(self.len - 1, bit);
    }

    /// Appends the first `count` bits of `plane`, 128 to a word.
    ///
    /// # Panics
    /// If the bits so far do not fill whole words.
    pub(crate) fn extend_from_plane(&mut self, plane: &[u128], count: usize) {
        assert!(self.len.is_multiple_of(WORD), "{} bits are no whole words", self.len);
        let halves = plane.iter().flat_map(|&word| [word as u64, (word >> WORD) as u64]);
        self.words.extend(halves.take(count.div_ceil(WORD)));
        self.len += count;
        self.clear_unused();
    }

    /// Appends the lowest bit of each byte.
    ///
    /// # Panics
    /// As [`Self::extend_from_plane`].
    pub(crate) fn extend_from_bytes(&mut self, bytes: &[u8]) {
        assert!(self.len.is_multiple_of(WORD), "{} bits are no whole words", self.len);
        self.words.extend(
            bytes.chunks(WORD).map(|bytes| {
                bytes.iter().rev().fold(0, |word, byte| word << 1 | u64::from(byte & 1))
            }),
        );
        self.len += bytes.len();
    }

    /// All bits in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len).map(|index| self.get(index))
    }

    /// Adds the other's bits modulo 2; of the shorter of the two.
    pub(crate) fn xor(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word ^= other);
    }

    /// Inverts all bits.
    pub(crate) fn invert(&mut self) {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_unused();
    }

    /// A copy of some of the bits; zeros past the end.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let word = |index: usize| self.words.get(index).copied().unwrap_or(0);
        let (first, shift) = (range.start / WORD, range.start % WORD);
        let mut bits = Self::zeros(range.len());
        for (index, out) in bits.words.iter_mut().enumerate() {
            *out = word(first + index) >> shift;
            if shift > 0 {
                *out |= word(first + index + 1) << (WORD - shift);
            }
        }
        bits.clear_unused();
        bits
    }

    /// 64 bits to a word.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The bits made by `f` from the words of several vectors of `len` bits.
    pub(crate) fn from_words(len: usize, f: impl FnMut(usize) -> u64) -> Self {
        let mut bits = Self { words: (0..len.div_ceil(WORD)).map(f).collect(), len };
        bits.clear_unused();
        bits
    }

    /// Appends all bits to a message.
    pub(crate) fn pack_into(&self, packer: &mut Packer) {
        let (whole, rest) = self.words.split_at(self.len / WORD);
        whole.iter().for_each(|word| packer.push(*word, WORD as u32));
        rest.iter().for_each(|word| packer.push(*word, (self.len % WORD) as u32));
    }

    /// Reads `len` bits of a message.
    pub(crate) fn unpack_from(unpacker: &mut Unpacker<'_>, len: usize) -> Self {
        Self::from_words(len, |index| {
            let bits = (len - index * WORD).min(WORD);
            unpacker.next(bits as u32)
        })
    }

    fn clear_unused(&mut self) {
        if let Some(last) = self.words.last_mut()
            && !self.len.is_multiple_of(WORD)
        {
            *last &= u64::MAX >> (WORD - self.len % WORD);
        }
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bits").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(bits: &Bits) -> Vec<u64> {
        bits.iter().collect()
    }

    proptest! {
        #[test]
        fn slices_and_messages_keep_every_bit(len in 0_usize..300, a in 0_usize..300, b in 0_usize..300, seed: u8) {
            let bits = Bits::random(len, &mut Prg::from_seed(&[seed; 16]));
            let all = vector(&bits);
            let (start, end) = (a.min(b).min(len), a.max(b).min(len));
            prop_assert_eq!(vector(&bits.slice(start..end)), &all[start..end]);

            let mut packer = Packer::with_capacity(0);
            packer.push(1, 3);
            bits.pack_into(&mut packer);
            let message = packer.finish();
            prop_assert_eq!(message.len(), (len + 3).div_ceil(8));
            let mut unpacker = Unpacker::new(&message);
            unpacker.next(3);
            prop_assert_eq!(vector(&Bits::unpack_from(&mut unpacker, len)), &all[..]);

            let mut pushed = Bits::with_capacity(len);
            all.iter().for_each(|&bit| pushed.push(bit));
            prop_assert_eq!(pushed.words(), bits.words());
            pushed.xor(&bits);
            pushed.invert();
            prop_assert!(pushed.iter().all(|bit| bit == 1));
            prop_assert_eq!(pushed.words().iter().map(|word| word.count_ones() as usize).sum::<usize>(), len);
        }
    }
}
