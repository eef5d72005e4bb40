//! Stretching 240 base transfers into any number of random 1-of-N transfers.

use super::base::BaseOts;
use super::block::{BlockState, WORDS, xor};
use super::code::Code;
use super::hash::{self, TweakedHash};
use crate::{Channel, RuntimeError};
use aes::cipher::KeyInit;
use aes::{Aes128Enc, Block};
use copriv_ir::Party;
use std::fmt;
use zeroize::Zeroizing;

/// The party that learns all N pads of each transfer.
///
/// IKNP (CRYPTO 2003), generalised to 1-of-N by KK13 (CRYPTO 2013). For each block:
///
/// | sender, secret `s`, seeds `k_c = k_c[s_c]` | | receiver, choices `w_j`, seeds `k_c[0], k_c[1]` |
/// |---|---|---|
/// | | | `t_c = G(k_c[0])` |
/// | | `<-` | `u_c = t_c ^ G(k_c[1]) ^ (code(w_j)_c)_j`, each column `c` |
/// | `q_c = G(k_c[s_c]) ^ s_c u_c` | | |
/// | pad `w`: `H(mix(q_j ^ s & code(w)), j)` | | pad `w_j`: `H(mix(t_j), j)` |
pub struct OtSender {
    columns: Vec<Aes128Enc>,
    /// The secret `s`, one byte of zeros or ones a column.
    masks: Zeroizing<Vec<u8>>,
    /// `mix(s & code(w))` for each code and `w`.
    offsets: Zeroizing<[[u128; 16]; 4]>,
    block: BlockState,
}

/// The party that learns one pad of each transfer. See [`OtSender`].
pub struct OtReceiver {
    columns: Vec<[Aes128Enc; 2]>,
    block: BlockState,
}

impl OtSender {
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        let masks = base.choices.iter().map(|choice| choice.wrapping_neg()).collect();
        let mut offsets = Zeroizing::new([[0; 16]; 4]);
        for (offsets, code) in offsets.iter_mut().zip(Code::ALL) {
            for (choice, offset) in offsets.iter_mut().enumerate().take(code.options()) {
                *offset = mixed_word(code, choice, &base.choices);
            }
        }
        Self {
            columns: base.chosen.iter().map(cipher).collect(),
            masks: Zeroizing::new(masks),
            offsets,
            block: BlockState::new(party),
        }
    }

    /// Makes `count` transfers, at most [`BLOCK`](super::BLOCK): receives one message of
    /// `code.columns() * count.div_ceil(8)` bytes.
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    ///
    /// # Panics
    /// If `count` is greater than [`BLOCK`](super::BLOCK).
    pub fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        count: usize,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        let first = self.block.begin(count);
        let bytes = count.div_ceil(8);
        let message = channel.recv(code.columns() * bytes)?;
        let mut corrections = message.chunks_exact(bytes.max(1));
        for group in code.groups() {
            for (column, correction) in code.columns_of(group).zip(&mut corrections) {
                let mask = u128::from_le_bytes([self.masks[column]; 16]);
                let stream = self.block.stream(&self.columns[column]);
                for (word, correction) in stream.iter_mut().zip(correction.chunks(16)) {
                    let mut bytes = [0; 16];
                    bytes[..correction.len()].copy_from_slice(correction);
                    *word ^= u128::from_le_bytes(bytes) & mask;
                }
                self.block.mix(code, group, column);
            }
        }
        self.block.finish();
        let offsets = &self.offsets[code.bits() as usize - 1][..code.options()];
        let BlockState { rows, hash, .. } = &self.block;
        Ok(SenderBlock { rows: &rows[..count], offsets, first, hash })
    }
}

impl OtReceiver {
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        let columns = base.both.iter().map(|keys| keys.each_ref().map(cipher)).collect();
        Self { columns, block: BlockState::new(party.peer()) }
    }

    /// Makes one transfer for each of `choices`, at most [`BLOCK`](super::BLOCK) of them and each less than
    /// `code.options()`: sends one message of `code.columns() * choices.len().div_ceil(8)` bytes. The choices
    /// stay hidden from the sender.
    ///
    /// # Errors
    /// As [`Channel::send`].
    ///
    /// # Panics
    /// If there are more than [`BLOCK`](super::BLOCK) choices.
    pub fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        choices: &[u8],
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let first = self.block.begin(choices.len());
        let bytes = choices.len().div_ceil(8);
        let planes = choice_planes(code, choices);
        let mut message = Vec::with_capacity(code.columns() * bytes);
        for group in code.groups() {
            let symbols = Zeroizing::new(group_symbols(&planes, group));
            for column in code.columns_of(group) {
                let mut correction = *symbols;
                let [zero, one] = &self.columns[column];
                xor(&mut correction, self.block.stream(one));
                xor(&mut correction, self.block.stream(zero));
                append(&mut message, &correction, bytes);
                self.block.mix(code, group, column);
            }
        }
        channel.send(&message)?;
        self.block.finish();
        let BlockState { rows, hash, .. } = &mut self.block;
        let rows = &mut rows[..choices.len()];
        hash.hash(rows, |position| first + position as u128);
        Ok(ReceiverBlock { pads: rows })
    }
}

