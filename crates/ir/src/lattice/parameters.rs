//! The parameter sets: module rank, modulus, and how a residue is held in machine words.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Degree `d` of the polynomials of correlations with a hint: their arithmetic is in `Z_q[X] / (X^d + 1)`.
pub const DEGREE: usize = 512;

/// Probability bound: an output is at risk where it is closer than this many standard deviations of its noise to
/// a rounding boundary.
pub const SAFE_DEVIATIONS: f64 = 6.5;

/// A module-LWE parameter set: ternary secrets, noise of standard deviation 3.24, at least 132 bits of security
/// by the estimate in `docs/lattice.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatticeSet {
    /// Rank 5, dimension 2560, `q = 2^64`: one machine word.
    R512x5,
    /// Rank 6, dimension 3072, `q = 2^78`: two words of 39 bits, for rings of more than about 32 bits.
    R512x6,
    /// Rank 1, dimension 4096, `q = 2^104`: for correlations with a reply, whose ciphertexts are two polynomials.
    R4096x1,
}

impl LatticeSet {
    /// All sets.
    pub const ALL: [Self; 3] = [Self::R512x5, Self::R512x6, Self::R4096x1];
    /// Those for correlations with a hint, the cheapest first.
    pub const HINTS: [Self; 2] = [Self::R512x5, Self::R512x6];
    /// That for correlations with a reply.
    pub const REPLY: Self = Self::R4096x1;

    /// Degree of its polynomials.
    #[must_use]
    pub const fn degree(self) -> usize {
        match self {
            Self::R512x5 | Self::R512x6 => DEGREE,
            Self::R4096x1 => 4096,
        }
    }

    /// Number of polynomials in a secret.
    #[must_use]
    pub const fn rank(self) -> usize {
        match self {
            Self::R512x5 => 5,
            Self::R512x6 => 6,
            Self::R4096x1 => 1,
        }
    }

    /// Dimension of the lattice problem: `rank * degree`.
    #[must_use]
    pub const fn dimension(self) -> usize {
        self.rank() * self.degree()
    }

    /// `log2 q`.
    #[must_use]
    pub const fn modulus_bits(self) -> u32 {
        match self {
            Self::R512x5 => 64,
            Self::R512x6 => 78,
            Self::R4096x1 => 104,
        }
    }

    /// Words that hold a residue. Sums and small multiples are formed word by word and joined at the end.
    #[must_use]
    pub const fn words(self) -> usize {
        match self {
            Self::R512x5 => 1,
            Self::R512x6 | Self::R4096x1 => 2,
        }
    }

    /// Bits of a word of a reduced residue.
    #[must_use]
    pub const fn word_bits(self) -> u32 {
        self.modulus_bits() / self.words() as u32
    }

    /// Largest sum of absolute weights of one polynomial of the hint: beyond it sums of products with residues would
    /// overflow.
    #[must_use]
    pub const fn most_weight(self) -> u64 {
        match self {
            Self::R512x5 => 1 << 34,
            Self::R512x6 => 1 << (62 - self.word_bits()),
            Self::R4096x1 => 1 << 40,
        }
    }

    /// The residue in `0..q` whose words, each a signed 64-bit number, are these.
    #[must_use]
    pub const fn join(self, words: [u64; 2]) -> u128 {
        match self {
            Self::R512x5 => words[0] as u128,
            Self::R512x6 | Self::R4096x1 => {
                let low = words[0].cast_signed() as i128;
                let high = words[1].cast_signed() as i128;
                (low + (high << self.word_bits())).cast_unsigned() & self.mask()
            }
        }
    }

    /// The words of a residue in `0..q`.
    #[must_use]
    pub const fn split(self, residue: u128) -> [u64; 2] {
        match self {
            Self::R512x5 => [residue as u64, 0],
            Self::R512x6 | Self::R4096x1 => {
                let mask = (1 << self.word_bits()) - 1;
                [residue as u64 & mask, (residue >> self.word_bits()) as u64]
            }
        }
    }

    /// `q - 1`.
    #[must_use]
    pub const fn mask(self) -> u128 {
        u128::MAX >> (128 - self.modulus_bits())
    }

    /// `residue` rounded to the nearest multiple of `2^bits` modulo `q`, halves to the even multiple: the error of
    /// a uniform residue has mean zero.
    #[must_use]
    pub const fn round(self, residue: u128, bits: u32) -> u128 {
        if bits == 0 {
            return residue;
        }
        let half = (1 << (bits - 1)) - 1 + (residue >> bits & 1);
        (residue + half) >> bits << bits & self.mask()
    }
}

impl fmt::Display for LatticeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of degree {}, q = 2^{}", self.rank(), self.degree(), self.modulus_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_carry_sums_of_residues(a: u128, b: u128, k in -1000i64..1000) {
            for set in LatticeSet::ALL {
                let (a, b) = (a & set.mask(), b & set.mask());
                prop_assert_eq!(set.join(set.split(a)), a);
                let (x, y) = (set.split(a), set.split(b));
                let k = k.cast_unsigned();
                let sum = [0, 1].map(|i| x[i].wrapping_mul(k).wrapping_sub(y[i]));
                let expected = a.wrapping_mul(k as i64 as u128).wrapping_sub(b) & set.mask();
                prop_assert_eq!(set.join(sum), expected);
            }
        }

        #[test]
        fn rounding_moves_by_half_a_step_at_most(a: u128, bits in 0u32..20) {
            for set in LatticeSet::ALL {
                let a = a & set.mask();
                let rounded = set.round(a, bits);
                prop_assert_eq!(rounded & ((1 << bits) - 1), 0);
                let error = rounded.wrapping_sub(a) & set.mask();
                let error = error.min(set.mask() + 1 - error);
                prop_assert!(error <= (1 << bits) / 2);
            }
        }
    }

    #[test]
    fn rounding_has_no_bias() {
        let (set, bits) = (LatticeSet::R512x6, 4);
        let error = |a: u128| set.round(a, bits) as i64 - a as i64;
        assert_eq!((0..64).map(error).sum::<i64>(), 0);
    }
}
