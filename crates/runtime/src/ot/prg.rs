//! A pseudo-random generator: AES-128 in counter mode.

use crate::RuntimeError;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Block};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Blocks made at a time: enough to fill the widest AES pipeline.
const BATCH: usize = 64;

/// An endless stream of pseudo-random bytes that depends on a secret seed. Forgets it when dropped.
pub struct Prg {
    cipher: Aes128Enc,
    counter: u128,
    buffer: [u8; 16 * BATCH],
    /// Bytes of `buffer` already given out.
    taken: usize,
}

impl Prg {
    /// The stream of this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 16]) -> Self {
        let buffer = [0; 16 * BATCH];
        Self { cipher: Aes128Enc::new(seed.into()), counter: 0, buffer, taken: 16 * BATCH }
    }

    /// A stream that nobody else knows.
    ///
    /// # Errors
    /// [`RuntimeError::Randomness`].
    pub fn from_os() -> Result<Self, RuntimeError> {
        let mut seed = Zeroizing::new([0; 16]);
        getrandom::fill(&mut *seed).map_err(|source| RuntimeError::Randomness { source })?;
        Ok(Self::from_seed(&seed))
    }

    /// The next bytes of the stream.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.taken == self.buffer.len() {
                self.refill();
            }
            let take = out.len().min(self.buffer.len() - self.taken);
            let (now, later) = out.split_at_mut(take);
            now.copy_from_slice(&self.buffer[self.taken..self.taken + take]);
            self.taken += take;
            out = later;
        }
    }

    /// The next bytes of the stream as an array.
    #[must_use]
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// The next eight bytes as a number.
    #[must_use]
    pub fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn refill(&mut self) {
        let mut blocks = [Block::default(); BATCH];
        for block in &mut blocks {
            *block = self.counter.to_le_bytes().into();
            self.counter += 1;
        }
        self.cipher.encrypt_blocks(&mut blocks);
        for (bytes, block) in self.buffer.chunks_exact_mut(16).zip(&mut blocks) {
            bytes.copy_from_slice(block);
            block.zeroize();
        }
        self.taken = 0;
    }
}

impl Drop for Prg {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// The cipher forgets its key by itself.
impl ZeroizeOnDrop for Prg {}

impl fmt::Debug for Prg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prg").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_aes_in_counter_mode() {
        // AES-128 of the zero block under the zero key, FIPS 197.
        let zero = [
            0x66, 0xe9, 0x4b, 0xd4, 0xef, 0x8a, 0x2c, 0x3b, 0x88, 0x4c, 0xfa, 0x59, 0xca, 0x34,
            0x2b, 0x2e,
        ];
        assert_eq!(Prg::from_seed(&[0; 16]).array(), zero);
    }

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let whole: [u8; 3000] = Prg::from_seed(&[7; 16]).array();
        let mut pieces = Prg::from_seed(&[7; 16]);
        let mut read = Vec::new();
        for len in [1, 15, 16, 17, 1000, 1024, 927] {
            let mut piece = vec![0; len];
            pieces.fill(&mut piece);
            read.extend(piece);
        }
        assert_eq!(read, whole);
    }
}
