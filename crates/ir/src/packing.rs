//! Values of a few bits, packed without gaps, least significant bit first.

/// Bytes that `count` values of `bits` bits take.
///
/// `count * bits` must fit `usize`; it counts what is in memory or about to be.
#[must_use]
pub const fn packed_len(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

/// The low `bits` bits of each value; unused bits of the last byte are zero. `bits` is at most 64.
#[must_use]
pub fn pack(values: impl IntoIterator<Item = u64>, bits: u32) -> Vec<u8> {
    let values = values.into_iter();
    let mut packer = Packer::with_capacity(packed_len(values.size_hint().0, bits));
    values.for_each(|value| packer.push(value, bits));
    packer.finish()
}

/// `count` values of `bits` bits, at most 64; zeros where `bytes` ends early.
#[must_use]
pub fn unpack(bytes: &[u8], bits: u32, count: usize) -> Vec<u64> {
    let mut unpacker = Unpacker::new(bytes);
    (0..count).map(|_| unpacker.next(bits)).collect()
}

/// Packs values of different widths one after the other.
#[derive(Default)]
pub struct Packer {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, fewer than 64.
    pending: u64,
    filled: u32,
}

impl Packer {
    /// An empty packer with room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes + 8), pending: 0, filled: 0 }
    }

    /// An empty packer that writes over `bytes` and keeps their room.
    #[must_use]
    pub fn over(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, pending: 0, filled: 0 }
    }

    /// Appends the low `bits` bits of `value`; at most 64.
    #[inline]
    pub fn push(&mut self, value: u64, bits: u32) {
        if bits == 0 {
            return;
        }
        let value = value & (u64::MAX >> (64 - bits));
        self.pending |= value << self.filled;
        if self.filled + bits < 64 {
            self.filled += bits;
            return;
        }
        self.bytes.extend_from_slice(&self.pending.to_le_bytes());
        let written = 64 - self.filled;
        self.pending = value.checked_shr(written).unwrap_or(0);
        self.filled = bits - written;
    }

    /// Appends the low `bits` bits of each value; 1 to 64. Faster than one by one.
    pub fn push_all(&mut self, values: &[u64], bits: u32) {
        // Filling a word first makes joining values to the stream rarer.
        let mask = u64::MAX >> (64 - bits);
        // A local packer's counters stay in registers.
        let mut packer = std::mem::take(self);
        for values in values.chunks((64 / bits) as usize) {
            let mut shift = 0;
            let mut word = 0;
            for &value in values {
                word |= (value & mask) << shift;
                shift += bits;
            }
            packer.push(word, shift);
        }
        *self = packer;
    }

    /// Appends the low bits of each of `words`, as many as `widths` say in turn, again and again; 1 to 64. Faster than one
    /// by one.
    pub fn push_in_turn(&mut self, words: &[u64], widths: &[u32]) {
        let turn: usize = widths.iter().map(|&width| width as usize).sum();
        let most = self.filled as usize + words.len().div_ceil(widths.len().max(1)) * turn;
        let start = self.bytes.len();
        self.bytes.resize(start + 8 * (most / 64 + 1), 0);
        let whole = self.bytes[start..].as_chunks_mut::<8>().0;
        // A word is written whenever something comes to it, so that nothing here depends on where words end.
        let (mut at, mut pending, mut filled) = (0, self.pending, self.filled);
        for words in words.chunks(widths.len().max(1)) {
            for (word, width) in words.iter().zip(widths) {
                let word = word & (u64::MAX >> (64 - width));
                let low = pending | word << filled;
                let high = word >> 1 >> (63 - filled);
                whole[at] = low.to_le_bytes();
                filled += width;
                let is_full = filled >> 6;
                pending = if is_full == 1 { high } else { low };
                at += is_full as usize;
                filled &= 63;
            }
        }
        (self.pending, self.filled) = (pending, filled);
        self.bytes.truncate(start + 8 * at);
    }

    /// Appends the first `bits` bits of `bytes`.
    ///
    /// # Panics
    /// Where there are fewer.
    pub fn push_bytes(&mut self, bytes: &[u8], bits: usize) {
        let (words, rest) = bytes[..bits.div_ceil(8)].split_at(bits / 64 * 8);
        let words = words.as_chunks::<8>().0;
        if self.filled == 0 {
            self.bytes.extend_from_slice(words.as_flattened());
        } else {
            let start = self.bytes.len();
            self.bytes.resize(start + 8 * words.len(), 0);
            let (filled, mut pending) = (self.filled, self.pending);
            for (to, from) in self.bytes[start..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
                let word = u64::from_le_bytes(*from);
                *to = (pending | word << filled).to_le_bytes();
                pending = word >> (64 - filled);
            }
            self.pending = pending;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.push(u64::from_le_bytes(last), (bits % 64) as u32);
    }

    /// Lets `f` write the next `bits` bits, whole words of 64, in their place, and `slack` bytes after them that are forgotten.
    /// Does nothing and returns `false` where what came before does not fill whole words.
    pub fn write_words(&mut self, bits: usize, slack: usize, f: impl FnOnce(&mut [u8])) -> bool {
        if self.filled > 0 || !bits.is_multiple_of(64) {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.resize(start + bits / 8 + slack, 0);
        f(&mut self.bytes[start..]);
        self.bytes.truncate(start + bits / 8);
        true
    }

    /// All bytes, the last one filled up with zeros.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let rest = self.filled.div_ceil(8) as usize;
        self.bytes.extend(self.pending.to_le_bytes().iter().take(rest));
        self.bytes
    }
}

