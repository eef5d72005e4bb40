//! Silent OT (Ferret): random correlated transfers by the million from one short message.
//!
//! Ferret (Yang, Weng, Lan, Zhang, Wang, CCS 2020), against semi-honest parties, with regular noise and the punctured
//! trees of "Half-Tree" (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, EUROCRYPT 2023). A correlated transfer is `q` at the
//! sender, `t = q ^ c delta` at the receiver, who has the random bit `c`. Here `delta` ends in a one and every `q` in a zero, so that `c`
//! is the last bit of `t`.

use super::block::{BLOCK, Domain, Plane, Tweaks, WORDS, read, write};
use super::code::Code;
use super::field::{add_multiple, multiples};
use super::hash::{TweakRun, TweakedHash};
use super::lpn;
use super::noise_tree::{self, Grower};
use super::rows::{ReceiverBlock, SenderBlock};
use super::selected::{add_last_bits, add_where};
use super::soft_spoken::{SoftSpokenReceiver, SoftSpokenSender};
use crate::{Channel, RuntimeError};
use copriv_ir::Party;
use copriv_ir::cost::ot::Choices;
use copriv_ir::cost::{Expansion, Growth, SilentPool, SilentSet};
use std::ops::Range;
use zeroize::Zeroizing;

/// Leaves that are grown, and made transfers, together: what stays in the nearer caches.
const BATCH_LEAVES: usize = 1 << 15;

/// Correlated transfers as one party knows them, a block each: `q` or `t`.
struct Pool {
    set: SilentSet,
    /// How far the current expansion has come.
    expansion: Expansion,
    /// What it starts from.
    seeds: Zeroizing<Vec<u128>>,
    supply: Supply,
    grower: Grower,
    tweaks: Tweaks,
    hash: TweakedHash,
    /// What is to be hashed.
    rows: Zeroizing<Vec<u128>>,
}

