//! How large the noise of an output is, and how often it may matter.

use super::parameters::{LatticeSet, SAFE_DEVIATIONS};
use crate::Ring;
use serde::{Deserialize, Serialize};

/// Variance of fresh noise: the difference of two counts of 21 coins.
const FRESH: f64 = 10.5;

/// Variance of the sums with ternary polynomials, for each dimension: 2/3 and a little for their fluctuation.
const TERNARY: f64 = 0.7;

/// The public parameters of one linear step's correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatticeLayer {
    /// Low bits that the client leaves out of what it sends for the inputs.
    pub input_rounding: u32,
    /// Low bits left out of the hint.
    pub hint_rounding: u32,
    /// The squares of the weights of each polynomial of the hint sum to at most two to this power.
    pub log_norm: u32,
    /// Tile `t` uses the inference's secret number `first_secret + t`, modulo the number of secrets.
    pub first_secret: u32,
    /// Output channels that share a polynomial of the hint. More than one make the hint smaller and uploads larger: for
    /// clients that run few inferences.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slots: u32,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_one(slots: &u32) -> bool {
    *slots == 1
}

impl LatticeLayer {
    /// Most low bits that are left out of anything: no plan speaks of more.
    pub(crate) const MOST_ROUNDING: u32 = 40;

    /// Standard deviation of an output's noise, in units of 1 modulo `q`.
    #[must_use]
    pub fn deviation(&self, set: LatticeSet, carrier_rounding: u32) -> f64 {
        let norm = power(self.log_norm);
        let others = rounded(carrier_rounding) + rounded(self.hint_rounding);
        (norm * rounded(self.input_rounding) + TERNARY * set.dimension() as f64 * others).sqrt()
    }

    /// The probability that an output is at risk, so that the secret is drawn again.
    #[must_use]
    pub fn risk(&self, set: LatticeSet, carrier_rounding: u32, ring: Ring) -> f64 {
        let gap = power(set.modulus_bits() - ring.bits());
        2.0 * SAFE_DEVIATIONS * self.deviation(set, carrier_rounding) / gap
    }

    /// The rounding of a polynomial that a ternary one is multiplied with, such that its noise is at most this part of what
    /// the inputs' noise makes.
    pub(super) fn rounding_within(&self, set: LatticeSet, part: f64) -> u32 {
        let noise = (power(self.log_norm) * rounded(self.input_rounding)).sqrt();
        ternary_rounding(set, part * noise).min(Self::MOST_ROUNDING)
    }
}

/// The rounding of a polynomial that a ternary one is multiplied with, such that it makes noise of this deviation.
pub(super) fn ternary_rounding(set: LatticeSet, deviation: f64) -> u32 {
    let step = deviation * (12.0 / (TERNARY * set.dimension() as f64)).sqrt();
    step.max(1.0).log2() as u32
}

/// Variance of fresh noise and of rounding to multiples of `2^bits`, halves to even.
fn rounded(bits: u32) -> f64 {
    if bits == 0 { FRESH } else { FRESH + (power(2 * bits) + 2.0) / 12.0 }
}

fn power(exponent: u32) -> f64 {
    f64::from(exponent).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_its_terms() {
        let layer = LatticeLayer {
            input_rounding: 6,
            hint_rounding: 0,
            log_norm: 20,
            first_secret: 0,
            slots: 1,
        };
        let deviation = layer.deviation(LatticeSet::R512x5, 0);
        // 1024 times 18.8 for the inputs, 42 times 3.24 twice for the others.
        assert!((deviation / (1024.0 * 18.76) - 1.0).abs() < 0.01, "{deviation}");
        let risk = layer.risk(LatticeSet::R512x5, 0, Ring::new(30).expect("in range"));
        assert!((risk / (13.0 * deviation / (34f64).exp2()) - 1.0).abs() < 1e-9);
        let rounding = layer.rounding_within(LatticeSet::R512x5, 0.5);
        let with = LatticeLayer { hint_rounding: rounding, ..layer };
        let grown = with.deviation(LatticeSet::R512x5, 0) / deviation;
        assert!((1.0..1.13).contains(&grown), "{rounding} {grown}");
    }
}
