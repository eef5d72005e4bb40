//! Breaking correlations: a tweakable hash from AES with a fixed key.

#[cfg(target_arch = "x86_64")]
use super::wide_aes::{self, RoundKeys};
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Block};
use std::fmt;
use zeroize::Zeroizing;

/// `H(x, i) = pi(pi(x) ^ i) ^ pi(x)` with `pi` = AES-128 under a public key.
///
/// Tweakable circular correlation robust in the random-permutation model (TMMO of Guo, Katz, Wang and Yu,
/// "Efficient and secure multiparty computation from fixed-key block ciphers", S&P 2020): for a secret
/// `d`, the values `H(x ^ d, i)` at tweaks `i` that do not repeat look random.
#[derive(Clone)]
pub struct TweakedHash {
    pi: Aes128Enc,
    /// The same for the widest registers, where the processor has them.
    #[cfg(target_arch = "x86_64")]
    wide: Option<RoundKeys>,
}

/// The tweaks of values one after the other: the first `2^shared` have `first`, as many after them the next one, and so on.
#[derive(Clone, Copy, Debug)]
pub struct TweakRun {
    /// The first one.
    pub first: u128,
    /// Logarithm of how many values share one.
    pub shared: u32,
}

impl TweakRun {
    /// One for each value.
    #[must_use]
    pub const fn each(first: u128) -> Self {
        Self { first, shared: 0 }
    }

    /// The same for all.
    #[must_use]
    pub const fn same(tweak: u128) -> Self {
        Self { first: tweak, shared: usize::BITS - 1 }
    }

    /// That of value number `position`.
    fn tweak(self, position: usize) -> u128 {
        self.first + (position >> self.shared) as u128
    }
}

/// The first digits of pi: nothing up its sleeve.
const KEY: [u8; 16] = 0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes();

/// Blocks that are hashed together: many, because each call of the cipher has to spread its keys.
pub(super) const BATCH: usize = 256;

