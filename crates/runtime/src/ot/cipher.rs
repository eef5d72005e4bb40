//! Pseudo-random streams of the columns of an extension: AES-128 in counter mode, as this processor does it best.

use super::block::{Plane, WORDS, xor};
use super::hash::encrypt_to;
#[cfg(target_arch = "x86_64")]
use super::wide_aes::{self, RoundKeys};
use aes::Aes128Enc;
use aes::cipher::KeyInit;
use zeroize::Zeroizing;

/// A secret key. Forgets it when dropped.
pub(super) enum Cipher {
    /// For processors with the widest registers.
    #[cfg(target_arch = "x86_64")]
    Wide(RoundKeys),
    /// For all.
    Portable(Aes128Enc),
}

/// The part of a stream that a block takes: its first counter, and its length in words of at most [`WORDS`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub counter: u128,
    pub words: usize,
}

impl Cipher {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = RoundKeys::new(key) {
            return Self::Wide(keys);
        }
        Self::Portable(Aes128Enc::new(key.into()))
    }

    /// The stream. What `to` holds beyond the part is undefined.
    #[inline]
    pub(super) fn stream(&self, part: Part, to: &mut Plane) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: there are such round keys only where the processor has what it needs.
            Self::Wide(keys) => unsafe { wide_aes::stream(keys, part, to) },
            Self::Portable(cipher) => {
                let mut counters = [0; WORDS];
                counters.iter_mut().zip(part.counter..).for_each(|(to, counter)| *to = counter);
                encrypt_to(cipher, &counters[..part.words], &mut to[..part.words]);
            }
        }
    }

    /// The sum of the stream and of those bits of `correction` where `mask` is one. What `to` holds beyond the part is
    /// undefined.
    #[inline]
    pub(super) fn unmask(&self, part: Part, (correction, mask): (&Plane, u128), to: &mut Plane) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Wide(keys) => unsafe { wide_aes::unmask(keys, part, (correction, mask), to) },
            Self::Portable(_) => {
                self.stream(part, to);
                to.iter_mut().zip(correction).for_each(|(to, bits)| *to ^= bits & mask);
            }
        }
    }

    /// The first cipher's stream, and the sum of both and `choices`. Beyond the part they are undefined.
    #[inline]
    pub(super) fn streams(
        [zero, one]: &[Self; 2],
        part: Part,
        choices: &Plane,
        [stream, sum]: [&mut Plane; 2],
    ) {
        match (zero, one) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Self::Wide(zero), Self::Wide(one)) => unsafe {
                wide_aes::streams([zero, one], part, choices, [stream, sum]);
            },
            _ => {
                zero.stream(part, stream);
                one.stream(part, sum);
                xor(sum, stream);
                xor(sum, choices);
            }
        }
    }

    /// The streams of a tree's leaves added up: `sum_x x r_x` in the first columns, one a bit of `x`, and `sum_x r_x` in the last.
    /// Leaf `0` is left out where there are not `2^bits` leaves. Beyond the part sums are undefined.
    pub(super) fn fold(leaves: &[Self], part: Part, sums: &mut [Plane]) {
        #[cfg(target_arch = "x86_64")]
        if let [Self::Wide(_), ..] = leaves {
            let keys = |leaf: usize| match leaves.get(leaf) {
                Some(Self::Wide(keys)) => keys,
                _ => unreachable!("all are of one kind"),
            };
            // SAFETY: as above.
            return unsafe { wide_aes::fold(leaves.len(), keys, part, sums) };
        }
        Self::fold_portable(leaves, part, sums);
    }

    fn fold_portable(leaves: &[Self], part: Part, sums: &mut [Plane]) {
        let Some((total, sums)) = sums.split_last_mut() else { return };
        sums.fill([0; WORDS]);
        let all = 1_usize << sums.len();
        let missing = all - leaves.len();
        // Sums of complete subtrees, as in a binary counter: neighbours of equal size merge.
        let mut parts = Zeroizing::new([[0; WORDS]; 9]);
        let mut top = 0;
        for x in 0..all {
            parts[top] = [0; WORDS];
            if x >= missing {
                leaves[x - missing].stream(part, &mut parts[top]);
            }
            for sum in &mut sums[..x.trailing_ones() as usize] {
                let (left, right) = parts.split_at_mut(top);
                xor(sum, &right[0]);
                xor(&mut left[top - 1], &right[0]);
                top -= 1;
            }
            top += 1;
        }
        *total = parts[0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use aes::cipher::BlockCipherEncrypt;

    fn portable(key: &[u8; 16]) -> Cipher {
        Cipher::Portable(Aes128Enc::new(key.into()))
    }

    fn planes<const N: usize>(seed: u8) -> [Plane; N] {
        let mut random = Prg::from_seed(&[seed; 16]);
        std::array::from_fn(|_| std::array::from_fn(|_| u128::from_le_bytes(random.array())))
    }

    fn parts() -> impl Iterator<Item = Part> {
        [1, 3, 4, 15, 16, 33, 63, 64].into_iter().map(|words| {
            // Past the end of the low half, too.
            Part { counter: u128::from(u64::MAX) - 9 * (words % 2) as u128, words }
        })
    }

    #[test]
    fn streams_are_counters_encrypted() {
        let (key, [plane]) = ([5; 16], planes(1));
        for part in parts() {
            for cipher in [Cipher::new(&key), portable(&key)] {
                let mut stream = plane;
                cipher.stream(part, &mut stream);
                for (word, counter) in stream[..part.words].iter().zip(part.counter..) {
                    let mut block = counter.to_le_bytes().into();
                    Aes128Enc::new(&key.into()).encrypt_block(&mut block);
                    assert_eq!(*word, u128::from_le_bytes(block.into()));
                }
            }
        }
    }

    #[test]
    fn every_way_gives_the_same_columns() {
        let [choices, zeros] = planes(2);
        for part in parts() {
            let columns = [Cipher::new, portable].map(|new| {
                let pair = [new(&[1; 16]), new(&[2; 16])];
                let mut made = [zeros; 4];
                let [stream, sum, clear, unmasked] = &mut made;
                Cipher::streams(&pair, part, &choices, [stream, sum]);
                pair[0].unmask(part, (&choices, 0), clear);
                pair[1].unmask(part, (&choices, u128::MAX), unmasked);
                made.map(|column| column[..part.words].to_vec())
            });
            assert_eq!(columns[0], columns[1]);
            let [stream, sum, clear, unmasked] = &columns[0];
            assert_eq!(stream, clear);
            assert!(stream.iter().zip(unmasked).zip(sum).all(|((a, b), sum)| a ^ b == *sum));
        }
    }

    #[test]
    fn every_way_adds_up_the_same_leaves() {
        for bits in [2, 4, 8] {
            for (missing, part) in [0, 1].into_iter().flat_map(|m| parts().map(move |p| (m, p))) {
                let seed = |x: usize| Prg::from_seed(&[x as u8; 16]).array();
                let keys: Vec<[u8; 16]> = (missing..1 << bits).map(seed).collect();
                let [ours, portable] = [Cipher::new, portable].map(|new| {
                    let leaves: Vec<Cipher> = keys.iter().map(new).collect();
                    let mut sums = vec![[7; WORDS]; bits + 1];
                    Cipher::fold(&leaves, part, &mut sums);
                    sums
                });
                let mut expected = vec![[0; WORDS]; bits + 1];
                for (x, key) in (missing..).zip(&keys) {
                    let mut stream = [0; WORDS];
                    Cipher::new(key).stream(part, &mut stream);
                    for bit in (0..bits).filter(|bit| x >> bit & 1 == 1) {
                        xor(&mut expected[bit], &stream);
                    }
                    xor(&mut expected[bits], &stream);
                }
                for (sum, expected) in ours.iter().chain(&portable).zip(expected.iter().cycle()) {
                    assert_eq!(
                        sum[..part.words],
                        expected[..part.words],
                        "{bits} {missing} {part:?}"
                    );
                }
            }
        }
    }
}