/// Transfers that are made.
#[derive(Default)]
struct Supply {
    ready: Zeroizing<Vec<u128>>,
    /// How many of them are used up.
    used: usize,
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
        let trees = SilentPool::setup_trees(self.pool.set);
        let mut outputs = Zeroizing::new(Vec::with_capacity(trees << first_set().log_leaves));
        self.grow(channel, first_set(), 0..trees, &mut outputs)?;
        self.pool.seed(outputs);
        Ok(())
    }

    /// Makes more transfers where fewer than `transfers` are left, by a message to the receiver; whether it did. To be called
    /// until it does not.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub(super) fn refill(
        &mut self,
        channel: &mut Channel,
        transfers: u64,
    ) -> Result<bool, RuntimeError> {
        let Some((trees, growth, mut outputs)) = self.pool.begin_growth(transfers) else {
            return Ok(false);
        };
        self.grow(channel, self.pool.set, trees, &mut outputs)?;
        self.pool.end_growth(growth, outputs);
        Ok(true)
    }

    /// Appends the outputs of some of an expansion's trees.
    fn grow(
        &mut self,
        channel: &mut Channel,
        set: SilentSet,
        trees: Range<usize>,
        outputs: &mut Vec<u128>,
    ) -> Result<(), RuntimeError> {
        let Self { pool: Pool { seeds, grower, .. }, delta, .. } = self;
        let (secret, levels) = seeds.split_at(1 << set.log_seeds);
        let depth = set.log_leaves as usize;
        for trees in batches(set, trees) {
            let keys = levels[trees.start * depth..trees.end * depth].chunks_exact(depth);
            let mut message = Vec::with_capacity(set.message_bytes(trees.len()) as usize);
            let batch = room(outputs, trees.len() << depth);
            for (leaves, keys) in batch.chunks_exact_mut(1 << depth).zip(keys) {
                grower.grow(**delta, keys, leaves, &mut message);
            }
            channel.send(&message)?;
            lpn::add_secret(secret, batch, trees.start << depth);
        }
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
        let Pool { supply, rows, hash, tweaks, .. } = &mut self.pool;
        rows[..count].fill(0);
        for power in 0..code.bits() {
            let plane = supply.draw(count)?;
            if choices == Choices::Chosen {
                let mut corrections = [0; WORDS];
                read(&channel.recv(bytes)?, &mut corrections);
                add_where(plane, &corrections, *self.delta);
            }
            add_multiple(&mut rows[..count], plane, power);
            plane.fill(0);
        }
        let first = tweaks.next(count);
        let offsets = &self.multiples[..code.options()];
        Ok(SenderBlock { rows, count, offsets, first, hash })
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
        let trees = SilentPool::setup_trees(self.pool.set);
        let mut outputs = Zeroizing::new(Vec::with_capacity(trees << first_set().log_leaves));
        self.grow(channel, first_set(), 0..trees, &mut outputs)?;
        self.pool.seed(outputs);
        Ok(())
    }

    /// See [`SilentSender::refill`].
    ///
    /// # Errors
    /// As [`Channel::recv_into`].
    pub(super) fn refill(
        &mut self,
        channel: &mut Channel,
        transfers: u64,
    ) -> Result<bool, RuntimeError> {
        let Some((trees, growth, mut outputs)) = self.pool.begin_growth(transfers) else {
            return Ok(false);
        };
        self.grow(channel, self.pool.set, trees, &mut outputs)?;
        self.pool.end_growth(growth, outputs);
        Ok(true)
    }

    /// See [`SilentSender::grow`].
    fn grow(
        &mut self,
        channel: &mut Channel,
        set: SilentSet,
        trees: Range<usize>,
        outputs: &mut Vec<u128>,
    ) -> Result<(), RuntimeError> {
        let Pool { seeds, grower, .. } = &mut self.pool;
        let (secret, levels) = seeds.split_at(1 << set.log_seeds);
        let depth = set.log_leaves as usize;
        for trees in batches(set, trees) {
            let keys = levels[trees.start * depth..trees.end * depth].chunks_exact(depth);
            let message = channel.recv(set.message_bytes(trees.len()) as usize)?;
            let sums = message.chunks_exact(noise_tree::message_bytes(depth));
            let batch = room(outputs, trees.len() << depth);
            for ((leaves, keys), sums) in batch.chunks_exact_mut(1 << depth).zip(keys).zip(sums) {
                grower.grow_punctured(keys, sums, leaves);
            }
            lpn::add_secret(secret, batch, trees.start << depth);
        }
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        channel: &mut Channel,
        code: Code,
        (count, choices): (usize, &[Plane]),
    ) -> Result<ReceiverBlock<'_>, RuntimeError> {
        let bytes = count.div_ceil(8);
        self.pool.check(code, count)?;
        let Pool { supply, rows, .. } = &mut self.pool;
        rows[..count].fill(0);
        for (power, choices) in (0..).zip(choices) {
            let plane = supply.draw(count)?;
            let mut corrections = Zeroizing::new(*choices);
            add_last_bits(plane, &mut corrections);
            let mut message = vec![0; bytes];
            write(&mut message, &*corrections);
            // Beyond the last transfer nothing hides the plane.
            if let Some(last) = message.last_mut() {
                *last &= u8::MAX >> (8 * bytes - count);
            }
            channel.send(&message)?;
            add_multiple(&mut rows[..count], plane, power);
            plane.fill(0);
        }
        Ok(self.pool.receiver_block(count))
    }

    pub(super) fn extend_random(
        &mut self,
        code: Code,
        count: usize,
    ) -> Result<(Zeroizing<Vec<u8>>, ReceiverBlock<'_>), RuntimeError> {
        self.pool.check(code, count)?;
        let Pool { supply, rows, .. } = &mut self.pool;
        rows[..count].fill(0);
        let mut choices = Zeroizing::new(vec![0; count]);
        for power in 0..code.bits() {
            let plane = supply.draw(count)?;
            choices.iter_mut().zip(&*plane).for_each(|(c, t)| *c |= ((t & 1) as u8) << power);
            add_multiple(&mut rows[..count], plane, power);
            plane.fill(0);
        }
        Ok((choices, self.pool.receiver_block(count)))
    }
}

