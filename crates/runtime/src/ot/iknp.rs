//! IKNP: 240 base transfers stretched into any number of random 1-of-N transfers.

use super::base::BaseOts;
use super::block::{BlockState, Domain, Plane, WORDS, read, write, xor};
use super::cipher::Cipher;
use super::code::Code;
use super::hash::TweakRun;
use super::rows::{ReceiverBlock, SenderBlock};
use crate::{Channel, RuntimeError};
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
    columns: Vec<Cipher>,
    /// The secret `s`, one byte of zeros or ones a column.
    masks: Zeroizing<Vec<u8>>,
    /// `mix(s & code(w))` for each code and `w`.
    offsets: Zeroizing<[[u128; 16]; 4]>,
    block: BlockState,
}

/// The party that learns one pad of each transfer. See [`IknpSender`].
pub(super) struct IknpReceiver {
    columns: Vec<[Cipher; 2]>,
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
            columns: base.chosen.iter().map(Cipher::new).collect(),
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
        let groups = code.groups();
        let places = groups.flat_map(|group| code.columns_of(group).map(move |at| (group, at)));
        if code != Code::OneOf2 {
            self.block.clear_columns();
        }
        let (mut correction, mut stream) = ([0; WORDS], Zeroizing::new([0; WORDS]));
        for (place, bits) in places.zip(corrections) {
            read(bits, &mut correction);
            let mask = u128::from_le_bytes([self.masks[place.1]; 16]);
            let (cipher, correction) = (&self.columns[place.1], (&correction, mask));
            if code == Code::OneOf2 {
                // Its columns are not mixed.
                cipher.unmask(self.block.part, correction, &mut self.block.columns[place.1]);
            } else {
                cipher.unmask(self.block.part, correction, &mut stream);
                self.block.mix(code, place, &stream);
            }
        }
        self.block.message = message;
        self.block.finish();
        let offsets = &self.offsets[code.bits() as usize - 1][..code.options()];
        let BlockState { rows, hash, .. } = &mut self.block;
        Ok(SenderBlock { rows, count, offsets, first, hash })
    }
}

impl IknpReceiver {
    pub(super) fn new(party: Party, base: &BaseOts) -> Self {
        let columns = base.both.iter().map(|keys| keys.each_ref().map(Cipher::new)).collect();
        Self { columns, block: BlockState::new(party.peer(), Domain::Iknp) }
    }

    /// Makes `count` transfers, at most [`BLOCK`](super::BLOCK), with these choices, a plane for each bit: sends one message of
    /// `code.columns() * count.div_ceil(8)` bytes. The choices stay hidden from the sender.
    ///
    /// # Errors
    /// As [`Channel::send`].
    ///
    /// # Panics
    /// If `count` is greater than [`BLOCK`](super::BLOCK).
    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        (count, choices): (usize, &[Plane]),
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let first = self.block.begin(count);
        let bytes = count.div_ceil(8);
        let mut message = std::mem::take(&mut self.block.message);
        message.resize(code.columns() * bytes, 0);
        let mut parts = message.chunks_exact_mut(bytes.max(1));
        if code != Code::OneOf2 {
            self.block.clear_columns();
        }
        let (mut correction, mut stream) = ([0; WORDS], Zeroizing::new([0; WORDS]));
        for group in code.groups() {
            let symbols = Zeroizing::new(group_symbols(choices, group));
            for (column, part) in code.columns_of(group).zip(&mut parts) {
                let (pair, block) = (&self.columns[column], &mut self.block);
                if code == Code::OneOf2 {
                    let made = [&mut block.columns[column], &mut correction];
                    Cipher::streams(pair, block.part, &symbols, made);
                } else {
                    Cipher::streams(pair, block.part, &symbols, [&mut stream, &mut correction]);
                    block.mix(code, (group, column), &stream);
                }
                write(part, &correction);
            }
        }
        channel.send(&message)?;
        self.block.message = message;
        self.block.finish();
        let BlockState { rows, hash, .. } = &mut self.block;
        let rows = &mut rows[..count];
        hash.hash(rows, TweakRun::each(first));
        Ok(ReceiverBlock { pads: rows })
    }
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

/// The symbol of each choice in a group: the parity of the choice's bits in `group`.
fn group_symbols(planes: &[Plane], group: usize) -> Plane {
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
        TweakedHash::new().hash(&mut pad, TweakRun::same(transfer));
        pad[0]
    }

    /// The choice 1, always.
    fn all_ones(code: Code) -> Vec<Plane> {
        let plane = |bit| [if bit == 0 { u128::MAX } else { 0 }; WORDS];
        (0..code.bits()).map(plane).collect()
    }

    #[test]
    fn pads_follow_the_definition() {
        let base = BaseOts::random(5);
        for code in Code::ALL {
            let (mut server, mut client) = Channel::pair().expect("threads start");
            let mut sender = IknpSender::new(Party::Server, &base);
            let mut receiver = IknpReceiver::new(Party::Client, &base);
            let chosen =
                receiver.extend(&mut client, code, (3, &all_ones(code))).expect("extends").keys();
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
