//! Silent OT (Ferret): random correlated transfers by the million from one short message.
//!
//! Ferret (Yang, Weng, Lan, Zhang, Wang, CCS 2020), against semi-honest parties, with regular noise and the punctured
//! trees of "Half-Tree" (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, EUROCRYPT 2023). A correlated transfer is `q` at the
//! sender, `t = q ^ c delta` at the receiver, who has the random bit `c`. Here `delta` ends in a one and every `q` in a zero, so that `c`
//! is the last bit of `t`.

use super::block::{BLOCK, Domain, Tweaks, append, gather, words};
use super::code::Code;
use super::extension::{ReceiverBlock, SenderBlock};
use super::field::{add_multiple, multiples};
use super::hash::TweakedHash;
use super::lpn;
use super::noise_tree::{self, Grower};
use super::soft_spoken::{SoftSpokenReceiver, SoftSpokenSender};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::SilentSet;
use copriv_ir::cost::ot::Choices;
use zeroize::Zeroizing;

/// Correlated transfers as one party knows them, a block each: `q` or `t`.
struct Pool {
    set: SilentSet,
    /// What the next expansion starts from.
    seeds: Zeroizing<Vec<u128>>,
    ready: Zeroizing<Vec<u128>>,
    /// How many of `ready` are used up.
    used: usize,
    grower: Grower,
    tweaks: Tweaks,
    hash: TweakedHash,
    /// What is to be hashed.
    rows: Zeroizing<Vec<u128>>,
}

/// The OT sender's end.
pub(super) struct SilentSender {
    pool: Pool,
    delta: Zeroizing<u128>,
    multiples: Zeroizing<[u128; 16]>,
}

/// The OT receiver's end.
pub(super) struct SilentReceiver {
    pool: Pool,
}

impl SilentSender {
    /// Receives the peer's message for the first seeds.
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    pub(super) fn setup(
        channel: &mut Channel,
        seeder: &mut SoftSpokenSender,
        set: SilentSet,
    ) -> Result<Self, RuntimeError> {
        let mut seeds = Zeroizing::new(Vec::with_capacity(first_set().seeds()));
        for count in seed_blocks() {
            seeds.extend(seeder.correlated(channel, count)?.iter().map(|q| q & !1));
        }
        let delta = seeder.delta() | 1;
        let pool = Pool::new(channel.party(), set, seeds);
        Ok(Self { pool, delta: Zeroizing::new(delta), multiples: multiples(delta) })
    }

    /// The second half of the set-up: goes from the smallest set to the one in use.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(super) fn grow_seeds(&mut self, channel: &mut Channel) -> Result<(), RuntimeError> {
        if self.pool.set == first_set() {
            return Ok(());
        }
        self.expand(channel, first_set())
    }

    /// How many expansions it takes until `transfers` are ready.
    pub(super) fn missing(&self, transfers: u64) -> u64 {
        self.pool.missing(transfers)
    }

    /// Makes more transfers: one message to the receiver.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(super) fn refill(&mut self, channel: &mut Channel) -> Result<(), RuntimeError> {
        self.expand(channel, self.pool.set)
    }

    fn expand(&mut self, channel: &mut Channel, set: SilentSet) -> Result<(), RuntimeError> {
        let Self { pool, delta, .. } = self;
        let (secret, levels) = pool.seeds.split_at(1 << set.log_seeds);
        let mut outputs = Zeroizing::new(vec![0; set.outputs()]);
        let mut message = Vec::with_capacity(set.message_bytes() as usize);
        let trees = outputs.chunks_exact_mut(1 << set.log_leaves);
        for (leaves, keys) in trees.zip(levels.chunks_exact(set.log_leaves as usize)) {
            pool.grower.grow(**delta, keys, leaves, &mut message);
        }
        channel.send(&message)?;
        lpn::add_secret(secret, &mut outputs);
        pool.take_in(outputs);
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        count: usize,
        choices: Choices,
    ) -> Result<SenderBlock<'_>, RuntimeError> {
        let bytes = count.div_ceil(8);
        self.pool.check(code, count)?;
        self.pool.rows[..count].fill(0);
        for power in 0..code.bits() {
            let mut plane = self.pool.draw(count)?;
            if choices == Choices::Chosen {
                let corrections = channel.recv(bytes)?;
                for (rows, word) in plane.chunks_mut(128).zip(words(&corrections)) {
                    for (at, q) in rows.iter_mut().enumerate() {
                        *q ^= (word >> at & 1).wrapping_neg() & *self.delta;
                    }
                }
            }
            add_multiple(&mut self.pool.rows[..count], &plane, power);
        }
        let first = self.pool.tweaks.next(count);
        let Pool { rows, hash, .. } = &self.pool;
        let offsets = &self.multiples[..code.options()];
        Ok(SenderBlock { rows: &rows[..count], offsets, first, hash })
    }
}

