//! Silent OT (Ferret): its parameter sets, and how many transfers are left when.

use super::ot::{self, Choices, message};
use crate::{OtKind, Party, Traffic};

/// Parameters of one expansion: `seeds` transfers become `outputs` ones, by learning parity with noise.
///
/// `trees` punctured trees of `2^log_leaves` leaves are the noise (one error in each, "regular"), `2^log_seeds`
/// seeds the secret. The sets are those of the authors' own library (EMP-OT), chosen there for 128 bits of security against all
/// published attacks on regular noise up to 2025; `docs/protocols.md` lists these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentSet {
    /// Number of trees, the weight of the noise.
    pub trees: usize,
    /// Logarithm of the length of the secret.
    pub log_seeds: u32,
    /// Depth of a tree.
    pub log_leaves: u32,
}

impl SilentSet {
    /// From the smallest. The next one, (1900, 19, 13), takes a sixth of a bit less a transfer, but its secret of 8 MiB falls
    /// out of the caches: three times the time.
    pub const ALL: [Self; 3] = [
        Self { trees: 850, log_seeds: 16, log_leaves: 10 },
        Self { trees: 1170, log_seeds: 17, log_leaves: 11 },
        Self { trees: 1520, log_seeds: 18, log_leaves: 12 },
    ];

    /// The smallest one that makes so many transfers at once, else the largest.
    #[must_use]
    pub fn for_demand(transfers: u64) -> Self {
        let enough = |set: &Self| set.gain() >= transfers;
        let [.., largest] = Self::ALL;
        Self::ALL.into_iter().find(enough).unwrap_or(largest)
    }

    /// Transfers that come out.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.trees << self.log_leaves
    }

    /// Transfers that go in: the secret, and one for each level of each tree.
    #[must_use]
    pub const fn seeds(&self) -> usize {
        (1 << self.log_seeds) + self.trees * self.log_leaves as usize
    }

    /// Transfers that an expansion adds: as many as went in are kept for the next.
    #[must_use]
    pub const fn gain(&self) -> u64 {
        (self.outputs() - self.seeds()) as u64
    }

    /// Bytes of what the sender sends for so many trees: a block for each level but the first.
    #[must_use]
    pub const fn message_bytes(&self, trees: usize) -> u64 {
        trees as u64 * (self.log_leaves as u64 - 1) * 16
    }

    /// The last trees, which make the next expansion's seeds.
    #[must_use]
    pub const fn seeding_trees(&self) -> usize {
        self.trees_for(self.seeds())
    }

    /// Trees that make so many transfers.
    #[must_use]
    pub const fn trees_for(&self, transfers: usize) -> usize {
        transfers.div_ceil(1 << self.log_leaves)
    }
}

/// How far the expansions of a pool have come. Trees are grown, and their transfers made, as these are needed: whoever sees the
/// first part of an expansion's transfers alone knows less than of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    set: SilentSet,
    /// Trees of the current expansion that are grown.
    grown: usize,
}

/// Trees that are grown one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// How many.
    pub trees: usize,
    /// Transfers that become ready.
    pub gain: u64,
    /// Whether they end an expansion: what they make beyond the gain are the next one's seeds.
    pub is_last: bool,
}

impl Expansion {
    /// At the beginning of the first one.
    #[must_use]
    pub const fn new(set: SilentSet) -> Self {
        Self { set, grown: 0 }
    }

    /// Trees grown so far.
    #[must_use]
    pub const fn grown(&self) -> usize {
        self.grown
    }

    /// The next trees to grow where `lacking` transfers are missing: as many as that takes, but not beyond the first of
    /// those that make seeds; then all of these.
    pub fn grow(&mut self, lacking: u64) -> Growth {
        let set = self.set;
        let rest = set.trees - set.seeding_trees() - self.grown;
        if rest == 0 {
            self.grown = 0;
            let trees = set.seeding_trees();
            let gain = ((trees << set.log_leaves) - set.seeds()) as u64;
            return Growth { trees, gain, is_last: true };
        }
        let trees = lacking.div_ceil(1 << set.log_leaves).min(rest as u64) as usize;
        self.grown += trees;
        Growth { trees, gain: (trees as u64) << set.log_leaves, is_last: false }
    }
}