impl TweakedHash {
    /// The hash.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pi: Aes128Enc::new(&KEY.into()),
            #[cfg(target_arch = "x86_64")]
            wide: RoundKeys::new(&KEY),
        }
    }

    /// Replaces each `x` by `H(x, i)`, `i` being its tweak.
    #[inline]
    pub fn hash(&self, values: &mut [u128], tweaks: TweakRun) {
        #[cfg(target_arch = "x86_64")]
        if let Some(pi) = &self.wide
            && (tweaks.first as u64).checked_add(values.len() as u64).is_some()
        {
            // SAFETY: there are such round keys only where the processor has what it needs.
            return unsafe { wide_aes::hash(pi, values, tweaks) };
        }
        self.hash_portable(values, tweaks);
    }

    /// The hashes of rows, and of rows plus `offset`, both at tweaks from `first` on.
    ///
    /// # Panics
    /// If there are not as many places as rows.
    pub(super) fn hash_pairs(
        &self,
        (rows, offset): (&[u128], u128),
        first: u128,
        [zero, one]: [&mut [u128]; 2],
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(pi) = &self.wide
            && (first as u64).checked_add(rows.len() as u64).is_some()
        {
            // SAFETY: as above.
            return unsafe { wide_aes::hash_pairs(pi, (rows, offset), first, [zero, one]) };
        }
        for (to, offset) in [(zero, 0), (one, offset)] {
            to.copy_from_slice(rows);
            to.iter_mut().for_each(|row| *row ^= offset);
            self.hash_portable(to, TweakRun::each(first));
        }
    }

    fn hash_portable(&self, values: &mut [u128], tweaks: TweakRun) {
        let mut room = Zeroizing::new([0; BATCH]);
        for (batch, values) in values.chunks_mut(BATCH).enumerate() {
            let inner = &mut room[..values.len()];
            encrypt_to(&self.pi, values, inner);
            for (position, (value, inner)) in values.iter_mut().zip(&*inner).enumerate() {
                *value = inner ^ tweaks.tweak(batch * BATCH + position);
            }
            self.permute(values);
            values.iter_mut().zip(&*inner).for_each(|(value, inner)| *value ^= inner);
        }
    }

    /// Replaces the first half of `nodes` by the children `H(x, tweak)` and `x ^ H(x, tweak)` of each `x`. The sums of the left and of
    /// the right ones. There must be a power of two of them.
    pub(super) fn children(&self, nodes: &mut [u128], tweak: u128) -> [u128; 2] {
        #[cfg(target_arch = "x86_64")]
        if let Some(pi) = &self.wide
            && nodes.len() >= 8
        {
            // SAFETY: as above.
            return unsafe { wide_aes::children(pi, nodes, tweak) };
        }
        self.children_portable(nodes, tweak)
    }

    fn children_portable(&self, nodes: &mut [u128], tweak: u128) -> [u128; 2] {
        let half = nodes.len() / 2;
        let mut sums = [0; 2];
        let mut batch = Zeroizing::new([[0; BATCH]; 2]);
        let [parents, left] = &mut *batch;
        // From the last, for children are written over parents.
        for start in (0..half).step_by(BATCH).rev() {
            let count = BATCH.min(half - start);
            parents[..count].copy_from_slice(&nodes[start..start + count]);
            left[..count].copy_from_slice(&parents[..count]);
            self.hash_portable(&mut left[..count], TweakRun::same(tweak));
            let children = nodes[2 * start..2 * (start + count)].as_chunks_mut::<2>().0;
            for (children, (parent, left)) in children.iter_mut().zip(parents.iter().zip(&*left)) {
                *children = [*left, parent ^ left];
                sums[0] ^= children[0];
                sums[1] ^= children[1];
            }
        }
        sums
    }

    /// Stretches secret keys, each to an equal part of `words`: `H(key, tweak), H(key, tweak + 1), ...`, one
    /// AES a word. `tweak` maps a key's position to its first tweak.
    pub fn expand(&self, keys: &[u128], tweak: impl Fn(usize) -> u128, words: &mut [u128]) {
        let each = (words.len() / keys.len().max(1)).max(1);
        let words = &mut words[..each * keys.len()];
        #[cfg(target_arch = "x86_64")]
        if let Some(pi) = &self.wide
            && (0..keys.len()).all(|key| (tweak(key) as u64).checked_add(each as u64).is_some())
        {
            // SAFETY: as above.
            return unsafe { wide_aes::expand(pi, keys, tweak, (words, each)) };
        }
        self.expand_portable(keys, tweak, (words, each));
    }

    fn expand_portable(
        &self,
        keys: &[u128],
        tweak: impl Fn(usize) -> u128,
        (words, each): (&mut [u128], usize),
    ) {
        let mut whitened = Zeroizing::new(keys.to_vec());
        self.permute(&mut whitened);
        for (position, words) in words.chunks_exact_mut(each).enumerate() {
            let first = tweak(position);
            for (index, word) in (0..).zip(words) {
                *word = whitened[position] ^ (first + index);
            }
        }
        self.permute(words);
        for (words, key) in words.chunks_exact_mut(each).zip(whitened.iter()) {
            words.iter_mut().for_each(|word| *word ^= key);
        }
    }

    /// Replaces each `x` by `pi(x)`.
    #[inline]
    fn permute(&self, values: &mut [u128]) {
        encrypt(&self.pi, values);
    }
}

/// Encrypts numbers in place, as blocks with the lowest byte first.
#[inline]
pub(super) fn encrypt(cipher: &Aes128Enc, values: &mut [u128]) {
    values.iter_mut().for_each(|value| *value = value.to_le());
    cipher.encrypt_blocks(blocks_mut(values));
    values.iter_mut().for_each(|value| *value = u128::from_le(*value));
}

/// Encrypts numbers as [`encrypt`] does, to another place.
///
/// # Panics
/// If that has another length.
#[inline]
pub(super) fn encrypt_to(cipher: &Aes128Enc, values: &[u128], to: &mut [u128]) {
    if cfg!(target_endian = "big") {
        to.copy_from_slice(values);
        return encrypt(cipher, to);
    }
    let encrypted = cipher.encrypt_blocks_b2b(blocks(values), blocks_mut(to));
    encrypted.expect("both have the same length");
}

