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
        let mut room = Zeroizing::new([0; BATCH]);
        for (batch, values) in values.chunks_mut(BATCH).enumerate() {
            let inner = &mut room[..values.len()];
            encrypt_to(&self.pi, values, inner);
            for (position, (value, inner)) in values.iter_mut().zip(&*inner).enumerate() {
                *value = inner ^ tweak(batch * BATCH + position);
            }
            self.permute(values);
            values.iter_mut().zip(&*inner).for_each(|(value, inner)| *value ^= inner);
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
    fn batches_follow_the_definition() {
        let mut values: Vec<u128> = (0..600).map(|i| (i * i) << 60).collect();
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
