//! The ring of integers modulo a power of two, in which shares live.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The ring `Z_{2^bits}`, `1 <= bits <= 64`, read as two's complement where a sign matters.
///
/// Elements are `u64` whose bits above `bits` are zero ("reduced"). Additive shares of `x` are two
/// reduced elements with `x0 + x1 = x (mod 2^bits)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Ring {
    bits: u32,
}

impl Ring {
    /// The ring of `bits` bits.
    ///
    /// # Errors
    /// [`RingError`] unless `1 <= bits <= 64`.
    pub fn new(bits: u32) -> Result<Self, RingError> {
        if (1..=64).contains(&bits) { Ok(Self { bits }) } else { Err(RingError { bits }) }
    }

    /// Width in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// `2^bits - 1`.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// `x mod 2^bits`.
    #[must_use]
    pub const fn reduce(self, x: u64) -> u64 {
        x & self.mask()
    }

    /// The element that stands for the signed integer `x`, modulo `2^bits`.
    #[must_use]
    pub const fn from_signed(self, x: i64) -> u64 {
        self.reduce(x.cast_unsigned())
    }

    /// The signed integer in `[-2^(bits-1), 2^(bits-1))` that the reduced element `x` stands for.
    #[must_use]
    pub const fn to_signed(self, x: u64) -> i64 {
        let unused = 64 - self.bits;
        (x << unused).cast_signed() >> unused
    }

    /// `x + y mod 2^bits`.
    #[must_use]
    pub const fn add(self, x: u64, y: u64) -> u64 {
        self.reduce(x.wrapping_add(y))
    }

    /// `x - y mod 2^bits`.
    #[must_use]
    pub const fn sub(self, x: u64, y: u64) -> u64 {
        self.reduce(x.wrapping_sub(y))
    }

    /// `x * y mod 2^bits`.
    #[must_use]
    pub const fn mul(self, x: u64, y: u64) -> u64 {
        self.reduce(x.wrapping_mul(y))
    }

    /// `-x mod 2^bits`.
    #[must_use]
    pub const fn neg(self, x: u64) -> u64 {
        self.reduce(x.wrapping_neg())
    }

    /// Largest and smallest signed values: `[-2^(bits-1), 2^(bits-1) - 1]`.
    #[must_use]
    pub const fn signed_range(self) -> (i64, i64) {
        let max = (self.mask() >> 1).cast_signed();
        (-max - 1, max)
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Z_2^{}", self.bits)
    }
}

impl TryFrom<u32> for Ring {
    type Error = RingError;

    fn try_from(bits: u32) -> Result<Self, RingError> {
        Self::new(bits)
    }
}

impl From<Ring> for u32 {
    fn from(ring: Ring) -> Self {
        ring.bits
    }
}

/// A ring width outside `1..=64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring has 1 to 64 bits, not {bits}")]
pub struct RingError {
    /// The width that was asked for.
    pub bits: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn widths_outside_1_to_64_are_refused() {
        assert_eq!(Ring::new(0), Err(RingError { bits: 0 }));
        assert_eq!(Ring::new(65), Err(RingError { bits: 65 }));
    }

    proptest! {
        #[test]
        fn signed_values_survive_the_ring(bits in 1u32..=64, x: i64) {
            let ring = Ring::new(bits).expect("in range");
            let (min, max) = ring.signed_range();
            let x = if bits == 64 { x } else { x.rem_euclid(1 << bits) + min };
            prop_assert!((min..=max).contains(&x));
            prop_assert_eq!(ring.to_signed(ring.from_signed(x)), x);
        }

        #[test]
        fn arithmetic_is_that_of_the_integers_modulo_the_ring(bits in 1u32..=64, x: u64, y: u64) {
            let ring = Ring::new(bits).expect("in range");
            let modulus = 1u128 << bits;
            let (a, b) = (u128::from(ring.reduce(x)), u128::from(ring.reduce(y)));
            prop_assert_eq!(u128::from(ring.add(x, y)), (a + b) % modulus);
            prop_assert_eq!(u128::from(ring.sub(x, y)), (a + modulus - b) % modulus);
            prop_assert_eq!(u128::from(ring.mul(x, y)), (a * b) % modulus);
            prop_assert_eq!(ring.add(x, ring.neg(x)), 0);
        }
    }
}
