//! Silent OT (Ferret): its parameter sets, and how many transfers are left when.

use super::ot::{self, Choices, message};
use crate::{OtKind, Party, Traffic};

/// Parameters of one expansion: `seeds` transfers become `outputs` ones, by learning parity with noise.
///
/// `trees` punctured trees of `2^log_leaves` leaves are the noise (one error in each, "regular"), `2^log_seeds`
/// seeds the secret. The sets are those that the authors' own library uses since the attacks on
/// regular noise of 2022 to 2024 (Briaud and Oygarden, EUROCRYPT 2023; Liu et al., EUROCRYPT 2024), chosen there for 128 bits of
/// security.
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
    /// From the smallest.
    pub const ALL: [Self; 4] = [
        Self { trees: 850, log_seeds: 16, log_leaves: 10 },
        Self { trees: 1170, log_seeds: 17, log_leaves: 11 },
        Self { trees: 1520, log_seeds: 18, log_leaves: 12 },
        Self { trees: 1900, log_seeds: 19, log_leaves: 13 },
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

    /// Bytes of the one message of an expansion, sender to receiver: a block for each level of each tree but
    /// the first.
    #[must_use]
    pub const fn message_bytes(&self) -> u64 {
        self.trees as u64 * (self.log_leaves as u64 - 1) * 16
    }
}

/// One direction's transfers that are made and not yet used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentPool {
    sender: Party,
    set: SilentSet,
    left: u64,
}

impl SilentPool {
    /// The pool of a session in which an inference draws `demand` transfers; `None` where it draws none.
    ///
    /// Its first seeds come from SoftSpoken over GF(2^8), by way of the smallest set where that is not the set
    /// chosen. What is then more than the seeds is ready for use.
    #[must_use]
    pub fn new(sender: Party, demand: u64) -> Option<Self> {
        let set = SilentSet::for_demand(demand);
        let [first, ..] = SilentSet::ALL;
        let left = if set == first { 0 } else { first.outputs() - set.seeds() } as u64;
        (demand > 0).then_some(Self { sender, set, left })
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
        let expansion = if self.set == first { 0 } else { first.message_bytes() };
        up + message(self.sender.sends(), expansion)
    }

    /// Fills the pool until it holds `transfers`; how many expansions that takes.
    pub fn fill(&mut self, transfers: u64) -> u64 {
        let expansions = transfers.saturating_sub(self.left).div_ceil(self.set.gain());
        self.left += expansions * self.set.gain();
        expansions
    }

    /// Takes transfers out of the pool, which must hold them.
    pub fn draw(&mut self, transfers: u64) {
        self.left = self.left.saturating_sub(transfers);
    }

    /// Traffic of so many expansions: one round, for nothing comes back.
    #[must_use]
    pub const fn expansions(&self, count: u64) -> Traffic {
        message(self.sender.sends(), count * self.set.message_bytes())
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
    fn four_million_transfers_cost_less_than_six_tenths_of_a_bit_each() {
        let count = 1 << 22;
        let mut pool = SilentPool::new(Party::Server, count).expect("some are drawn");
        pool.draw(pool.left());
        let expansions = pool.fill(count);
        let bits = 8.0 * pool.expansions(expansions).bytes() as f64 / count as f64;
        assert!(bits <= 0.6, "{bits}");
        pool.draw(count);
        assert_eq!(pool.fill(1), 0, "some are left");
    }

    #[test]
    fn the_smallest_set_that_suffices_is_taken() {
        let sets = [1, 800_000, 3_000_000, 6_000_000, 1 << 40].map(SilentSet::for_demand);
        assert_eq!(sets.map(|set| set.log_leaves), [10, 11, 12, 13, 13]);
    }
}
