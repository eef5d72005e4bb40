//! One direction's work on a block of transfers: streams of columns, their sums, rows.

use super::code::Code;
use super::hash::TweakedHash;
use super::transpose::{SIDE, transpose};
use aes::cipher::BlockCipherEncrypt;
use aes::{Aes128Enc, Block};
use copriv_ir::Party;
use zeroize::Zeroize;

/// Most transfers of one message.
pub const BLOCK: usize = copriv_ir::cost::ot::BLOCK as usize;

/// Words of 128 transfers in a block.
pub(super) const WORDS: usize = BLOCK / SIDE;

/// Working memory and counters of one direction.
pub(super) struct BlockState {
    pub hash: TweakedHash,
    /// Tweak of the next transfer: the direction in the highest bit, then a counter. Never repeats.
    tweak: u128,
    /// AES counter of the next block's column streams.
    counter: u128,
    /// Words in use in the current block.
    words: usize,
    counters: [Block; WORDS],
    stream: [u128; WORDS],
    /// 128 columns of `WORDS` words: sums of the code's columns.
    mixed: Vec<u128>,
    /// One row for each transfer.
    pub rows: Vec<u128>,
}

impl BlockState {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party) -> Self {
        Self {
            hash: TweakedHash::new(),
            tweak: u128::from(sender == Party::Client) << 127,
            counter: 0,
            words: 0,
            counters: [Block::default(); WORDS],
            stream: [0; WORDS],
            mixed: vec![0; SIDE * WORDS],
            rows: vec![0; BLOCK],
        }
    }

    /// Prepares for a block of `count` transfers; the tweak of the first.
    pub(super) fn begin(&mut self, count: usize) -> u128 {
        assert!(count <= BLOCK, "a block has at most {BLOCK} transfers, not {count}");
        self.words = count.div_ceil(SIDE);
        for counter in &mut self.counters[..self.words] {
            *counter = self.counter.to_le_bytes().into();
            self.counter += 1;
        }
        self.mixed.fill(0);
        let first = self.tweak;
        self.tweak += count as u128;
        first
    }

    /// The stream of one column.
    #[inline]
    pub(super) fn stream(&mut self, cipher: &Aes128Enc) -> &mut [u128] {
        let mut blocks = self.counters;
        let blocks = &mut blocks[..self.words];
        cipher.encrypt_blocks(blocks);
        for (word, block) in self.stream.iter_mut().zip(&*blocks) {
            *word = u128::from_le_bytes((*block).into());
        }
        &mut self.stream[..self.words]
    }

    /// Adds the stream, which is column `column` of `group`, into the mixed columns that take it.
    #[inline]
    pub(super) fn mix(&mut self, code: Code, group: usize, column: usize) {
        let size = code.group_size();
        for (part, _) in code.mixes().iter().enumerate().filter(|(_, mix)| *mix >> group & 1 == 1) {
            let target = (part * size + column % size) * WORDS;
            xor(&mut self.mixed[target..target + self.words], &self.stream);
        }
    }

    /// Turns the mixed columns into rows.
    pub(super) fn finish(&mut self) {
        transpose(&self.mixed, WORDS, &mut self.rows[..self.words * SIDE]);
    }
}

impl Drop for BlockState {
    fn drop(&mut self) {
        self.stream.zeroize();
        self.mixed.zeroize();
        self.rows.zeroize();
    }
}

pub(super) fn xor(sum: &mut [u128], words: &[u128]) {
    sum.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::KeyInit;
    use std::collections::HashSet;

    #[test]
    fn the_two_directions_never_share_a_tweak() {
        let (mut server, mut client) =
            (BlockState::new(Party::Server), BlockState::new(Party::Client));
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
        let mut state = BlockState::new(Party::Server);
        let key = Aes128Enc::new(&[9; 16].into());
        let mut used = HashSet::new();
        for count in [1, 128, 129, BLOCK, 3] {
            state.begin(count);
            assert!(state.stream(&key).iter().all(|word| used.insert(*word)));
        }
    }
}
