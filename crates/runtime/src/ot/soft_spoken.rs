//! SoftSpoken OT extension: fewer bytes than IKNP for more computation.

use super::base::BaseOts;
use super::block::{BLOCK, BlockState, Domain, Plane, WORDS, read, scatter, write, xor};
use super::cipher::Cipher;
use super::code::Code;
use super::field::{add_multiple, multiples};
use super::hash::TweakRun;
use super::rows::{ReceiverBlock, SenderBlock};
use super::seed_tree;
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ot::Choices;
use copriv_ir::{OtKind, Party};
use zeroize::Zeroizing;

/// One sub-field's part, over GF(2^k) with `k` = 2, 4 or 8.
///
/// SoftSpoken (Roy, CRYPTO 2022), against semi-honest parties. `128 / k` seed trees of `2^k` leaves, of each of which the
/// sender lacks the leaf at `a`, a part of its secret `delta`. For each block and tree, `r_x` being leaf `x`'s stream:
///
/// | sender, `delta` of 128 bits in parts `a` | | receiver, choices `c` |
/// |---|---|---|
/// | | | `u = sum_x r_x`, `t = sum_x x r_x` (k columns) |
/// | | `<-` | `d = u ^ c`; if choices are random the first tree's `u` is `c`, and is not sent |
/// | `q = sum_x (x ^ a) r_x ^ a d` | | |
/// | rows of all trees: `q` | | `t = q ^ c delta` |
///
/// 1-of-`2^m` transfers take `m` of these, one *plane* each: see [`super::field`].
struct Field {
    kind: OtKind,
    bits: usize,
    /// The leaves of each tree in turn.
    leaves: Vec<Cipher>,
    block: BlockState,
    /// Sums of a tree's streams.
    sums: Zeroizing<Vec<Plane>>,
    /// What is to be hashed.
    rows: Zeroizing<Vec<u128>>,
}

/// The OT sender's end.
pub(super) struct SoftSpokenSender {
    /// Without the first leaf of each tree, leaf `y` being the receiver's `y ^ a`.
    field: Field,
    delta: Zeroizing<u128>,
    multiples: Zeroizing<[u128; 16]>,
}

/// The OT receiver's end.
pub(super) struct SoftSpokenReceiver {
    field: Field,
}

impl SoftSpokenSender {
    /// Receives the sums of the peer's trees.
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    pub(super) fn setup(
        channel: &mut Channel,
        base: &BaseOts,
        field_bits: u32,
    ) -> Result<Self, RuntimeError> {
        let bits = field_bits as usize;
        let message = channel.recv(seed_tree::message_bytes(bits))?;
        let leaves = seed_tree::punctured(base, bits, &message);
        let delta = (0..128).fold(0, |delta, bit| delta | u128::from(base.choices[bit]) << bit);
        Ok(Self {
            field: Field::new(channel.party(), bits, &leaves),
            delta: Zeroizing::new(delta),
            multiples: multiples(delta),
        })
    }

    pub(super) fn kind(&self) -> OtKind {
        self.field.kind
    }

    /// The secret that all transfers share.
    pub(super) fn delta(&self) -> u128 {
        *self.delta
    }

    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        count: usize,
        choices: Choices,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        let mut first = 0;
        self.field.rows[..count].fill(0);
        for power in 0..code.bits() {
            first = self.plane(channel, count, choices)?;
            let Field { rows, block, .. } = &mut self.field;
            add_multiple(&mut rows[..count], &block.rows[..count], power);
        }
        let Field { rows, block, .. } = &mut self.field;
        let offsets = &self.multiples[..code.options()];
        Ok(SenderBlock { rows, count, offsets, first, hash: &block.hash })
    }

    /// At most [`BLOCK`] transfers with random choices, not yet hashed: the rows `q`.
    pub(super) fn correlated(
        &mut self,
        channel: &mut Channel,
        count: usize,
    ) -> Result<&[u128], RuntimeError> {
        self.plane(channel, count, Choices::Random)?;
        Ok(&self.field.block.rows[..count])
    }

    /// Makes the rows of one plane; the tweak of the first.
    fn plane(
        &mut self,
        channel: &mut Channel,
        count: usize,
        choices: Choices,
    ) -> Result<u128, RuntimeError> {
        let field = &mut self.field;
        let first = field.block.begin(count);
        let (trees, bytes) = (128 / field.bits, count.div_ceil(8));
        let unsent = usize::from(choices == Choices::Random);
        let mut message = std::mem::take(&mut field.block.message);
        message.resize((trees - unsent) * bytes, 0);
        channel.recv_into(&mut message)?;
        let corrections = message.chunks_exact(bytes.max(1)).map(Some);
        let corrections = std::iter::repeat_n(None, unsent).chain(corrections);
        let mut difference = [0; WORDS];
        for (tree, correction) in (0..trees).zip(corrections) {
            let first = tree * field.bits;
            let columns = field.fold(tree).0;
            let Some(correction) = correction else { continue };
            read(correction, &mut difference);
            for (bit, column) in (first..).zip(columns) {
                let mask = (*self.delta >> bit & 1).wrapping_neg();
                column.iter_mut().zip(&difference).for_each(|(q, d)| *q ^= d & mask);
            }
        }
        field.block.message = message;
        field.block.finish();
        Ok(first)
    }
}

