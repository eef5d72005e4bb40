//! The punctured trees behind silent OT: one error at a random place of each.
//!
//! "Half-Tree" (Guo et al., EUROCRYPT 2023). A node `x` has the children `H(x)` and `x ^ H(x)`, whose sum is `x`: with `k` and `k ^
//! delta` at the top, each level adds up to `delta`. Correlated transfers `(q, t = q ^ r delta)`, one a level, tell the receiver the
//! sum of all nodes at branch `r` of each level, and its path takes the other branch: it learns all leaves but one, and of that one
//! the sum with `delta`. As `r` is random, so is the path, and no choice has to be sent.

use super::block::{Domain, Tweaks};
use super::hash::TweakedHash;
use copriv_ir::Party;
use zeroize::Zeroizing;

/// Bytes of the message for a tree of `depth` levels: nothing for the first.
pub(super) const fn message_bytes(depth: usize) -> usize {
    (depth - 1) * 16
}

/// Grows the trees of one direction.
pub(super) struct Grower {
    hash: TweakedHash,
    /// A tweak for each level of each tree.
    tweaks: Tweaks,
    parents: Zeroizing<Vec<u128>>,
}

impl Grower {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party) -> Self {
        let tweaks = Tweaks::new(sender, Domain::Trees);
        Self { hash: TweakedHash::new(), tweaks, parents: Zeroizing::default() }
    }

    /// The sender's leaves, `2^depth` of them and each with its last bit cleared, from its `depth` transfers `q`. Appends the
    /// message.
    pub(super) fn grow(
        &mut self,
        delta: u128,
        keys: &[u128],
        leaves: &mut [u128],
        message: &mut Vec<u8>,
    ) {
        let Some((&root, keys)) = keys.split_first() else { return };
        (leaves[0], leaves[1]) = (root, root ^ delta);
        for (parents, key) in (1..).map(|level| 1 << level).zip(keys) {
            let nodes = &mut leaves[..2 * parents];
            self.descend(nodes);
            let sum = nodes.iter().step_by(2).fold(*key, |sum, node| sum ^ node);
            message.extend_from_slice(&sum.to_le_bytes());
        }
        leaves.iter_mut().for_each(|leaf| *leaf &= !1);
    }

    /// The receiver's leaves, from its `depth` transfers `t` and the message. All end in a zero but that of the path, which is
    /// the sender's plus `delta`.
    ///
    /// Nothing here depends on the path in time or place.
    pub(super) fn grow_punctured(&mut self, keys: &[u128], message: &[u8], leaves: &mut [u128]) {
        let Some((&root, keys)) = keys.split_first() else { return };
        let branch = (root & 1).wrapping_neg();
        (leaves[0], leaves[1]) = (root & !branch, root & branch);
        let mut path = 1 ^ root as usize & 1;
        let (sums, _) = message.as_chunks::<16>();
        for ((parents, key), sum) in (1..).map(|level| 1 << level).zip(keys).zip(sums) {
            let nodes = &mut leaves[..2 * parents];
            // The node of the path is zero, and so both its children become H(0).
            let unknown = self.descend(nodes);
            let branch = (key & 1).wrapping_neg();
            let wanted = u128::from_le_bytes(*sum) ^ key;
            let [even, odd] = nodes
                .as_chunks::<2>()
                .0
                .iter()
                .fold([0; 2], |[even, odd], [left, right]| [even ^ left, odd ^ right]);
            let sibling = wanted ^ even & !branch ^ odd & branch;
            let changes =
                [unknown & branch | sibling & !branch, unknown & !branch | sibling & branch];
            for (parent, nodes) in nodes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let here = equal(parent, path);
                nodes[0] ^= changes[0] & here;
                nodes[1] ^= changes[1] & here;
            }
            path = 2 * path + (1 ^ *key as usize & 1);
        }
        let sum = leaves.iter().fold(0, |sum, leaf| sum ^ leaf);
        for (position, leaf) in leaves.iter_mut().enumerate() {
            let here = equal(position, path);
            *leaf = (*leaf & !here | sum & here) & !1 | here & 1;
        }
    }

    /// Replaces the first half of `nodes` by the children of each. What the children of zero would be.
    fn descend(&mut self, nodes: &mut [u128]) -> u128 {
        let tweak = self.tweaks.next(1);
        let half = nodes.len() / 2;
        self.parents.clear();
        self.parents.extend_from_slice(&nodes[..half]);
        self.parents.push(0);
        self.hash.hash(&mut self.parents, |_| tweak);
        for parent in (0..half).rev() {
            let left = self.parents[parent];
            nodes[2 * parent + 1] = nodes[parent] ^ left;
            nodes[2 * parent] = left;
        }
        self.parents[half]
    }
}

/// All ones if the numbers are equal, else zero.
#[inline]
fn equal(a: usize, b: usize) -> u128 {
    let differs = (a ^ b) as u64;
    let differs = (differs | differs.wrapping_neg()) >> 63;
    u128::from(differs).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;

    #[test]
    fn trees_differ_by_delta_in_one_leaf() {
        let mut rng = Prg::from_seed(&[3; 16]);
        let mut block = || u128::from_le_bytes(rng.array());
        let (mut ours, mut theirs) = (Grower::new(Party::Client), Grower::new(Party::Client));
        for depth in [1, 2, 5, 10, 11] {
            let delta = block() | 1;
            let keys: Vec<u128> = (0..depth).map(|_| block() & !1).collect();
            let choices: Vec<u128> = (0..depth).map(|_| block() & 1).collect();
            let chosen: Vec<u128> =
                keys.iter().zip(&choices).map(|(q, r)| q ^ (r * delta)).collect();
            let (mut all, mut known) = (vec![0; 1 << depth], vec![0; 1 << depth]);
            let mut message = Vec::new();
            ours.grow(delta, &keys, &mut all, &mut message);
            assert_eq!(message.len(), message_bytes(depth));
            theirs.grow_punctured(&chosen, &message, &mut known);
            let path = choices.iter().fold(0, |path, r| 2 * path + (1 ^ *r as usize));
            for (position, (all, known)) in all.iter().zip(&known).enumerate() {
                assert_eq!(all & 1, 0);
                assert_eq!(all ^ known, if position == path { delta } else { 0 });
            }
        }
    }
}
