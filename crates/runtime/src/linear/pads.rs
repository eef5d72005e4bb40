//! The one-time pads of vectors, stretched from the keys of their transfers.

use super::lanes::REGISTER_WORDS;
use crate::ot::TweakedHash;
use zeroize::Zeroizing;

/// Words that are stretched together: enough to fill the widest AES pipeline, few enough for the nearest cache.
const BATCH: usize = 512;

/// Stretches keys to vectors of numbers.
///
/// A number takes four bytes of the stream `H(key, i 2^64), H(key, i 2^64 + 1), ...` of transfer `i` where it is
/// to be at most 32 bits wide, else eight, the first from the lowest bits. A pad of 16 bytes or fewer is the key
/// itself.
pub(super) struct Pads {
    hash: TweakedHash,
    len: usize,
    words: Zeroizing<Vec<u128>>,
    /// Number of the next transfer.
    transfers: u64,
}

impl Pads {
    /// For vectors of `len` numbers.
    pub(super) fn new(len: usize) -> Self {
        Self { hash: TweakedHash::new(), len, words: Zeroizing::default(), transfers: 0 }
    }

    /// Whether the pads of transfers of at most `width` bits are their keys.
    pub(super) fn are_keys(&self, width: u32) -> bool {
        words_of(self.len, width) == 1
    }

    /// The number of the next transfer, counted from the product's first.
    pub(super) fn go_to(&mut self, transfer: u64) {
        self.transfers = transfer;
    }

    /// How many of the next transfers, of `width` bits and one bit narrower each, to stretch together.
    ///
    /// All of them have numbers of the same size.
    pub(super) fn together(&self, width: u32, transfers: usize) -> usize {
        let same_size = if width > 32 { width as usize - 32 } else { transfers };
        let fit = BATCH / words_of(self.len, width);
        transfers.min(same_size).min(fit).max(1)
    }

    /// Stretches the `N` keys of each of the next transfers, whose first is `width` bits wide.
    pub(super) fn stretch<const N: usize>(&mut self, keys: &[[u128; N]], width: u32) {
        let each = words_of(self.len, width);
        let total = each * N * keys.len();
        // The last pad is read in whole registers.
        let room = self.words.len().max(total + REGISTER_WORDS);
        self.words.resize(room, 0);
        let words = &mut self.words[..total];
        if each == 1 {
            words.copy_from_slice(keys.as_flattened());
        } else {
            let first = self.transfers;
            let tweak = |position: usize| u128::from(first + (position / N) as u64) << 64;
            self.hash.expand(keys.as_flattened(), tweak, words);
        }
        self.transfers += keys.len() as u64;
    }

    /// The words of the pad number `position` of those last stretched, `width` being that of its transfer. Other
    /// words follow it.
    pub(super) fn words(&self, position: usize, width: u32) -> &[u128] {
        &self.words[position * words_of(self.len, width)..]
    }
}

/// Words of 16 bytes for a pad of `len` numbers.
fn words_of(len: usize, width: u32) -> usize {
    len.div_ceil(if width <= 32 { 4 } else { 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parties_read_the_same_pads_however_many_they_stretch_together() {
        for len in [1, 2, 3, 4, 5, 9, 700] {
            let keys: Vec<[u128; 2]> = (1..=40).map(|i| [i << 70 | i, i << 90 | i]).collect();
            let (mut whole, mut single) = (Pads::new(len), Pads::new(len));
            let mut at = 0;
            while at < keys.len() {
                let width = 40 - at as u32;
                let next = &keys[at..at + whole.together(width, keys.len() - at)];
                whole.stretch(next, width);
                for (position, [_, one]) in next.iter().enumerate() {
                    let width = width - position as u32;
                    single.go_to((at + position) as u64);
                    single.stretch(&[[*one]], width);
                    let (ours, theirs) =
                        (whole.words(2 * position + 1, width), single.words(0, width));
                    let words = words_of(len, width);
                    assert_eq!(ours[..words], theirs[..words]);
                    assert!(ours.len() >= words.next_multiple_of(REGISTER_WORDS));
                    if words == 1 {
                        assert_eq!(ours[0], *one, "a short pad is the key");
                    }
                }
                at += next.len();
            }
        }
    }
}
