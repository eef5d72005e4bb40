//! The one-time pads of vectors, stretched from the keys of their transfers.

use crate::ot::TweakedHash;
use zeroize::Zeroizing;

/// Words that are stretched together: enough to fill the widest AES pipeline, few enough for the nearest cache.
const BATCH: usize = 512;

/// Stretches keys to vectors of numbers.
///
/// A number takes four bytes of the stream `H(key, i 2^64), H(key, i 2^64 + 1), ...` of transfer `i` where it is
/// to be at most 32 bits wide, else eight. A pad of 16 bytes or fewer is the key itself.
pub(super) struct Pads {
    hash: TweakedHash,
    len: usize,
    words: Zeroizing<Vec<u128>>,
    /// Transfers so far.
    transfers: u64,
}

impl Pads {
    /// For vectors of `len` numbers.
    pub(super) fn new(len: usize) -> Self {
        Self { hash: TweakedHash::new(), len, words: Zeroizing::default(), transfers: 0 }
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
        self.words.resize(each * N * keys.len(), 0);
        if each == 1 {
            self.words.copy_from_slice(keys.as_flattened());
        } else {
            let first = self.transfers;
            let tweak = |position: usize| u128::from(first + (position / N) as u64) << 64;
            self.hash.expand(keys.as_flattened(), tweak, &mut self.words);
        }
        self.transfers += keys.len() as u64;
    }

    /// Fills `pad` from the key at `position` of those last stretched, `width` being that of its transfer.
    pub(super) fn read(&self, position: usize, width: u32, pad: &mut [u64]) {
        let each = words_of(self.len, width);
        let words = self.words[position * each..].iter();
        if width <= 32 {
            let (fours, rest) = pad.as_chunks_mut::<4>();
            let mut words =
                words.map(|&word| [0, 32, 64, 96].map(|at| (word >> at) as u32).map(u64::from));
            fours.iter_mut().zip(&mut words).for_each(|(four, word)| *four = word);
            rest.iter_mut().zip(words.flatten()).for_each(|(number, word)| *number = word);
        } else {
            let (twos, rest) = pad.as_chunks_mut::<2>();
            let mut words = words.map(|&word| [word as u64, (word >> 64) as u64]);
            twos.iter_mut().zip(&mut words).for_each(|(two, word)| *two = word);
            rest.iter_mut().zip(words.flatten()).for_each(|(number, word)| *number = word);
        }
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
        for len in [1, 2, 3, 4, 5, 9] {
            let keys: Vec<[u128; 2]> = (1..=40).map(|i| [i << 70 | i, i << 90 | i]).collect();
            let (mut whole, mut single) = (Pads::new(len), Pads::new(len));
            let mut at = 0;
            while at < keys.len() {
                let width = 40 - at as u32;
                let next = &keys[at..at + whole.together(width, keys.len() - at)];
                whole.stretch(next, width);
                for (position, [_, one]) in next.iter().enumerate() {
                    let width = width - position as u32;
                    single.stretch(&[[*one]], width);
                    let (mut ours, mut theirs) = (vec![0; len], vec![1; len]);
                    whole.read(2 * position + 1, width, &mut ours);
                    single.read(0, width, &mut theirs);
                    assert_eq!(ours, theirs);
                    if words_of(len, width) == 1 {
                        assert_eq!(ours[0] as u32, *one as u32, "a short pad is the key");
                    }
                }
                at += next.len();
            }
        }
    }
}
