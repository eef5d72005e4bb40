//! One direction's work on a block of transfers: streams of columns, their sums, rows.

use super::cipher::Part;
use super::code::Code;
use super::hash::TweakedHash;
use super::transpose::{SIDE, transpose};
use copriv_ir::Party;
use zeroize::Zeroizing;

/// Most transfers of one message.
pub const BLOCK: usize = copriv_ir::cost::ot::BLOCK as usize;

/// Words of 128 transfers in a block.
pub(super) const WORDS: usize = BLOCK / SIDE;

/// One bit of the choices of a block's transfers.
pub type Plane = [u128; WORDS];

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
    /// The current block's part of the columns' streams.
    pub part: Part,
    /// What a message is received into or sent from.
    pub message: Vec<u8>,
    /// The 128 columns that become rows, for IKNP sums of the code's columns.
    pub columns: Zeroizing<Vec<Plane>>,
    /// One row for each transfer.
    pub rows: Zeroizing<Vec<u128>>,
}

impl BlockState {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party, domain: Domain) -> Self {
        Self {
            hash: TweakedHash::new(),
            tweaks: Tweaks::new(sender, domain),
            part: Part { counter: 0, words: 0 },
            message: Vec::new(),
            columns: Zeroizing::new(vec![[0; WORDS]; SIDE]),
            rows: Zeroizing::new(vec![0; BLOCK]),
        }
    }

    /// Prepares for a block of `count` transfers; the tweak of the first.
    ///
    /// The columns are what the last block left in them.
    pub(super) fn begin(&mut self, count: usize) -> u128 {
        assert!(count <= BLOCK, "a block has at most {BLOCK} transfers, not {count}");
        let counter = self.part.counter + self.part.words as u128;
        self.part = Part { counter, words: count.div_ceil(SIDE) };
        self.tweaks.next(count)
    }

    /// Empties the columns into which others are mixed.
    pub(super) fn clear_columns(&mut self) {
        self.columns.as_flattened_mut().fill(0);
    }

    /// Adds a column of `group` into the mixed columns that take it.
    #[inline]
    pub(super) fn mix(&mut self, code: Code, (group, column): (usize, usize), stream: &Plane) {
        let size = code.group_size();
        for (part, _) in code.mixes().iter().enumerate().filter(|(_, mix)| *mix >> group & 1 == 1) {
            xor(&mut self.columns[part * size + column % size], stream);
        }
    }

    /// Turns the mixed columns into rows.
    pub(super) fn finish(&mut self) {
        let rows = &mut self.rows[..self.part.words * SIDE];
        transpose(self.columns.as_flattened(), WORDS, rows);
    }
}

/// Adds a column to another.
#[inline]
pub(super) fn xor(sum: &mut Plane, words: &Plane) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have this feature.
        return unsafe { xor_avx2(sum, words) };
    }
    xor_portable(sum, words);
}

/// The portable way, compiled for processors with 256-bit registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn xor_avx2(sum: &mut Plane, words: &Plane) {
    xor_portable(sum, words);
}

#[inline(always)]
fn xor_portable(sum: &mut Plane, words: &Plane) {
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
    let eights = plane.iter().flat_map(|word| word.to_le_bytes());
    for (bytes, eight) in bytes.chunks_mut(8).zip(eights) {
        // Eight copies, one bit left in each; adding carries it to the top.
        let copies = (u64::from(eight) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let ones = (copies + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101;
        for (byte, one) in bytes.iter_mut().zip((ones << bit).to_le_bytes()) {
            *byte ^= one;
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

/// The words of a message's column, zeros beyond its end.
pub(super) fn read(column: &[u8], plane: &mut Plane) {
    let (whole, rest) = column.as_chunks();
    plane.iter_mut().zip(whole).for_each(|(word, bytes)| *word = u128::from_le_bytes(*bytes));
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    if let Some((word, beyond)) = plane.get_mut(whole.len()..).and_then(<[_]>::split_first_mut) {
        *word = u128::from_le_bytes(last);
        beyond.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let mut used = HashSet::new();
        for count in [1, 128, 129, BLOCK, 3] {
            state.begin(count);
            let Part { counter, words } = state.part;
            assert_eq!(words, count.div_ceil(128));
            assert!((0..words as u128).all(|word| used.insert(counter + word)));
        }
    }
}