/// A block of transfers as the sender knows them. The pads are derived when asked for.
pub struct SenderBlock<'a> {
    rows: &'a [u128],
    offsets: &'a [u128],
    /// Tweak of the first transfer.
    first: u128,
    hash: &'a TweakedHash,
}

impl SenderBlock<'_> {
    /// Calls `f` with the position of each transfer and its N pads.
    #[inline]
    pub fn for_each(self, mut f: impl FnMut(usize, &[u128])) {
        let options = self.offsets.len();
        let mut blocks = [Block::default(); hash::BATCH];
        let mut pads = Zeroizing::new([0; hash::BATCH]);
        let mut position = 0;
        for rows in self.rows.chunks(hash::BATCH / options) {
            let blocks = &mut blocks[..rows.len() * options];
            for (blocks, row) in blocks.chunks_exact_mut(options).zip(rows) {
                for (block, offset) in blocks.iter_mut().zip(self.offsets) {
                    *block = (row ^ offset).to_le_bytes().into();
                }
            }
            let pads = &mut pads[..blocks.len()];
            let (first, shift) = (self.first + position as u128, options.trailing_zeros());
            self.hash.hash_batch(blocks, |index| first + (index >> shift) as u128, pads);
            for pads in pads.chunks_exact(options) {
                f(position, pads);
                position += 1;
            }
        }
    }

    /// Both pads of each transfer; for 1-of-2 transfers.
    #[must_use]
    pub fn keys(self) -> Zeroizing<Vec<[u128; 2]>> {
        let mut keys = Zeroizing::new(Vec::with_capacity(self.rows.len()));
        self.for_each(|_, pads| {
            if let Some(pair) = pads.first_chunk() {
                keys.push(*pair);
            }
        });
        keys
    }
}

/// A block of transfers as the receiver knows them.
pub struct ReceiverBlock<'a> {
    pads: &'a [u128],
}

impl ReceiverBlock<'_> {
    /// The chosen pad of each transfer.
    #[must_use]
    pub fn pads(&self) -> &[u128] {
        self.pads
    }

    /// The chosen pad of each transfer, to keep.
    #[must_use]
    pub fn keys(self) -> Zeroizing<Vec<u128>> {
        Zeroizing::new(self.pads.to_vec())
    }
}

fn cipher(key: &[u8; 16]) -> Aes128Enc {
    Aes128Enc::new(key.into())
}

/// `mix(s & code(choice))`, bit by bit.
fn mixed_word(code: Code, choice: usize, secret: &[u8]) -> u128 {
    let size = code.group_size();
    let mut word = 0;
    for group in code.groups().filter(|&group| Code::symbol(choice, group)) {
        for column in code.columns_of(group) {
            for (part, mix) in code.mixes().iter().enumerate() {
                let bit = u128::from(secret[column]) & u128::from(mix >> group & 1);
                word ^= bit << (part * size + column % size);
            }
        }
    }
    word
}

/// Bit `b` of all choices in plane `b`.
fn choice_planes(code: Code, choices: &[u8]) -> Zeroizing<Vec<[u128; WORDS]>> {
    let mut planes = Zeroizing::new(vec![[0; WORDS]; code.bits() as usize]);
    for (position, eight) in choices.chunks(8).enumerate() {
        let mut bytes = [0; 8];
        bytes[..eight.len()].copy_from_slice(eight);
        let word = u64::from_le_bytes(bytes);
        for (bit, plane) in planes.iter_mut().enumerate() {
            // The multiplication gathers the lowest bits of the eight bytes in the highest byte.
            let gathered =
                (word >> bit & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080);
            plane[position / 16] |= u128::from(gathered >> 56) << (8 * (position % 16));
        }
    }
    planes
}

/// The symbol of each choice in a group: the parity of the choice's bits in `group`.
fn group_symbols(planes: &[[u128; WORDS]], group: usize) -> [u128; WORDS] {
    let mut symbols = [0; WORDS];
    for (_, plane) in planes.iter().enumerate().filter(|(bit, _)| group >> bit & 1 == 1) {
        xor(&mut symbols, plane);
    }
    symbols
}

/// Appends the first `bytes` bytes of a column.
fn append(message: &mut Vec<u8>, column: &[u128; WORDS], bytes: usize) {
    let mut packed = [0; 16 * WORDS];
    for (packed, word) in packed.as_chunks_mut().0.iter_mut().zip(column) {
        *packed = word.to_le_bytes();
    }
    message.extend_from_slice(&packed[..bytes]);
}

impl fmt::Debug for OtSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtSender").finish_non_exhaustive()
    }
}