/// Reads back what a [`Packer`] wrote.
#[derive(Clone)]
pub struct Unpacker<'a> {
    bytes: &'a [u8],
    /// Bits already read.
    position: usize,
}

impl<'a> Unpacker<'a> {
    /// From the first bit of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next value of `bits` bits, at most 64; zeros past the end.
    #[inline]
    pub fn next(&mut self, bits: u32) -> u64 {
        let (window, passed) = self.window::<16>(bits as usize);
        let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
        (u128::from_le_bytes(window) >> passed) as u64 & mask
    }

    /// The byte in which the next bit stands and those after it, zeros past the end, and how many bits of it were passed
    /// before. Goes on by `bits`.
    #[inline]
    pub fn window<const BYTES: usize>(&mut self, bits: usize) -> ([u8; BYTES], u32) {
        let (byte, passed) = (self.position / 8, (self.position % 8) as u32);
        self.position += bits;
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let window = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut window = [0; BYTES];
            window[..rest.len()].copy_from_slice(rest);
            window
        });
        (window, passed)
    }

    /// The next `bits` bits, and at least `slack` bytes after them, where they begin with a byte and there are so many.
    #[must_use]
    pub fn read_bytes(&mut self, bits: usize, slack: usize) -> Option<&'a [u8]> {
        if !self.position.is_multiple_of(8) {
            return None;
        }
        let rest = self.bytes.get(self.position / 8..)?;
        let found = rest.len() >= bits.div_ceil(8) + slack;
        found.then(|| {
            self.position += bits;
            rest
        })
    }

    /// The next values of `bits` bits, 1 to 64; zeros past the end. Faster than one by one.
    pub fn fill(&mut self, values: &mut [u64], bits: u32) {
        let mask = u64::MAX >> (64 - bits);
        for values in values.chunks_mut((64 / bits) as usize) {
            let word = self.next(bits * values.len() as u32);
            let mut shift = 0;
            for value in values {
                *value = word >> shift & mask;
                shift += bits;
            }
        }
    }

    /// The next `bits` bits as bytes, the last one filled up with zeros; zeros past the end.
    ///
    /// # Panics
    /// Where `bytes` has no room for them.
    pub fn fill_bytes(&mut self, bytes: &mut [u8], bits: usize) {
        let (words, rest) = bytes[..bits.div_ceil(8)].split_at_mut(bits / 64 * 8);
        let first = self.position / 8;
        match self.bytes.get(first..first + words.len()) {
            Some(now) if self.position.is_multiple_of(8) => {
                words.copy_from_slice(now);
                self.position += 8 * words.len();
            }
            _ => {
                for word in words.as_chunks_mut::<8>().0 {
                    *word = self.next(64).to_le_bytes();
                }
            }
        }
        let last = self.next((bits % 64) as u32).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_significant_bit_comes_first() {
        assert_eq!(pack([1, 0, 1, 1], 1), [0b1101]);
        assert_eq!(pack([0b101, 0b011, 0b110], 3), [0b1001_1101, 0b1]);
        assert_eq!(pack([u64::MAX, 1], 64), [&[255; 8][..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(pack([7; 100], 0), [0_u8; 0]);
    }

    #[test]
    fn short_input_reads_as_zeros() {
        assert_eq!(unpack(&[0xff], 7, 3), [0x7f, 1, 0]);
    }

    proptest! {
        #[test]
        fn whole_slices_are_the_same_as_their_values(
            runs in prop::collection::vec((1_u32..=64, prop::collection::vec(any::<u64>(), 0..70)), 0..5),
        ) {
            let (mut one_by_one, mut whole) = (Packer::default(), Packer::default());
            for (bits, values) in &runs {
                values.iter().for_each(|&value| one_by_one.push(value, *bits));
                whole.push_all(values, *bits);
            }
            let bytes = whole.finish();
            prop_assert_eq!(&bytes, &one_by_one.finish());
            let mut unpacker = Unpacker::new(&bytes);
            for (bits, values) in runs {
                let mut read = vec![0; values.len()];
                unpacker.fill(&mut read, bits);
                let expected: Vec<u64> = values.iter().map(|v| v & (u64::MAX >> (64 - bits))).collect();
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn words_of_widths_in_turn_are_the_same_as_one_by_one(
            runs in prop::collection::vec(
                (prop::collection::vec(1_u32..=64, 1..6), prop::collection::vec(any::<u64>(), 0..40)), 0..5),
            lead in 0_u32..64,
        ) {
            let (mut one_by_one, mut in_turn) = (Packer::default(), Packer::default());
            one_by_one.push(1, lead);
            in_turn.push(1, lead);
            for (widths, words) in &runs {
                let turns = words.iter().zip(widths.iter().cycle());
                turns.for_each(|(&word, &width)| one_by_one.push(word, width));
                in_turn.push_in_turn(words, widths);
            }
            prop_assert_eq!(in_turn.finish(), one_by_one.finish());
        }

        #[test]
        fn words_are_written_and_read_in_place(
            lead in prop_oneof![Just(0_u32), Just(64), 0_u32..64],
            words in prop::collection::vec(any::<u64>(), 0..9),
            (slack, step) in (0_usize..70, 0_usize..20),
        ) {
            let (mut one_by_one, mut in_place) = (Packer::default(), Packer::default());
            one_by_one.push(1, lead);
            in_place.push(1, lead);
            let written = in_place.write_words(64 * words.len(), slack, |bytes| {
                assert_eq!(bytes.len(), 8 * words.len() + slack);
                bytes.fill(0xff);
                for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&words) {
                    *to = word.to_le_bytes();
                }
            });
            prop_assert_eq!(written, lead % 64 == 0);
            words.iter().filter(|_| written).for_each(|&word| one_by_one.push(word, 64));
            let bytes = in_place.finish();
            prop_assert_eq!(&bytes, &one_by_one.finish());

            let mut unpacker = Unpacker::new(&bytes);
            unpacker.next(step as u32);
            match unpacker.read_bytes(step, slack) {
                Some(rest) => {
                    prop_assert_eq!(rest, &bytes[step / 8..]);
                    prop_assert!(step % 8 == 0 && rest.len() >= step.div_ceil(8) + slack);
                    prop_assert_eq!(unpacker.position, 2 * step);
                }
                None => prop_assert_eq!(unpacker.position, step),
            }
        }

        #[test]
        fn windows_show_what_comes(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            steps in prop::collection::vec(0_usize..70, 0..10),
        ) {
            let mut unpacker = Unpacker::new(&bytes);
            let mut bits = Unpacker::new(&bytes);
            for step in steps {
                let (window, passed) = unpacker.window::<16>(step);
                let mut window = u128::from_le_bytes(window) >> passed;
                for _ in 0..step {
                    prop_assert_eq!(bits.next(1), window as u64 & 1);
                    window >>= 1;
                }
            }
        }

        #[test]
        fn runs_of_bytes_are_the_same_as_their_bits(
            runs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            (lead, cut) in (0_u32..64, 0_usize..8),
        ) {
            let (mut by_bits, mut by_bytes) = (Packer::default(), Packer::default());
            let bits = |run: &[u8]| (8 * run.len()).saturating_sub(cut);
            by_bits.push(5, lead);
            by_bytes.push(5, lead);
            for run in &runs {
                (0..bits(run)).for_each(|bit| by_bits.push(u64::from(run[bit / 8] >> (bit % 8)), 1));
                by_bytes.push_bytes(run, bits(run));
            }
            let bytes = by_bytes.finish();
            prop_assert_eq!(&bytes, &by_bits.finish());
            let mut unpacker = Unpacker::new(&bytes);
            unpacker.next(lead);
            for run in runs {
                let mut read = vec![0; run.len()];
                unpacker.fill_bytes(&mut read, bits(&run));
                for (bit, at) in (0..bits(&run)).map(|bit| (bit, bit % 8)) {
                    prop_assert_eq!(read[bit / 8] >> at & 1, run[bit / 8] >> at & 1);
                }
            }
        }

        #[test]
        fn fields_of_any_width_survive(fields in prop::collection::vec((any::<u64>(), 0_u32..=64), 0..100)) {
            let mut packer = Packer::with_capacity(0);
            fields.iter().for_each(|&(value, bits)| packer.push(value, bits));
            let bytes = packer.finish();
            let total: u32 = fields.iter().map(|field| field.1).sum();
            prop_assert_eq!(bytes.len(), total.div_ceil(8) as usize);
            let mut unpacker = Unpacker::new(&bytes);
            for (value, bits) in fields {
                let expected = if bits == 0 { 0 } else { value & (u64::MAX >> (64 - bits)) };
                prop_assert_eq!(unpacker.next(bits), expected);
            }
        }
    }
}