impl Pool {
    /// For the direction in which `sender` is the OT sender.
    fn new(sender: Party, set: SilentSet, seeds: Zeroizing<Vec<u128>>) -> Self {
        Self {
            set,
            expansion: Expansion::new(set),
            seeds,
            supply: Supply::default(),
            grower: Grower::new(sender),
            tweaks: Tweaks::new(sender, Domain::Silent),
            hash: TweakedHash::new(),
            rows: Zeroizing::new(vec![0; BLOCK]),
        }
    }

    /// Takes the seeds of the set in use from an expansion by the smallest one; nothing where they are the same.
    fn seed(&mut self, mut outputs: Zeroizing<Vec<u128>>) {
        if !outputs.is_empty() {
            outputs.truncate(self.set.seeds());
            self.seeds = outputs;
        }
    }

    /// What to grow until `transfers` are left or an expansion ends, and where to: the transfers that are left, or nothing for the
    /// trees that seed the next expansion. `None` where enough are left.
    fn begin_growth(
        &mut self,
        transfers: u64,
    ) -> Option<(Range<usize>, Growth, Zeroizing<Vec<u128>>)> {
        let lacking = transfers.saturating_sub(self.supply.left() as u64);
        if lacking == 0 {
            return None;
        }
        let first = self.expansion.grown();
        let growth = self.expansion.grow(lacking);
        let outputs = if growth.is_last {
            Zeroizing::new(Vec::with_capacity(growth.trees << self.set.log_leaves))
        } else {
            self.supply.take(growth.gain as usize)
        };
        Some((first..first + growth.trees, growth, outputs))
    }

    /// Takes in what was grown.
    fn end_growth(&mut self, growth: Growth, outputs: Zeroizing<Vec<u128>>) {
        if !growth.is_last {
            self.supply.ready = outputs;
            return;
        }
        let (ready, seeds) = outputs.split_at(growth.gain as usize);
        let mut supply = self.supply.take(ready.len());
        supply.extend_from_slice(ready);
        self.supply.ready = supply;
        self.seeds = Zeroizing::new(seeds.to_vec());
    }

    /// Whether a block can be drawn.
    fn check(&self, code: Code, count: usize) -> Result<(), RuntimeError> {
        assert!(count <= BLOCK, "a block has at most {BLOCK} transfers, not {count}");
        let (wanted, left) = (code.bits() as usize * count, self.supply.left());
        if wanted > left {
            return Err(RuntimeError::NotReserved { wanted, left });
        }
        Ok(())
    }

    fn receiver_block(&mut self, count: usize) -> ReceiverBlock<'_> {
        let first = self.tweaks.next(count);
        let pads = &mut self.rows[..count];
        self.hash.hash(pads, TweakRun::each(first));
        ReceiverBlock { pads }
    }
}

impl Supply {
    fn left(&self) -> usize {
        self.ready.len() - self.used
    }

    /// What is left, with room for so many more; nothing stays here.
    fn take(&mut self, more: usize) -> Zeroizing<Vec<u128>> {
        let left = self.left();
        let mut ready = std::mem::take(&mut self.ready);
        if ready.capacity() < left + more {
            let mut larger = Zeroizing::new(Vec::with_capacity(left + more));
            larger.extend_from_slice(&ready[self.used..]);
            ready = larger;
        } else {
            ready.copy_within(self.used.., 0);
            ready.truncate(left);
        }
        self.used = 0;
        ready
    }

    /// The next transfers, which nobody gets again. To be cleared after use.
    fn draw(&mut self, count: usize) -> Result<&mut [u128], RuntimeError> {
        let left = self.left();
        let next = self.ready.get_mut(self.used..self.used + count);
        let next = next.ok_or(RuntimeError::NotReserved { wanted: count, left })?;
        self.used += count;
        Ok(next)
    }
}

/// Room for so many more outputs.
fn room(outputs: &mut Vec<u128>, more: usize) -> &mut [u128] {
    let start = outputs.len();
    outputs.resize(start + more, 0);
    &mut outputs[start..]
}

/// Trees in batches whose leaves stay in the nearer caches.
fn batches(set: SilentSet, trees: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let size = (BATCH_LEAVES >> set.log_leaves).max(1);
    let end = trees.end;
    trees.step_by(size).map(move |first| first..end.min(first + size))
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