/// Numbers as the blocks that they are in memory.
#[inline]
fn blocks(values: &[u128]) -> &[Block] {
    const { assert!(size_of::<Block>() == size_of::<u128>() && align_of::<Block>() == 1) };
    // SAFETY: a block is 16 bytes of any value without alignment, as asserted, so these are the same `values.len()` blocks,
    // borrowed for as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// As [`blocks`].
#[inline]
fn blocks_mut(values: &mut [u128]) -> &mut [Block] {
    const { assert!(size_of::<Block>() == size_of::<u128>() && align_of::<Block>() == 1) };
    // SAFETY: as in `blocks`; any bytes that are written are a number.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

impl fmt::Debug for TweakedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TweakedHash").finish_non_exhaustive()
    }
}

impl Default for TweakedHash {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(x: u128, tweak: u128) -> u128 {
        let hash = TweakedHash::new();
        let pi = |x: u128| {
            let mut block = x.to_le_bytes().into();
            hash.pi.encrypt_block(&mut block);
            u128::from_le_bytes(block.into())
        };
        pi(pi(x) ^ tweak) ^ pi(x)
    }

    #[test]
    fn every_way_follows_the_definition() {
        let hash = TweakedHash::new();
        for (len, first) in
            [(600, 1000), (1, 3), (47, 1 << 127 | 5), (100, u128::from(u64::MAX) - 7)]
        {
            for shared in [0, 1, 2, 3, 4, usize::BITS - 1] {
                let run = TweakRun { first, shared };
                let values: Vec<u128> = (0..len).map(|i| (i * i) << 60).collect();
                let mut expected = values.clone();
                for (position, value) in expected.iter_mut().enumerate() {
                    *value = reference(*value, first + (position >> shared) as u128);
                }
                let [mut best, mut portable] = [values.clone(), values];
                hash.hash(&mut best, run);
                hash.hash_portable(&mut portable, run);
                assert_eq!(best, expected, "{run:?}");
                assert_eq!(portable, expected, "{run:?}");
            }
        }
    }

    #[test]
    fn every_way_makes_the_same_children() {
        let hash = TweakedHash::new();
        for parents in [1, 2, 4, 8, 16, 32, 64, 512] {
            let nodes: Vec<u128> = (0..2 * parents).map(|i| (i * i) << 60 | 5).collect();
            let [mut best, mut portable] = [nodes.clone(), nodes.clone()];
            let sums = [hash.children(&mut best, 9), hash.children_portable(&mut portable, 9)];
            let mut expected = [0; 2];
            for (at, parent) in nodes[..parents as usize].iter().enumerate() {
                let left = reference(*parent, 9);
                assert_eq!(best[2 * at..][..2], [left, parent ^ left], "{parents} {at}");
                expected = [expected[0] ^ left, expected[1] ^ parent ^ left];
            }
            assert_eq!((best, sums), (portable, [expected; 2]), "{parents}");
        }
    }

    #[test]
    fn pairs_are_hashed_one_by_one() {
        let hash = TweakedHash::new();
        for (len, first) in [(600, 1000), (25, 1 << 127 | 5), (100, u128::from(u64::MAX) - 7)] {
            let rows: Vec<u128> = (0..len).map(|i| (i * i) << 60).collect();
            let [mut zero, mut one] = [(); 2].map(|()| vec![0; rows.len()]);
            hash.hash_pairs((&rows, 77), first, [&mut zero, &mut one]);
            for ((row, tweak), pair) in rows.iter().zip(first..).zip(zero.iter().zip(&one)) {
                assert_eq!(pair, (&reference(*row, tweak), &reference(row ^ 77, tweak)));
            }
        }
    }

    #[test]
    fn expansion_is_the_hash_at_consecutive_tweaks() {
        let hash = TweakedHash::new();
        let keys: Vec<u128> = (42..71).map(|key| (key * key) << 77).collect();
        for (each, base) in
            [1, 2, 4, 5, 16, 70, 256].into_iter().flat_map(|e| [(e, 0), (e, u64::MAX - 3)])
        {
            let tweak = |position: usize| u128::from(base) + ((position as u128) << 64);
            let [mut best, mut portable] = [(); 2].map(|()| vec![0; keys.len() * each]);
            hash.expand(&keys, tweak, &mut best);
            hash.expand_portable(&keys, tweak, (&mut portable, each));
            for (index, word) in best.iter().enumerate() {
                let expected =
                    reference(keys[index / each], tweak(index / each) + (index % each) as u128);
                assert_eq!((*word, portable[index]), (expected, expected), "{each} {base} {index}");
            }
        }
    }
}