impl fmt::Debug for OtReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtReceiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::test_pair::both_with_ots;
    use crate::ot::{BLOCK, Prg};
    use std::collections::HashSet;

    /// What a party saw of a run of blocks, client choosing.
    #[derive(Debug)]
    enum Seen {
        Sender(Vec<Vec<u128>>),
        Receiver(Vec<(u8, u128)>),
    }

    fn run(blocks: &[(Code, usize)]) -> (Vec<Vec<u128>>, Vec<(u8, u128)>) {
        let seen = both_with_ots(3, |channel, ots| match channel.party() {
            Party::Server => {
                let mut all = Vec::new();
                for &(code, count) in blocks {
                    let block = ots.sender.extend(channel, code, count).expect("extends");
                    block.for_each(|_, pads| all.push(pads.to_vec()));
                }
                Seen::Sender(all)
            }
            Party::Client => {
                let mut all = Vec::new();
                for &(code, count) in blocks {
                    let mut choices = vec![0; count];
                    ots.rng.fill(&mut choices);
                    choices.iter_mut().for_each(|choice| *choice &= code.options() as u8 - 1);
                    let block = ots.receiver.extend(channel, code, &choices).expect("extends");
                    all.extend(choices.iter().copied().zip(block.pads().iter().copied()));
                }
                Seen::Receiver(all)
            }
        });
        let (Seen::Sender(sender), Seen::Receiver(receiver)) = seen else {
            panic!("the server sends")
        };
        (sender, receiver)
    }

    #[test]
    fn the_receiver_learns_the_pad_of_its_choice_alone() {
        let blocks: Vec<_> = Code::ALL
            .into_iter()
            .flat_map(|code| [1, 7, 8, 127, 130, 1000, BLOCK].map(|count| (code, count)))
            .collect();
        let (sender, receiver) = run(&blocks);
        assert_eq!(sender.len(), receiver.len());
        let mut seen = HashSet::new();
        for (pads, (choice, pad)) in sender.iter().zip(&receiver) {
            assert_eq!(pads[usize::from(*choice)], *pad);
            assert!(pads.iter().all(|pad| seen.insert(*pad)), "no pad comes twice");
        }
    }

    fn random_base() -> BaseOts {
        let mut rng = Prg::from_seed(&[5; 16]);
        let both: Vec<[[u8; 16]; 2]> = (0..240).map(|_| [rng.array(), rng.array()]).collect();
        let choices: Vec<u8> = rng.array::<240>().iter().map(|byte| byte & 1).collect();
        let chosen =
            both.iter().zip(&choices).map(|(keys, &choice)| keys[usize::from(choice)]).collect();
        BaseOts { choices, chosen, both }
    }

    /// The pad of `w` in an early transfer of the first block in which the receiver chose `choice`, bit
    /// by bit: the hash of the mixed row `t ^ s & (code(choice) ^ code(w))`.
    fn pad_by_definition(
        base: &BaseOts,
        code: Code,
        transfer: u128,
        choice: usize,
        w: usize,
    ) -> u128 {
        let row = |group: usize, lane: usize| {
            let column = (group - 1) * code.group_size() + lane;
            let first_byte = Prg::from_seed(&base.both[column][0]).array::<1>()[0];
            let differs = Code::symbol(choice, group) != Code::symbol(w, group);
            u128::from((first_byte >> transfer & 1) ^ (base.choices[column] & u8::from(differs)))
        };
        let mut mixed = 0;
        for (part, mix) in code.mixes().iter().enumerate() {
            for lane in 0..code.group_size() {
                let groups = code.groups().filter(|group| mix >> group & 1 == 1);
                let bit = groups.fold(0, |sum, group| sum ^ row(group, lane));
                mixed |= bit << (part * code.group_size() + lane);
            }
        }
        let mut pad = [mixed];
        TweakedHash::new().hash(&mut pad, |_| transfer);
        pad[0]
    }

    #[test]
    fn pads_follow_the_definition() {
        let base = random_base();
        for code in Code::ALL {
            let (mut server, mut client) = Channel::pair().expect("threads start");
            let mut sender = OtSender::new(Party::Server, &base);
            let mut receiver = OtReceiver::new(Party::Client, &base);
            let chosen = receiver.extend(&mut client, code, &[1; 3]).expect("extends").keys();
            client.flush().expect("sends");
            let mut offered = Vec::new();
            let block = sender.extend(&mut server, code, 3).expect("extends");
            block.for_each(|_, pads| offered.push(pads.to_vec()));
            for (transfer, (pads, chosen)) in offered.iter().zip(chosen.iter()).enumerate() {
                assert_eq!((pads.len(), pads[1]), (code.options(), *chosen));
                for (w, pad) in pads.iter().enumerate() {
                    let expected = pad_by_definition(&base, code, transfer as u128, 1, w);
                    assert_eq!(*pad, expected, "{code:?} {transfer} {w}");
                }
            }
        }
    }

    #[test]
    fn a_cut_message_is_a_lost_connection() {
        let (server, _) = both_with_ots(4, |channel, ots| match channel.party() {
            Party::Server => {
                let block = ots.sender.extend(channel, Code::OneOf16, 100);
                Some(block.map(drop).expect_err("cut"))
            }
            Party::Client => {
                channel.send(&[0; 50]).expect("sends");
                None
            }
        });
        assert!(matches!(server, Some(RuntimeError::ConnectionLost { .. })));
    }
}
