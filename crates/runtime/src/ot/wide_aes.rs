//! AES-128 with 512-bit registers, four blocks in each: the kernels behind hashes and streams.
//!
//! Everything here is for processors with AVX-512 and VAES alone ([`is_available`]). Whoever calls it has portable code that
//! does the same, and a test that both agree.

mod hash;
mod streams;
mod tree;

pub(super) use hash::{expand, hash, hash_pairs};
pub(super) use streams::{fold, stream, streams, unmask};
pub(super) use tree::children;

use std::arch::x86_64::*;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Blocks in a register.
const LANES: usize = 4;

/// Whether the processor has what is needed.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("aes")
}

/// The round keys of a key. Forgets them when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct RoundKeys([u128; 11]);

/// Round keys, each in all lanes.
type Spread = [__m512i; 11];

impl RoundKeys {
    /// Of a key, where the processor can.
    pub(super) fn new(key: &[u8; 16]) -> Option<Self> {
        // SAFETY: the features were detected.
        is_available().then(|| Self(unsafe { schedule(u128::from_le_bytes(*key)) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn spread(&self) -> Spread {
        let mut spread = [_mm512_setzero_si512(); 11];
        for (spread, key) in spread.iter_mut().zip(&self.0) {
            *spread = broadcast(*key);
        }
        spread
    }
}

/// The key schedule (FIPS 197, section 5.2).
#[target_feature(enable = "aes")]
fn schedule(key: u128) -> [u128; 11] {
    let mut keys = [key; 11];
    macro_rules! next {
        ($($round:literal $constant:literal)*) => {
            $(keys[$round] = next_key::<$constant>(keys[$round - 1]);)*
        };
    }
    next!(1 0x01 2 0x02 3 0x04 4 0x08 5 0x10 6 0x20 7 0x40 8 0x80 9 0x1b 10 0x36);
    keys
}

#[inline]
#[target_feature(enable = "aes")]
fn next_key<const CONSTANT: i32>(key: u128) -> u128 {
    let word = _mm_set_epi64x((key >> 64) as i64, key as i64);
    let word = _mm_aeskeygenassist_si128::<CONSTANT>(word);
    // The rotated and substituted last word, in all four places.
    let word = _mm_shuffle_epi32::<0b11_11_11_11>(word);
    let word =
        (_mm_cvtsi128_si64(word) as u64 as u128) << 64 | _mm_cvtsi128_si64(word) as u64 as u128;
    let sums = key ^ key << 32;
    (sums ^ sums << 64) ^ word
}

/// Encrypts the blocks of `N` registers.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn encrypt<const N: usize>(keys: &Spread, blocks: &mut [__m512i; N]) {
    let [first, rounds @ .., last] = keys;
    for block in &mut *blocks {
        *block = _mm512_xor_si512(*block, *first);
    }
    for key in rounds {
        for block in &mut *blocks {
            *block = _mm512_aesenc_epi128(*block, *key);
        }
    }
    for block in blocks {
        *block = _mm512_aesenclast_epi128(*block, *last);
    }
}

/// A block in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(block: u128) -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi64x((block >> 64) as i64, block as i64))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u128; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded; the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: &mut [u128; LANES], register: __m512i) {
    // SAFETY: the array has the 64 bytes that are stored; the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
}
