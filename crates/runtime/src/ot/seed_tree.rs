//! The trees of seeds behind SoftSpoken: one party knows all leaves, the other all but one.
//!
//! Goldreich, Goldwasser and Micali's tree, punctured with one base transfer a level (Doerner and shelat, CCS 2017). The
//! branch of level `b` is bit `b` of a leaf's number.

use super::Prg;
use super::base::BaseOts;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, Zeroizing};

type Seed = [u8; 16];

/// Bytes of the sums of `128 / bits` trees of `bits` levels: two seeds for each level but the first.
pub(super) const fn message_bytes(bits: usize) -> usize {
    128 / bits * (bits - 1) * 32
}

/// All leaves, tree by tree, and the message for the peer: for each level but the first the sums of the nodes at each
/// branch, each hidden by the *other* branch's key.
pub(super) fn grown(base: &BaseOts, bits: usize) -> (Zeroizing<Vec<Seed>>, Vec<u8>) {
    let mut leaves = Zeroizing::new(vec![[0_u8; 16]; (128 / bits) << bits]);
    let mut message = Vec::with_capacity(message_bytes(bits));
    let trees = leaves.chunks_exact_mut(1 << bits);
    for (nodes, keys) in trees.zip(base.both[..128].chunks_exact(bits)) {
        let keys = |level: usize| keys[level].map(|key| branch_key(bits, &key));
        let [key0, key1] = keys(0);
        (nodes[0], nodes[1]) = (key1, key0);
        for level in 1..bits {
            let [mut zero, mut one] = keys(level);
            let (left, right) = grow_level(nodes, level);
            left.iter().for_each(|node| xor(&mut one, node));
            right.iter().for_each(|node| xor(&mut zero, node));
            message.extend(one.iter().chain(&zero));
        }
    }
    (leaves, message)
}

/// All leaves but one of each tree: the punctured leaf's number `a` is made of the party's choices, one a level, and leaf
/// `y > 0` of the result is leaf `y ^ a` of the peer.
///
/// Nothing here depends on the choices in time or place.
pub(super) fn punctured(base: &BaseOts, bits: usize, message: &[u8]) -> Zeroizing<Vec<Seed>> {
    let mut leaves = Zeroizing::new(Vec::with_capacity(((128 / bits) << bits) - 128 / bits));
    let mut nodes = Zeroizing::new(vec![[0_u8; 16]; 1 << bits]);
    let (sums, _) = message.as_chunks::<16>();
    let mut sums = sums.as_chunks::<2>().0.iter();
    for (keys, choices) in
        base.chosen[..128].chunks_exact(bits).zip(base.choices.chunks_exact(bits))
    {
        // Node 0 is the one that is not known.
        (nodes[0], nodes[1]) = ([0; 16], branch_key(bits, &keys[0]));
        for level in 1..bits {
            let choice = Choice::from(choices[level]);
            let mut sum = branch_key(bits, &keys[level]);
            let [at_left, at_right] = sums.next().copied().unwrap_or_default();
            // The sum at the branch not taken, which the key of the branch taken hides.
            xor(&mut sum, &Seed::conditional_select(&at_right, &at_left, choice));
            let (left, right) = grow_level(&mut nodes, level);
            for (left, right) in left.iter_mut().zip(right.iter_mut()) {
                Seed::conditional_swap(left, right, choice);
            }
            left[0] = [0; 16];
            right[1..].iter().for_each(|node| xor(&mut sum, node));
            right[0] = sum;
        }
        leaves.extend_from_slice(&nodes[1..]);
    }
    leaves
}

/// Puts the children of a level's nodes, which are the first ones, in their place: all left ones, then all right ones.
fn grow_level(nodes: &mut [Seed], level: usize) -> (&mut [Seed], &mut [Seed]) {
    let (left, right) = nodes[..2 << level].split_at_mut(1 << level);
    for (left, right) in left.iter_mut().zip(right.iter_mut()) {
        [*left, *right] = children(left);
    }
    (left, right)
}

fn children(node: &Seed) -> [Seed; 2] {
    let mut prg = Prg::from_seed(node);
    [prg.array(), prg.array()]
}

/// A base transfer's key for this use of it alone.
fn branch_key(bits: usize, key: &Seed) -> Seed {
    let mut hash = Sha256::new_with_prefix(b"CoPriv SoftSpoken");
    hash.update([bits as u8]);
    hash.update(key);
    let mut digest = hash.finalize();
    let mut seed = [0; 16];
    seed.copy_from_slice(&digest[..16]);
    digest.zeroize();
    seed
}

fn xor(sum: &mut Seed, seed: &Seed) {
    sum.iter_mut().zip(seed).for_each(|(sum, byte)| *sum ^= byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leaf_of_each_tree_is_missing() {
        let base = BaseOts::random(7);
        for bits in [2, 4, 8] {
            let (leaves, message) = grown(&base, bits);
            assert_eq!(message.len(), message_bytes(bits));
            let known = punctured(&base, bits, &message);
            let trees = leaves.chunks_exact(1 << bits).zip(known.chunks_exact((1 << bits) - 1));
            assert_eq!(trees.len(), 128 / bits);
            for ((all, known), choices) in trees.zip(base.choices.chunks_exact(bits)) {
                let number = |sum, (bit, &choice): (usize, &u8)| sum | usize::from(choice) << bit;
                let missing = choices.iter().enumerate().fold(0, number);
                assert!(known.iter().enumerate().all(|(y, leaf)| all[(y + 1) ^ missing] == *leaf));
                assert!(!known.contains(&all[missing]));
            }
        }
    }
}
