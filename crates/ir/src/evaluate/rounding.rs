//! Truncations that round at random.

use crate::{Ring, StepId};

/// What decides which neighbour a truncation that rounds at random takes: see [`crate::TruncateMethod`].
#[derive(Clone, Copy, Debug)]
pub enum Rounding<'a> {
    /// Chance: the upper neighbour with the probability of the fraction, as between two parties. The same seed
    /// gives the same result.
    Seeded(u64),
    /// The server's shares of the numbers to be truncated: exactly what two parties with these get.
    ServerShares(&'a [u64]),
}

/// What the server's shares of a step's numbers follow from, where chance decides.
pub(super) fn key_of(seed: u64, step: StepId) -> u64 {
    scrambled(seed ^ scrambled(step.0 as u64))
}

/// A seed of its own for numbers that are only to differ.
pub(super) fn seed_of(seed: u64, numbers: &[u64]) -> u64 {
    numbers.iter().fold(seed, |seed, &number| scrambled(seed ^ number))
}

/// One of the two neighbours of `x / 2^shift`, rounded up where `0 < server_share mod 2^shift <= x mod 2^shift`.
#[inline(always)]
pub(super) fn neighbour(ring: Ring, x: u64, shift: u32, server_share: u64) -> i64 {
    let mask = 1u64.wrapping_shl(shift).wrapping_sub(1);
    let (low, share) = (x & mask, server_share & mask);
    // Neither a branch nor a check: this runs on millions of numbers.
    let up = i64::from((share != 0) & (share <= low));
    ring.to_signed(x).wrapping_shr(shift).wrapping_add(up)
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): well mixed, and not a secret.
#[inline(always)]
pub(super) fn scrambled(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(x: i64, shift: u32) -> f64 {
        let ring = Ring::new(20).expect("in range");
        let count = 1 << 14;
        let key = key_of(7, StepId(3));
        let one = |index| {
            let share = scrambled(key + index);
            neighbour(ring, ring.from_signed(x), shift, share) as f64
        };
        (0..count).map(one).sum::<f64>() / count as f64
    }

    #[test]
    fn nothing_is_lost_on_average() {
        for x in [-1001, -17, -1, 3, 5, 1000] {
            for shift in [1, 2, 5, 8] {
                let exact = x as f64 / f64::from(1 << shift);
                assert!((mean(x, shift) - exact).abs() < 0.02, "{x} / 2^{shift}");
            }
        }
    }

    #[test]
    fn multiples_are_exact_and_others_have_two_neighbours() {
        let ring = Ring::new(6).expect("in range");
        for x in -32..32_i64 {
            for shift in 1..6 {
                let all = (0..64).map(|share| neighbour(ring, ring.from_signed(x), shift, share));
                let up = all.clone().filter(|&y| y == (x >> shift) + 1).count() as i64;
                let down = all.filter(|&y| y == x >> shift).count() as i64;
                let fraction = x - (x >> shift << shift);
                assert_eq!((up, down), (fraction << (6 - shift), 64 - (fraction << (6 - shift))));
            }
        }
    }
}
