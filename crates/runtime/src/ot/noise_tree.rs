//! The punctured trees behind silent OT: one error at a random place of each.
//!
//! "Half-Tree" (Guo et al., EUROCRYPT 2023). A node `x` has the children `H(x)` and `x ^ H(x)`, whose sum is `x`: with `k` and `k ^
//! delta` at the top, each level adds up to `delta`. Correlated transfers `(q, t = q ^ r delta)`, one a level, tell the receiver the
//! sum of all nodes at branch `r` of each level, and its path takes the other branch: it learns all leaves but one, and of that one
//! the sum with `delta`. As `r` is random, so is the path, and no choice has to be sent.

use super::block::{Domain, Tweaks};
use super::hash::{TweakRun, TweakedHash};
use super::selected::change_pair;
use copriv_ir::Party;

/// Bytes of the message for a tree of `depth` levels: nothing for the first.
pub(super) const fn message_bytes(depth: usize) -> usize {
    (depth - 1) * 16
}

/// Grows the trees of one direction.
pub(super) struct Grower {
    hash: TweakedHash,
    /// A tweak for each level of each tree.
    tweaks: Tweaks,
}

impl Grower {
    /// For the direction in which `sender` is the OT sender.
    pub(super) fn new(sender: Party) -> Self {
        let tweaks = Tweaks::new(sender, Domain::Trees);
        Self { hash: TweakedHash::new(), tweaks }
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
            let tweak = self.tweaks.next(1);
            let [left, _] = self.hash.children(&mut leaves[..2 * parents], tweak);
            message.extend_from_slice(&(key ^ left).to_le_bytes());
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
        // Of all leaves; on the level of the roots' children it is what is known.
        let mut sum = root;
        let (sums, _) = message.as_chunks::<16>();
        for ((parents, key), message) in (1..).map(|level| 1 << level).zip(keys).zip(sums) {
            let nodes = &mut leaves[..2 * parents];
            // The node of the path is zero, and so both its children become H(0).
            let tweak = self.tweaks.next(1);
            let mut unknown = [0];
            self.hash.hash(&mut unknown, TweakRun::same(tweak));
            let [unknown] = unknown;
            let [left, right] = self.hash.children(nodes, tweak);
            let branch = (key & 1).wrapping_neg();
            let wanted = u128::from_le_bytes(*message) ^ key;
            let sibling = wanted ^ left & !branch ^ right & branch;
            let changes =
                [unknown & branch | sibling & !branch, unknown & !branch | sibling & branch];
            change_pair(nodes, path, changes, u128::MAX);
            sum = left ^ right ^ changes[0] ^ changes[1];
            path = 2 * path + (1 ^ *key as usize & 1);
        }
        // The leaf of the path is still zero.
        let (leaf, is_right) = (sum | 1, (path as u128 & 1).wrapping_neg());
        change_pair(leaves, path / 2, [leaf & !is_right, leaf & is_right], !1);
    }
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
