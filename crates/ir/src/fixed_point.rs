//! Fixed-point numbers of few bits: how fine they are, and which values share a format.
//!
//! The definition behind plans of mixed precision. The compiler chooses formats by it, and training that rounds as the
//! compiler will rounds by it. Scales are numbers of fractional bits.

use crate::weight_scales::finest;

/// Images of the training set whose largest values usually count as those of all.
pub const CALIBRATION_IMAGES: usize = 128;

/// The most fractional bits that a value or weight is given.
const MOST_BITS: u32 = 30;

/// Bits of a two's complement number whose absolute value may reach `bound`.
#[must_use]
pub fn signed_bits(bound: f64) -> u32 {
    // The exponent of a number from 1 up, from its IEEE 754 form: a logarithm may round up.
    let exponent = (bound.ceil().max(1.0).to_bits() >> 52) as u32 - 1023;
    exponent + 2
}

/// The scale of values up to `largest`: the most fractional bits, at most 30, at which that has no more than `bits` bits.
#[must_use]
pub fn value_scale(largest: f64, bits: u32) -> u32 {
    let integer = if largest > 0.0 { largest.log2().floor() as i64 + 1 } else { 0 };
    (i64::from(bits) - integer).clamp(0, i64::from(MOST_BITS)) as u32
}

/// The scale of a layer's weights up to `largest`: the most fractional bits, at most 30, at which all have `bits` bits,
/// sign included. `None` where they do not even fit as integers.
#[must_use]
pub fn weight_scale(largest: f64, bits: u32) -> Option<u32> {
    if bits < 2 {
        return None;
    }
    let scale = finest(largest, bits).map_or(Ok(MOST_BITS), u32::try_from);
    scale.ok().map(|scale| scale.min(MOST_BITS))
}

/// Fractional bits that a sum over `area` values adds where it stands for `2^bits` times a mean.
#[must_use]
pub fn mean_bits(area: usize) -> u32 {
    area.next_power_of_two().trailing_zeros()
}

/// What the weights after a pooling sum over `area` values must be multiplied by so that the sum counts as a mean:
/// `2^ceil(log2 area) / area`.
#[must_use]
pub fn mean_correction(area: usize) -> f64 {
    area.next_power_of_two() as f64 / area as f64
}

/// How a value of a network comes about, as far as its format goes. Numbers are those of earlier values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From nothing that decides its format: the image, a mean.
    Own,
    /// From values in its own format: by an activation, a max pool, a sum.
    Alike(Vec<usize>),
    /// By a layer with weights.
    Product {
        /// The value that is multiplied.
        factor: usize,
        /// Fractional bits that a pooling sum before the product adds ([`mean_bits`]); 0 without one.
        pooled: u32,
    },
}

/// Which values of a network share their format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatGroups {
    origins: Vec<Origin>,
    groups: Vec<usize>,
}

impl FormatGroups {
    /// The groups of values of these origins. What is added to each other has one format, and so has what an activation
    /// or max pool takes and gives.
    ///
    /// # Panics
    /// Where an origin names a later value.
    #[must_use]
    pub fn new(origins: Vec<Origin>) -> Self {
        let mut groups: Vec<usize> = (0..origins.len()).collect();
        for (number, origin) in origins.iter().enumerate() {
            let Origin::Alike(inputs) = origin else { continue };
            for &input in inputs {
                let (a, b) = (groups[input], groups[number]);
                groups.iter_mut().filter(|group| **group == a.max(b)).for_each(|g| *g = a.min(b));
            }
        }
        Self { origins, groups }
    }

    /// For each value the first one that it shares its format with.
    #[must_use]
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// The scale of each value, where `largest` holds the largest magnitude of each.
    ///
    /// The largest of a group decides: it takes `bits` of the group's first value. No value is finer than the products that it
    /// is cut from; `weight_scale` of a [`Origin::Product`] is that of its weights, and `None` where those are not known.
    #[must_use]
    pub fn scales(
        &self,
        largest: &[f32],
        bits: impl Fn(usize) -> u32,
        weight_scale: impl Fn(usize) -> Option<u32>,
    ) -> Vec<u32> {
        let mut of_groups = vec![0f64; self.groups.len()];
        for (&group, &largest) in self.groups.iter().zip(largest) {
            of_groups[group] = of_groups[group].max(f64::from(largest));
        }
        let of_groups = of_groups.iter().enumerate();
        let mut scales: Vec<u32> =
            of_groups.map(|(group, &largest)| value_scale(largest, bits(group))).collect();
        while self.limit(&mut scales, &weight_scale) {}
        self.groups.iter().map(|&group| scales[group]).collect()
    }

