//! Breaking correlations: a tweakable hash from AES with a fixed key.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Block};
use zeroize::Zeroizing;

/// `H(x, i) = pi(pi(x) ^ i) ^ pi(x)` with `pi` = AES-128 under a public key.
///
/// Tweakable circular correlation robust in the random-permutation model (TMMO of Guo, Katz, Wang and Yu,
/// "Efficient and secure multiparty computation from fixed-key block ciphers", S&P 2020): for a secret
/// `d`, the values `H(x ^ d, i)` at tweaks `i` that do not repeat look random.
#[derive(Clone, Debug)]
pub struct TweakedHash {
    pi: Aes128Enc,
}

/// Blocks that are hashed together: many, because each call of the cipher has to spread its keys.
pub(super) const BATCH: usize = 256;

impl TweakedHash {
    /// The hash. The key is the first digits of pi: nothing up its sleeve.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pi: Aes128Enc::new(
                &0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes().into(),
            ),
        }
    }

    /// Replaces each `x` by `H(x, tweak)`; `tweak` maps a position to its tweak.
    #[inline]
    pub fn hash(&self, values: &mut [u128], tweak: impl Fn(usize) -> u128) {
        let mut blocks = [Block::default(); BATCH];
        for (batch, values) in values.chunks_mut(BATCH).enumerate() {
            let blocks = &mut blocks[..values.len()];
            for (block, value) in blocks.iter_mut().zip(&*values) {
                *block = value.to_le_bytes().into();
            }
            self.hash_batch(blocks, |position| tweak(batch * BATCH + position), values);
        }
    }

    /// The hashes of at most [`BATCH`] blocks, which are overwritten.
    #[inline]
    pub(super) fn hash_batch(
        &self,
        blocks: &mut [Block],
        tweak: impl Fn(usize) -> u128,
        out: &mut [u128],
    ) {
        let mut inner = [Block::default(); BATCH];
        let inner = &mut inner[..blocks.len()];
        self.pi.encrypt_blocks_b2b(blocks, inner).expect("both have the same length");
        for (position, (block, inner)) in blocks.iter_mut().zip(&*inner).enumerate() {
            *block = (number(inner) ^ tweak(position)).to_le_bytes().into();
        }
        self.pi.encrypt_blocks(blocks);
        for (out, (block, inner)) in out.iter_mut().zip(blocks.iter().zip(&*inner)) {
            *out = number(block) ^ number(inner);
        }
    }

    /// Stretches secret keys, each to an equal part of `words`: `H(key, tweak), H(key, tweak + 1), ...`, one
    /// AES a word. `tweak` maps a key's position to its first tweak.
    pub fn expand(&self, keys: &[u128], tweak: impl Fn(usize) -> u128, words: &mut [u128]) {
        let mut whitened = Zeroizing::new(keys.to_vec());
        self.permute(&mut whitened);
        let each = (words.len() / keys.len().max(1)).max(1);
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
    fn permute(&self, values: &mut [u128]) {
        let mut blocks = [Block::default(); BATCH];
        for values in values.chunks_mut(BATCH) {
            let blocks = &mut blocks[..values.len()];
            for (block, value) in blocks.iter_mut().zip(&*values) {
                *block = value.to_le_bytes().into();
            }
            self.pi.encrypt_blocks(blocks);
            for (value, block) in values.iter_mut().zip(&*blocks) {
                *value = number(block);
            }
        }
    }
}

impl Default for TweakedHash {
    fn default() -> Self {
        Self::new()
    }
}

fn number(block: &Block) -> u128 {
    u128::from_le_bytes((*block).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(x: u128, tweak: u128) -> u128 {
        let hash = TweakedHash::new();
        let pi = |x: u128| {
            let mut block = x.to_le_bytes().into();
            hash.pi.encrypt_block(&mut block);
            number(&block)
        };
        pi(pi(x) ^ tweak) ^ pi(x)
    }

    #[test]
    fn batches_follow_the_definition() {
        let mut values: Vec<u128> = (0..150).map(|i| (i * i) << 60).collect();
        let expected: Vec<u128> =
            values.iter().zip(1000..).map(|(&x, tweak)| reference(x, tweak)).collect();
        TweakedHash::new().hash(&mut values, |position| 1000 + position as u128);
        assert_eq!(values, expected);
    }

    #[test]
    fn expansion_is_the_hash_at_consecutive_tweaks() {
        let keys = [42, 43, 44];
        for each in [1, 5, 70] {
            let mut words = vec![0; 3 * each];
            TweakedHash::new().expand(&keys, |position| 1000 * position as u128, &mut words);
            for (index, word) in words.iter().enumerate() {
                let tweak = 1000 * (index / each) + index % each;
                assert_eq!(*word, reference(keys[index / each], tweak as u128));
            }
        }
    }
}
