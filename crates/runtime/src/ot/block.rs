//! One direction's work on a block of transfers: streams of columns, their sums, rows.

use super::code::Code;
use super::hash::{self, TweakedHash};
use super::transpose::{SIDE, transpose};
use aes::Aes128Enc;
use copriv_ir::Party;
use zeroize::Zeroize;

/// Most transfers of one message.
pub const BLOCK: usize = copriv_ir::cost::ot::BLOCK as usize;

/// Words of 128 transfers in a block.
pub(super) const WORDS: usize = BLOCK / SIDE;

/// What a tweak is for. All hashes of a session share a key, so no two uses may share a tweak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Iknp,
    SoftSpoken2,
    SoftSpoken4,
    SoftSpoken8,
    Silent,
    Trees,
}

/// Tweaks of one direction in one domain: direction, domain, then a counter. They never repeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tweaks(u128);

impl Tweaks {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party, domain: Domain) -> Self {
        Self(u128::from(sender == Party::Client) << 127 | (domain as u128) << 120)
    }

    /// The first of the next `count` tweaks.
    pub(super) fn next(&mut self, count: usize) -> u128 {
        let first = self.0;
        self.0 += count as u128;
        first
    }
}

/// Working memory and counters of one direction.
pub(super) struct BlockState {
    pub hash: TweakedHash,
    /// Tweaks of the transfers.
    tweaks: Tweaks,
    /// AES counter of the next block's column streams.
    counter: u128,
    /// Words in use in the current block.
    words: usize,
    counters: [u128; WORDS],
    /// What a message is received into or sent from.
    pub message: Vec<u8>,
    stream: [u128; WORDS],
    /// 128 columns of `WORDS` words, for IKNP sums of the code's columns.
    columns: Vec<u128>,
    /// One row for each transfer.
    pub rows: Vec<u128>,
}

impl BlockState {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party, domain: Domain) -> Self {
        Self {
            hash: TweakedHash::new(),
            tweaks: Tweaks::new(sender, domain),
            counter: 0,
            words: 0,
            counters: [0; WORDS],
            message: Vec::new(),
            stream: [0; WORDS],
            columns: vec![0; SIDE * WORDS],
            rows: vec![0; BLOCK],
        }
    }

    /// Prepares for a block of `count` transfers; the tweak of the first.
    ///
    /// The columns are what the last block left in them.
    pub(super) fn begin(&mut self, count: usize) -> u128 {
        assert!(count <= BLOCK, "a block has at most {BLOCK} transfers, not {count}");
        self.words = count.div_ceil(SIDE);
        for counter in &mut self.counters[..self.words] {
            *counter = self.counter;
            self.counter += 1;
        }
        self.tweaks.next(count)
    }

    /// The stream of one column.
    #[inline]
    pub(super) fn stream(&mut self, cipher: &Aes128Enc) -> &mut [u128] {
        let Self { counters, stream, words, .. } = self;
        let stream = &mut stream[..*words];
        hash::encrypt_to(cipher, &counters[..*words], stream);
        stream
    }

    /// Fills `stream` with as many words as the block has.
    #[inline]
    pub(super) fn stream_into(&self, cipher: &Aes128Enc, stream: &mut [u128; WORDS]) {
        hash::encrypt_to(cipher, &self.counters[..self.words], &mut stream[..self.words]);
    }

    /// Puts the stream of a cipher in the place of one of the 128 columns that become rows.
    #[inline]
    pub(super) fn stream_to(&mut self, cipher: &Aes128Enc, column: usize) -> &mut [u128] {
        let Self { counters, columns, words, .. } = self;
        let column = &mut columns[column * WORDS..][..*words];
        hash::encrypt_to(cipher, &counters[..*words], column);
        column
    }

    /// Empties the columns into which others are mixed.
    pub(super) fn clear_columns(&mut self) {
        self.columns.fill(0);
    }

    /// Words in use in the current block.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// One of the 128 columns that become rows.
    pub(super) fn column(&mut self, column: usize) -> &mut [u128] {
        &mut self.columns[column * WORDS..][..self.words]
    }

    /// Adds the stream, which is column `column` of `group`, into the mixed columns that take it.
    #[inline]
    pub(super) fn mix(&mut self, code: Code, group: usize, column: usize) {
        let size = code.group_size();
        for (part, _) in code.mixes().iter().enumerate().filter(|(_, mix)| *mix >> group & 1 == 1) {
            let target = (part * size + column % size) * WORDS;
            xor(&mut self.columns[target..target + self.words], &self.stream);
        }
    }

    /// Turns the mixed columns into rows.
    pub(super) fn finish(&mut self) {
        transpose(&self.columns, WORDS, &mut self.rows[..self.words * SIDE]);
    }
}

