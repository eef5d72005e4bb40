//! IKNP: 240 base transfers stretched into any number of random 1-of-N transfers.

use super::base::BaseOts;
use super::block::{BlockState, Domain, WORDS, gather, words, write, xor};
use super::code::Code;
use super::extension::{ReceiverBlock, SenderBlock};
use crate::{Channel, RuntimeError};
use aes::Aes128Enc;
use aes::cipher::KeyInit;
use copriv_ir::Party;
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
pub(super) struct IknpSender {
    columns: Vec<Aes128Enc>,
    /// The secret `s`, one byte of zeros or ones a column.
    masks: Zeroizing<Vec<u8>>,
    /// `mix(s & code(w))` for each code and `w`.
    offsets: Zeroizing<[[u128; 16]; 4]>,
    block: BlockState,
}

/// The party that learns one pad of each transfer. See [`IknpSender`].
pub(super) struct IknpReceiver {
    columns: Vec<[Aes128Enc; 2]>,
    block: BlockState,
}

impl IknpSender {
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
            block: BlockState::new(party, Domain::Iknp),
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
    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        count: usize,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        let first = self.block.begin(count);
        let bytes = count.div_ceil(8);
        let mut message = std::mem::take(&mut self.block.message);
        message.resize(code.columns() * bytes, 0);
        channel.recv_into(&mut message)?;
        let corrections = message.chunks_exact(bytes.max(1));
        if code == Code::OneOf2 {
            // Its columns are not mixed.
            for (column, correction) in corrections.enumerate() {
                let mask = u128::from_le_bytes([self.masks[column]; 16]);
                let stream = self.block.stream_to(&self.columns[column], column);
                unmask(stream, correction, mask);
            }
        } else {
            self.block.clear_columns();
            let columns = code
                .groups()
                .flat_map(|group| code.columns_of(group).map(move |column| (group, column)));
            for ((group, column), correction) in columns.zip(corrections) {
                let mask = u128::from_le_bytes([self.masks[column]; 16]);
                unmask(self.block.stream(&self.columns[column]), correction, mask);
                self.block.mix(code, group, column);
            }
        }
        self.block.message = message;
        self.block.finish();
        let offsets = &self.offsets[code.bits() as usize - 1][..code.options()];
        let BlockState { rows, hash, .. } = &self.block;
        Ok(SenderBlock { rows: &rows[..count], offsets, first, hash })
    }
}

impl IknpReceiver {
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        let columns = base.both.iter().map(|keys| keys.each_ref().map(cipher)).collect();
        Self { columns, block: BlockState::new(party.peer(), Domain::Iknp) }
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
    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        choices: &[u8],
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let first = self.block.begin(choices.len());
        let bytes = choices.len().div_ceil(8);
        let planes = choice_planes(code, choices);
        let mut message = std::mem::take(&mut self.block.message);
        message.resize(code.columns() * bytes, 0);
        let mut parts = message.chunks_exact_mut(bytes.max(1));
        if code != Code::OneOf2 {
            self.block.clear_columns();
        }
        for group in code.groups() {
            let symbols = Zeroizing::new(group_symbols(&planes, group));
            for (column, part) in code.columns_of(group).zip(&mut parts) {
                let mut correction = *symbols;
                let [zero, one] = &self.columns[column];
                xor(&mut correction, self.block.stream(one));
                if code == Code::OneOf2 {
                    xor(&mut correction, self.block.stream_to(zero, column));
                } else {
                    xor(&mut correction, self.block.stream(zero));
                    self.block.mix(code, group, column);
                }
                write(part, &correction);
            }
        }
        channel.send(&message)?;
        self.block.message = message;
        self.block.finish();
        let BlockState { rows, hash, .. } = &mut self.block;
        let rows = &mut rows[..choices.len()];
        hash.hash(rows, |position| first + position as u128);
        Ok(ReceiverBlock { pads: rows })
    }
}

/// Adds a correction to the stream of a column whose bit of the secret is one.
fn unmask(stream: &mut [u128], correction: &[u8], mask: u128) {
    stream.iter_mut().zip(words(correction)).for_each(|(word, bits)| *word ^= bits & mask);
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
    Zeroizing::new((0..code.bits()).map(|bit| gather(choices, bit)).collect())
}

/// The symbol of each choice in a group: the parity of the choice's bits in `group`.
fn group_symbols(planes: &[[u128; WORDS]], group: usize) -> [u128; WORDS] {
    let mut symbols = [0; WORDS];
    for (_, plane) in planes.iter().enumerate().filter(|(bit, _)| group >> bit & 1 == 1) {
        xor(&mut symbols, plane);
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::{Prg, TweakedHash};

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
        let base = BaseOts::random(5);
        for code in Code::ALL {
            let (mut server, mut client) = Channel::pair().expect("threads start");
            let mut sender = IknpSender::new(Party::Server, &base);
            let mut receiver = IknpReceiver::new(Party::Client, &base);
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
}