impl SoftSpokenReceiver {
    /// Sends the sums of its trees.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(super) fn setup(
        channel: &mut Channel,
        base: &BaseOts,
        field_bits: u32,
    ) -> Result<Self, RuntimeError> {
        let bits = field_bits as usize;
        let (leaves, message) = seed_tree::grown(base, bits);
        channel.send(&message)?;
        Ok(Self { field: Field::new(channel.party().peer(), bits, &leaves) })
    }

    pub(super) fn kind(&self) -> OtKind {
        self.field.kind
    }

    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        (count, choices): (usize, &[Plane]),
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let mut first = 0;
        self.field.rows[..count].fill(0);
        for (power, plane) in (0..).zip(choices) {
            (first, _) = self.plane(channel, count, Some(plane))?;
            self.field.take_plane(count, power);
        }
        Ok(self.field.receiver_block(count, first))
    }

    pub(super) fn extend_random(
        &mut self,
        channel: &mut Channel,
        code: Code,
        count: usize,
    ) -> Result<(Zeroizing<Vec<u8>>, ReceiverBlock<'_>), RuntimeError> {
        let mut choices = Zeroizing::new(vec![0; count]);
        let mut first = 0;
        self.field.rows[..count].fill(0);
        for power in 0..code.bits() {
            let plane;
            (first, plane) = self.plane(channel, count, None)?;
            scatter(&*plane, power, &mut choices);
            self.field.take_plane(count, power);
        }
        Ok((choices, self.field.receiver_block(count, first)))
    }

    /// At most [`BLOCK`] transfers with random choices, not yet hashed: the choices and the rows `t`.
    pub(super) fn correlated(
        &mut self,
        channel: &mut Channel,
        count: usize,
    ) -> Result<(Zeroizing<[u128; WORDS]>, &[u128]), RuntimeError> {
        let (_, choices) = self.plane(channel, count, None)?;
        Ok((choices, &self.field.block.rows[..count]))
    }

    /// Makes the rows of one plane; the tweak of the first, and the choices.
    fn plane(
        &mut self,
        channel: &mut Channel,
        count: usize,
        choices: Option<&Plane>,
    ) -> Result<(u128, Zeroizing<Plane>), RuntimeError> {
        let field = &mut self.field;
        let first = field.block.begin(count);
        let (trees, bytes) = (128 / field.bits, count.div_ceil(8));
        let mut chosen = choices.map(|choices| Zeroizing::new(*choices));
        let sent = trees - usize::from(choices.is_none());
        let mut message = std::mem::take(&mut field.block.message);
        message.resize(sent * bytes, 0);
        let mut parts = message.chunks_exact_mut(bytes.max(1));
        for tree in 0..trees {
            let sum = field.fold(tree).1;
            match &chosen {
                Some(choices) => {
                    xor(sum, choices);
                    parts.next().into_iter().for_each(|part| write(part, &*sum));
                }
                None => chosen = Some(Zeroizing::new(*sum)),
            }
        }
        channel.send(&message)?;
        field.block.message = message;
        field.block.finish();
        Ok((first, chosen.unwrap_or_else(|| Zeroizing::new([0; WORDS]))))
    }
}

impl Field {
    /// For the direction in which `sender` is the OT sender.
    fn new(sender: Party, bits: usize, leaves: &[[u8; 16]]) -> Self {
        let (kind, domain) = match bits {
            2 => (OtKind::SoftSpoken2, Domain::SoftSpoken2),
            4 => (OtKind::SoftSpoken4, Domain::SoftSpoken4),
            _ => (OtKind::SoftSpoken8, Domain::SoftSpoken8),
        };
        Self {
            kind,
            bits,
            leaves: leaves.iter().map(Cipher::new).collect(),
            block: BlockState::new(sender, domain),
            sums: Zeroizing::new(vec![[0; WORDS]; bits + 1]),
            rows: Zeroizing::new(vec![0; BLOCK]),
        }
    }

    /// Adds up the streams of a tree: `sum_x x r_x` in the tree's columns, and `sum_x r_x`. Both are returned.
    ///
    /// Where the tree lacks leaf 0, the second sum is without it. The first does not miss it.
    fn fold(&mut self, tree: usize) -> (&mut [Plane], &mut Plane) {
        let Self { bits, leaves, block, sums, .. } = self;
        let each = leaves.len() / (128 / *bits);
        Cipher::fold(&leaves[tree * each..][..each], block.part, sums);
        let columns = &mut block.columns[tree * *bits..][..*bits];
        let (total, parts) = sums.split_last_mut().expect("one for each bit, and one");
        columns.copy_from_slice(parts);
        (columns, total)
    }

    /// Adds the rows of a plane to those that are to be hashed.
    fn take_plane(&mut self, count: usize, power: u32) {
        add_multiple(&mut self.rows[..count], &self.block.rows[..count], power);
    }

    fn receiver_block(&mut self, count: usize, first: u128) -> ReceiverBlock<'_> {
        let pads = &mut self.rows[..count];
        self.block.hash.hash(pads, TweakRun::each(first));
        ReceiverBlock { pads }
    }
}