impl Drop for BlockState {
    fn drop(&mut self) {
        self.stream.zeroize();
        self.columns.zeroize();
        self.rows.zeroize();
    }
}

pub(super) fn xor(sum: &mut [u128], words: &[u128]) {
    sum.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
}

/// Bit `bit` of each of at most [`BLOCK`] bytes.
pub(super) fn gather(bytes: &[u8], bit: u32) -> [u128; WORDS] {
    let mut plane = [0; WORDS];
    for (position, eight) in bytes.chunks(8).enumerate() {
        let mut bytes = [0; 8];
        bytes[..eight.len()].copy_from_slice(eight);
        let word = u64::from_le_bytes(bytes) >> bit & 0x0101_0101_0101_0101;
        // The multiplication gathers the lowest bits of the eight bytes in the highest byte.
        let gathered = word.wrapping_mul(0x0102_0408_1020_4080) >> 56;
        plane[position / 16] |= u128::from(gathered) << (8 * (position % 16));
    }
    plane
}

/// Adds bit `j` of `plane` to bit `bit` of byte `j`.
pub(super) fn scatter(plane: &[u128], bit: u32, bytes: &mut [u8]) {
    for (bytes, word) in bytes.chunks_mut(SIDE).zip(plane) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= ((word >> at & 1) as u8) << bit;
        }
    }
}

/// Writes the first bytes of a column over `message`.
pub(super) fn write(message: &mut [u8], column: &[u128]) {
    let (whole, rest) = message.as_chunks_mut();
    whole.iter_mut().zip(column).for_each(|(to, word)| *to = word.to_le_bytes());
    if let Some(word) = column.get(whole.len()) {
        rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
    }
}

/// The words of a message's column.
pub(super) fn words(column: &[u8]) -> impl Iterator<Item = u128> {
    let (whole, rest) = column.as_chunks();
    let last = (!rest.is_empty()).then(|| {
        let mut bytes = [0; 16];
        bytes[..rest.len()].copy_from_slice(rest);
        bytes
    });
    whole.iter().copied().chain(last).map(u128::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::KeyInit;
    use std::collections::HashSet;

    #[test]
    fn the_two_directions_never_share_a_tweak() {
        let (mut server, mut client) = (
            BlockState::new(Party::Server, Domain::Iknp),
            BlockState::new(Party::Client, Domain::Iknp),
        );
        let mut used = HashSet::new();
        for count in [1, 8, 0, BLOCK, 5, BLOCK] {
            for state in [&mut server, &mut client] {
                let first = state.begin(count);
                assert!((0..count).all(|position| used.insert(first + position as u128)));
            }
        }
    }

    #[test]
    fn column_streams_never_repeat() {
        let mut state = BlockState::new(Party::Server, Domain::Iknp);
        let key = Aes128Enc::new(&[9; 16].into());
        let mut used = HashSet::new();
        for count in [1, 128, 129, BLOCK, 3] {
            state.begin(count);
            assert!(state.stream(&key).iter().all(|word| used.insert(*word)));
        }
    }
}