/// One direction's transfers that are made and not yet used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentPool {
    sender: Party,
    set: SilentSet,
    expansion: Expansion,
    left: u64,
}

impl SilentPool {
    /// The pool of a session in which an inference draws `demand` transfers; `None` where it draws none.
    ///
    /// Its first seeds come from SoftSpoken over GF(2^8), by way of the smallest set where that is not the set
    /// chosen.
    #[must_use]
    pub fn new(sender: Party, demand: u64) -> Option<Self> {
        let set = SilentSet::for_demand(demand);
        (demand > 0).then_some(Self { sender, set, expansion: Expansion::new(set), left: 0 })
    }

    /// Trees of the smallest set whose transfers are the first seeds of the set chosen; none where it is the smallest.
    #[must_use]
    pub fn setup_trees(set: SilentSet) -> usize {
        let [first, ..] = SilentSet::ALL;
        if set == first { 0 } else { first.trees_for(set.seeds()) }
    }

    /// The set that it is filled with.
    #[must_use]
    pub const fn set(&self) -> SilentSet {
        self.set
    }

    /// Transfers ready for use.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// What setting it up takes, after SoftSpoken has been set up.
    #[must_use]
    pub fn setup(&self) -> Traffic {
        let [first, ..] = SilentSet::ALL;
        let seeds = ot::extension(OtKind::SoftSpoken8, Choices::Random, first.seeds() as u64, 1);
        let up = message(self.sender.peer().sends(), seeds);
        let expansion = first.message_bytes(Self::setup_trees(self.set));
        up + message(self.sender.sends(), expansion)
    }

    /// Fills the pool until it holds `transfers`: one round, for nothing comes back.
    pub fn fill(&mut self, transfers: u64) -> Traffic {
        let mut trees = 0;
        while self.left < transfers {
            let growth = self.expansion.grow(transfers - self.left);
            trees += growth.trees;
            self.left += growth.gain;
        }
        message(self.sender.sends(), self.set.message_bytes(trees))
    }

    /// Takes transfers out of the pool, which must hold them.
    pub fn draw(&mut self, transfers: u64) {
        self.left = self.left.saturating_sub(transfers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_seeds_itself_and_the_smallest_seeds_all() {
        let [first, ..] = SilentSet::ALL;
        for set in SilentSet::ALL {
            assert!(set.seeds() < set.outputs() / 4);
            assert!(set.seeds() <= first.outputs());
        }
    }

    #[test]
    fn however_they_are_grown_expansions_give_and_send_the_same() {
        for set in SilentSet::ALL {
            for at_once in [1, 1000, 300_000, 1 << 40] {
                let (mut expansion, mut trees, mut gain) = (Expansion::new(set), 0, 0);
                loop {
                    let growth = expansion.grow(at_once);
                    (trees, gain) = (trees + growth.trees, gain + growth.gain);
                    if growth.is_last {
                        break;
                    }
                }
                assert_eq!((trees, gain), (set.trees, set.gain()));
            }
        }
    }

    #[test]
    fn four_million_transfers_cost_less_than_six_tenths_of_a_bit_each() {
        let count = 1 << 22;
        let mut pool = SilentPool::new(Party::Server, count).expect("some are drawn");
        let bits = |filled: Traffic| 8.0 * filled.bytes() as f64 / count as f64;
        let first = pool.fill(count);
        assert!(bits(first) <= 0.4 && first.rounds == 1, "{first:?}");
        // Seeds for the next expansion in time.
        let mut sum = bits(first);
        for _ in 0..9 {
            pool.draw(count);
            sum += bits(pool.fill(count));
        }
        assert!(sum / 10.0 <= 0.4, "{sum}");
        pool.draw(pool.left() - 1);
        assert_eq!(pool.fill(1), Traffic::default(), "one is left");
    }

    #[test]
    fn the_smallest_set_that_suffices_is_taken() {
        let sets = [1, 800_000, 3_000_000, 1 << 40].map(SilentSet::for_demand);
        assert_eq!(sets.map(|set| set.log_leaves), [10, 11, 12, 12]);
    }
}
