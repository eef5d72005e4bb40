//! Seeds and the streams that they stand for: ChaCha20, one stream for each purpose and index.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize as _, ZeroizeOnDrop};

/// Bytes made at a time.
const BATCH: usize = 1024;

/// What a stream is for. Streams of different purposes or indices of one seed are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Public polynomials of an input chunk.
    Chunk = 1,
    /// The public matrix `a0`.
    Matrix = 2,
    /// `u` of an output channel.
    Mask = 3,
    /// Noise of an output channel's hint.
    HintNoise = 4,
    /// The seed of a client's secret.
    Secret = 5,
    /// A client's secret.
    Ternary = 6,
    /// Noise of an upload.
    Noise = 7,
    /// Noise of a carrier.
    CarrierNoise = 8,
    /// Floods and the server's shares in a reply.
    Flood = 9,
}

/// The seed of the public polynomials, drawn once for each compilation and written in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicSeed(crate::Digest);

impl PublicSeed {
    /// The seed of these bytes. Two plans must not share one.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(crate::Digest::from_bytes(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    pub(crate) fn stream(&self, purpose: Purpose, index: u64) -> Stream {
        Stream::new(self.bytes(), purpose, index)
    }
}

/// A secret seed. It cannot be cloned, printed or compared, and forgets itself.
#[derive(ZeroizeOnDrop)]
pub struct SecretSeed([u8; 32]);

impl SecretSeed {
    /// The seed of these bytes, which must come from the operating system and be used for nothing else.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be stored as the secret that they are.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn stream(&self, purpose: Purpose, index: u64) -> Stream {
        Stream::new(&self.0, purpose, index)
    }

    /// A seed that follows from this one.
    pub(crate) fn derive(&self, purpose: Purpose, index: u64) -> Self {
        let mut bytes = [0; 32];
        self.stream(purpose, index).fill(&mut bytes);
        let derived = Self(bytes);
        bytes.zeroize();
        derived
    }
}

impl fmt::Debug for SecretSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSeed").finish_non_exhaustive()
    }
}

/// An endless stream of bytes; forgets itself when dropped.
pub(crate) struct Stream {
    cipher: ChaCha20,
    buffer: [u8; BATCH],
    taken: usize,
}

impl Stream {
    fn new(seed: &[u8; 32], purpose: Purpose, index: u64) -> Self {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&index.to_le_bytes());
        nonce[8] = purpose as u8;
        let cipher = ChaCha20::new(seed.into(), &nonce.into());
        Self { cipher, buffer: [0; BATCH], taken: BATCH }
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.cipher.apply_keystream(bytes);
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.taken + N > BATCH {
            self.refill();
        }
        let start = self.taken;
        self.taken += N;
        std::array::from_fn(|at| self.buffer[start + at])
    }

    #[cold]
    fn refill(&mut self) {
        self.buffer.fill(0);
        self.cipher.apply_keystream(&mut self.buffer);
        self.taken = 0;
    }

    #[inline]
    pub(crate) fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// A uniform residue of a word of this many bits.
    #[inline]
    pub(crate) fn word(&mut self, bits: u32) -> u64 {
        self.next_u64() >> (64 - bits)
    }

    /// A centred binomial number with variance 10.5: the difference of two counts of 21 coins.
    #[inline]
    pub(crate) fn noise(&mut self) -> i64 {
        const COINS: u64 = (1 << 21) - 1;
        let coins = self.next_u64();
        i64::from((coins & COINS).count_ones()) - i64::from((coins >> 21 & COINS).count_ones())
    }

    /// Uniform choices of -1, 0 and 1, as 2, 0, 1. Which bytes are passed over says nothing of those that are not.
    pub(crate) fn trits(&mut self, trits: &mut [u8]) {
        let mut drawn = 0;
        while drawn < trits.len() {
            if self.taken == BATCH {
                self.refill();
            }
            for &byte in &self.buffer[self.taken..] {
                trits[drawn] = byte % 3;
                drawn += usize::from(byte < 255);
                self.taken += 1;
                if drawn == trits.len() {
                    break;
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_other_purposes_and_indices_differ() {
        let seed = SecretSeed::new([7; 32]);
        let word = |purpose, index| seed.stream(purpose, index).next_u64();
        assert_eq!(word(Purpose::Mask, 1), word(Purpose::Mask, 1));
        assert_ne!(word(Purpose::Mask, 1), word(Purpose::Mask, 2));
        assert_ne!(word(Purpose::Mask, 1), word(Purpose::Noise, 1));
        assert_ne!(seed.derive(Purpose::Secret, 0).0, seed.0);
        assert!(!format!("{seed:?}").contains('7'));
    }

    #[test]
    fn samples_have_the_moments_that_the_noise_formulae_count_on() {
        let mut stream = PublicSeed::new([1; 32]).stream(Purpose::Noise, 0);
        let count = 200_000;
        let moments = |mut draw: Box<dyn FnMut() -> f64 + '_>| {
            let (mut sum, mut squares) = (0.0, 0.0);
            (0..count).for_each(|_| {
                let x = draw();
                sum += x;
                squares += x * x;
            });
            (sum / f64::from(count), squares / f64::from(count))
        };
        let (mean, square) = moments(Box::new(|| stream.noise() as f64));
        assert!(mean.abs() < 0.04 && (square - 10.5).abs() < 0.2, "{mean} {square}");
        let mut trits = vec![0; count as usize];
        stream.trits(&mut trits);
        let mut trits = trits.into_iter();
        let (mean, square) = moments(Box::new(|| f64::from(trits.next().unwrap_or(9)) - 1.0));
        assert!(mean.abs() < 0.01 && (square - 2.0 / 3.0).abs() < 0.01, "{mean} {square}");
    }
}