impl SilentReceiver {
    /// Sends the message for the first seeds.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(super) fn setup(
        channel: &mut Channel,
        seeder: &mut SoftSpokenReceiver,
        set: SilentSet,
    ) -> Result<Self, RuntimeError> {
        let mut seeds = Zeroizing::new(Vec::with_capacity(first_set().seeds()));
        for count in seed_blocks() {
            let (choices, rows) = seeder.correlated(channel, count)?;
            for (rows, word) in rows.chunks(128).zip(&*choices) {
                seeds.extend(rows.iter().enumerate().map(|(at, t)| t & !1 | word >> at & 1));
            }
        }
        Ok(Self { pool: Pool::new(channel.party().peer(), set, seeds) })
    }

    /// See [`SilentSender::grow_seeds`].
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    pub(super) fn grow_seeds(&mut self, channel: &mut Channel) -> Result<(), RuntimeError> {
        if self.pool.set == first_set() {
            return Ok(());
        }
        self.expand(channel, first_set())
    }

    /// See [`SilentSender::missing`].
    pub(super) fn missing(&self, transfers: u64) -> u64 {
        self.pool.missing(transfers)
    }

    /// See [`SilentSender::refill`].
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    pub(super) fn refill(&mut self, channel: &mut Channel) -> Result<(), RuntimeError> {
        self.expand(channel, self.pool.set)
    }

    fn expand(&mut self, channel: &mut Channel, set: SilentSet) -> Result<(), RuntimeError> {
        let pool = &mut self.pool;
        let (secret, levels) = pool.seeds.split_at(1 << set.log_seeds);
        let message = channel.recv(set.message_bytes() as usize)?;
        let mut outputs = Zeroizing::new(vec![0; set.outputs()]);
        let depth = set.log_leaves as usize;
        let trees = outputs.chunks_exact_mut(1 << set.log_leaves);
        let sums = message.chunks_exact(noise_tree::message_bytes(depth));
        for ((leaves, keys), sums) in trees.zip(levels.chunks_exact(depth)).zip(sums) {
            pool.grower.grow_punctured(keys, sums, leaves);
        }
        lpn::add_secret(secret, &mut outputs);
        pool.take_in(outputs);
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        choices: &[u8],
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let count = choices.len();
        let bytes = count.div_ceil(8);
        self.pool.check(code, count)?;
        self.pool.rows[..count].fill(0);
        for power in 0..code.bits() {
            let plane = self.pool.draw(count)?;
            let mut corrections = Zeroizing::new(gather(choices, power));
            for (rows, word) in plane.chunks(128).zip(&mut *corrections) {
                rows.iter().enumerate().for_each(|(at, t)| *word ^= (t & 1) << at);
            }
            let mut message = Vec::with_capacity(bytes);
            append(&mut message, &*corrections, bytes);
            channel.send(&message)?;
            add_multiple(&mut self.pool.rows[..count], &plane, power);
        }
        Ok(self.pool.receiver_block(count))
    }

    pub(super) fn extend_random(
        &mut self,
        code: Code,
        count: usize,
    ) -> Result<(Zeroizing<Vec<u8>>, ReceiverBlock<'_>), RuntimeError> {
        self.pool.check(code, count)?;
        self.pool.rows[..count].fill(0);
        let mut choices = Zeroizing::new(vec![0; count]);
        for power in 0..code.bits() {
            let plane = self.pool.draw(count)?;
            choices.iter_mut().zip(&*plane).for_each(|(c, t)| *c |= ((t & 1) as u8) << power);
            add_multiple(&mut self.pool.rows[..count], &plane, power);
        }
        Ok((choices, self.pool.receiver_block(count)))
    }
}

impl Pool {
    /// For the direction in which `sender` is the OT sender.
    fn new(sender: Party, set: SilentSet, seeds: Zeroizing<Vec<u128>>) -> Self {
        Self {
            set,
            seeds,
            ready: Zeroizing::default(),
            used: 0,
            grower: Grower::new(sender),
            tweaks: Tweaks::new(sender, Domain::Silent),
            hash: TweakedHash::new(),
            rows: Zeroizing::new(vec![0; BLOCK]),
        }
    }

    fn left(&self) -> usize {
        self.ready.len() - self.used
    }

    fn missing(&self, transfers: u64) -> u64 {
        transfers.saturating_sub(self.left() as u64).div_ceil(self.set.gain())
    }

    /// Keeps the last of an expansion's outputs as seeds of the next and adds the others to the pool.
    fn take_in(&mut self, mut outputs: Zeroizing<Vec<u128>>) {
        let kept = outputs.len() - self.set.seeds();
        self.seeds = Zeroizing::new(outputs[kept..].to_vec());
        outputs.truncate(kept);
        if self.left() > 0 {
            let mut ready = Zeroizing::new(Vec::with_capacity(self.left() + outputs.len()));
            ready.extend_from_slice(&self.ready[self.used..]);
            ready.extend_from_slice(&outputs);
            outputs = ready;
        }
        (self.ready, self.used) = (outputs, 0);
    }

    /// Whether a block can be drawn.
    fn check(&self, code: Code, count: usize) -> Result<(), RuntimeError> {
        assert!(count <= BLOCK, "a block has at most {BLOCK} transfers, not {count}");
        let wanted = code.bits() as usize * count;
        if wanted > self.left() {
            return Err(RuntimeError::NotReserved { wanted, left: self.left() });
        }
        Ok(())
    }

    /// The next transfers, forgotten here.
    fn draw(&mut self, count: usize) -> Result<Zeroizing<Vec<u128>>, RuntimeError> {
        let left = self.left();
        let next = self.ready.get_mut(self.used..self.used + count);
        let next = next.ok_or(RuntimeError::NotReserved { wanted: count, left })?;
        let drawn = Zeroizing::new(next.to_vec());
        next.fill(0);
        self.used += count;
        Ok(drawn)
    }

    fn receiver_block(&mut self, count: usize) -> ReceiverBlock<'_> {
        let first = self.tweaks.next(count);
        let pads = &mut self.rows[..count];
        self.hash.hash(pads, |position| first + position as u128);
        ReceiverBlock { pads }
    }
}

/// The set that a session begins with.
fn first_set() -> SilentSet {
    let [first, ..] = SilentSet::ALL;
    first
}

/// The blocks of the first seeds.
fn seed_blocks() -> impl Iterator<Item = usize> {
    let seeds = first_set().seeds();
    (0..seeds).step_by(BLOCK).map(move |first| BLOCK.min(seeds - first))
}
