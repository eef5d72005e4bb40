//! Breaking correlations: a tweakable hash from AES with a fixed key.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Block};

/// `H(x, i) = pi(pi(x) ^ i) ^ pi(x)` with `pi` = AES-128 under a public key.
///
/// Tweakable circular correlation robust in the random-permutation model (TMMO of Guo, Katz, Wang and Yu,
/// "Efficient and secure multiparty computation from fixed-key block ciphers", S&P 2020): for a secret
/// `d`, the values `H(x ^ d, i)` at tweaks `i` that do not repeat look random.
#[derive(Clone, Debug)]
pub struct TweakedHash {
    pi: Aes128Enc,
}

/// Blocks that are hashed together.
pub(super) const BATCH: usize = 64;

impl TweakedHash {
    /// The hash. The key is the first digits of pi: nothing up its sleeve.
    #[must_use]
    pub fn new() -> Self {
        Self { pi: Aes128Enc::new(&0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes().into()) }
    }

    /// Replaces each `x` by `H(x, tweak)`; `tweak` maps a position to its tweak.
    #[inline]
    pub fn hash(&self, values: &mut [u128], tweak: impl Fn(usize) -> u128) {
        let mut inner = [Block::default(); BATCH];
        let mut outer = [Block::default(); BATCH];
        for (batch, values) in values.chunks_mut(BATCH).enumerate() {
            let (inner, outer) = (&mut inner[..values.len()], &mut outer[..values.len()]);
            for (block, value) in inner.iter_mut().zip(&*values) {
                *block = value.to_le_bytes().into();
            }
            self.pi.encrypt_blocks(inner);
            for (index, (outer, inner)) in outer.iter_mut().zip(&*inner).enumerate() {
                *outer = (number(inner) ^ tweak(batch * BATCH + index)).to_le_bytes().into();
            }
            self.pi.encrypt_blocks(outer);
            for (value, (outer, inner)) in values.iter_mut().zip(outer.iter().zip(&*inner)) {
                *value = number(outer) ^ number(inner);
            }
        }
    }

    /// Stretches a key that is known to nobody else to `H(key, tweak), H(key, tweak + 1), ...`, one AES for
    /// each 16 bytes.
    pub fn expand(&self, key: u128, tweak: u128, out: &mut [u8]) {
        let mut whitened: Block = key.to_le_bytes().into();
        self.pi.encrypt_block(&mut whitened);
        let whitened = number(&whitened);
        let mut blocks = [Block::default(); BATCH];
        let mut tweak = tweak;
        for out in out.chunks_mut(16 * BATCH) {
            let blocks = &mut blocks[..out.len().div_ceil(16)];
            for block in &mut *blocks {
                *block = (whitened ^ tweak).to_le_bytes().into();
                tweak = tweak.wrapping_add(1);
            }
            self.pi.encrypt_blocks(blocks);
            for (out, block) in out.chunks_mut(16).zip(blocks) {
                let bytes = (number(block) ^ whitened).to_le_bytes();
                out.copy_from_slice(&bytes[..out.len()]);
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
        let mut values: Vec<u128> = (0..150).map(|i| i * i << 60).collect();
        let expected: Vec<u128> =
            values.iter().zip(1000..).map(|(&x, tweak)| reference(x, tweak)).collect();
        TweakedHash::new().hash(&mut values, |position| 1000 + position as u128);
        assert_eq!(values, expected);
    }

    #[test]
    fn expansion_is_the_hash_at_consecutive_tweaks() {
        let mut out = vec![0; 16 * 70 + 5];
        TweakedHash::new().expand(42, 7, &mut out);
        for (index, out) in out.chunks(16).enumerate() {
            assert_eq!(out, &reference(42, 7 + index as u128).to_le_bytes()[..out.len()]);
        }
    }
}