    /// Makes groups as coarse as the products in them; whether any had to be.
    fn limit(&self, scales: &mut [u32], weight_scale: impl Fn(usize) -> Option<u32>) -> bool {
        let mut changed = false;
        for (number, origin) in self.origins.iter().enumerate() {
            let Origin::Product { factor, pooled } = origin else { continue };
            let Some(weights) = weight_scale(number) else { continue };
            let finest = scales[self.groups[*factor]] + pooled + weights;
            let scale = &mut scales[self.groups[number]];
            changed |= *scale > finest;
            *scale = (*scale).min(finest);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signed_bits_hold_the_bound() {
        for (bound, bits) in [(0.0, 2), (1.0, 2), (1.5, 3), (127.0, 8), (127.1, 9), (128.0, 9)] {
            assert_eq!(signed_bits(bound), bits, "{bound}");
        }
        assert_eq!(signed_bits(f64::MAX), 1025);
    }

    #[test]
    fn values_and_sums_that_stand_for_means() {
        let cases = [(3.9, 8, 6), (4.0, 8, 5), (0.2, 8, 10), (0.0, 8, 8), (1e9, 8, 0)];
        for (largest, bits, scale) in cases {
            assert_eq!(value_scale(largest, bits), scale, "{largest}");
        }
        assert_eq!(value_scale(1e-30, 8), 30);
        assert_eq!((mean_bits(49), mean_correction(49)), (6, 64.0 / 49.0));
        assert_eq!((mean_bits(16), mean_correction(16)), (4, 1.0));
    }

    /// A block: image, convolution, activation, convolution, sum of both, and what the sum's mean is multiplied to.
    fn block() -> FormatGroups {
        FormatGroups::new(vec![
            Origin::Own,
            Origin::Product { factor: 0, pooled: 0 },
            Origin::Alike(vec![1]),
            Origin::Product { factor: 2, pooled: 0 },
            Origin::Alike(vec![3, 2]),
            Origin::Own,
            Origin::Product { factor: 4, pooled: 4 },
        ])
    }

    #[test]
    fn what_is_added_or_activated_shares_the_format_of_the_largest() {
        let formats = block();
        assert_eq!(formats.groups(), [0, 1, 1, 1, 1, 5, 6]);
        let largest = [2.5, 9.0, 1.0, 3.0, 4.0, 1.0, 0.3];
        let scales = formats.scales(&largest, |_| 8, |_| Some(7));
        assert_eq!(scales, [6, 4, 4, 4, 4, 7, 9]);
        let finer = formats.scales(&largest, |group| 8 + group as u32, |_| None);
        assert_eq!(finer, [6, 5, 5, 5, 5, 12, 15]);
    }

    #[test]
    fn nothing_is_finer_than_its_products() {
        let formats = block();
        let largest = [1e4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1];
        // The image has no fractional bits, hence the first convolution those of its weights, and the last ones follow.
        assert_eq!(formats.scales(&largest, |_| 8, |_| Some(2)), [0, 2, 2, 2, 2, 11, 8]);
        assert_eq!(formats.scales(&largest, |_| 8, |_| None), [0, 11, 11, 11, 11, 11, 11]);
    }

    proptest! {
        /// By its definition.
        #[test]
        fn the_weight_scale_is_the_finest_that_fits(
            mantissa in 0.5f64..=1.0, exponent in -40i32..40, bits in 2..=24u32, zero: bool,
        ) {
            let largest = if zero { 0.0 } else { mantissa * f64::from(exponent).exp2() };
            let fits = |scale: &u32| signed_bits((largest * f64::from(*scale).exp2()).round()) <= bits;
            prop_assert_eq!(weight_scale(largest, bits), (0..=MOST_BITS).rev().find(fits));
            prop_assert_eq!(weight_scale(largest, 1), None, "a sign alone");
        }
    }
}
