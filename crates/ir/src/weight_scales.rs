//! Weights as integers times powers of two: which powers, and what rounding loses.

/// Bits after the point of rounded weights: every weight becomes the nearest multiple of
/// `2^-fractional_bits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightScales {
    /// One for each output channel.
    fractional_bits: Vec<i32>,
}

/// Exponents beyond which a scale means nothing in single precision.
const LARGEST_EXPONENT: i32 = 120;

impl WeightScales {
    /// One scale for a whole layer: the finest at which its weights, `[channels, ...]`, fit two's complement
    /// numbers of `bits` bits.
    ///
    /// # Panics
    /// Where `bits` is not between 2 and 32.
    #[must_use]
    pub fn per_layer(weight: &[f32], channels: usize, bits: u32) -> Self {
        Self { fractional_bits: vec![of_weights(weight, bits); channels] }
    }

    /// A scale for each of `channels` output channels.
    ///
    /// # Panics
    /// Where `bits` is not between 2 and 32.
    #[must_use]
    pub fn per_channel(weight: &[f32], channels: usize, bits: u32) -> Self {
        let rows = weight.chunks((weight.len() / channels.max(1)).max(1));
        Self { fractional_bits: rows.take(channels).map(|row| of_weights(row, bits)).collect() }
    }

    /// Bits after the point, by output channel.
    #[must_use]
    pub fn fractional_bits(&self) -> &[i32] {
        &self.fractional_bits
    }

    /// How much of weights `[channels, ...]` survives rounding at these scales.
    #[must_use]
    pub fn noise(&self, weight: &[f32]) -> WeightNoise {
        let rows = weight.chunks((weight.len() / self.fractional_bits.len().max(1)).max(1));
        let channels: Vec<(f64, f64)> = rows
            .zip(&self.fractional_bits)
            .map(|(row, &bits)| {
                let unit = f64::from(bits).exp2();
                row.iter().map(|&weight| f64::from(weight)).fold((0.0, 0.0), |(s, n), weight| {
                    let error = weight - (weight * unit).round() / unit;
                    (s + weight * weight, n + error * error)
                })
            })
            .collect();
        let sum = |pick: fn(&(f64, f64)) -> f64| channels.iter().map(pick).sum::<f64>();
        let live = channels.iter().filter(|(signal, _)| *signal > 0.0);
        let each: Vec<f64> = live.map(|&(signal, noise)| decibels(signal, noise)).collect();
        WeightNoise {
            layer: decibels(sum(|c| c.0), sum(|c| c.1)),
            channels: each.iter().sum::<f64>() / each.len().max(1) as f64,
            worst: each.iter().copied().fold(f64::INFINITY, f64::min),
        }
    }
}

/// Signal-to-noise ratios of rounded weights in decibels: `10 log10(sum w^2 / sum (w - rounded w)^2)`,
/// no more than [`WeightNoise::CEILING`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightNoise {
    /// Of all weights together: the large channels decide it.
    pub layer: f64,
    /// The mean over the output channels, all-zero ones left out: the small channels count as much.
    pub channels: f64,
    /// Of the worst output channel that is not all zero.
    pub worst: f64,
}

impl WeightNoise {
    /// What rounding without any error is counted as.
    pub const CEILING: f64 = 150.0;
}

fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { WeightNoise::CEILING } else { 10.0 * (signal / noise).log10() }
        .min(WeightNoise::CEILING)
}

/// The most bits after the point at which all of `weights` fit `bits` bits; 0 where they are all zero.
fn of_weights(weights: &[f32], bits: u32) -> i32 {
    assert!((2..=32).contains(&bits), "weights of {bits} bits");
    let largest = weights.iter().fold(0f32, |max, weight| max.max(weight.abs()));
    let finest = finest(f64::from(largest), bits).unwrap_or(0);
    finest.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
}

/// The most bits after the point at which `largest`, rounded to the nearest, fits a two's complement number of `bits` bits;
/// `None` where that is zero.
pub(crate) fn finest(largest: f64, bits: u32) -> Option<i32> {
    let most = (f64::from(bits) - 1.0).exp2() - 1.0;
    if largest == 0.0 {
        return None;
    }
    let fits = |exponent: i32| (largest * f64::from(exponent).exp2()).round() <= most;
    let exponent = (most / largest).log2().floor() as i32;
    // A value that rounds down to the largest number still fits.
    Some(if fits(exponent + 1) { exponent + 1 } else { exponent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scales_are_the_finest_that_fit() {
        let scale =
            |weights: &[f32], bits| WeightScales::per_layer(weights, 1, bits).fractional_bits()[0];
        assert_eq!(scale(&[1.0, -0.3], 8), 6, "64 fits, 128 does not");
        assert_eq!(scale(&[127.0], 8), 0);
        assert_eq!(scale(&[127.4], 8), 0);
        assert_eq!(scale(&[127.6], 8), -1);
        assert_eq!(scale(&[0.0], 8), 0);
        let by_channel = WeightScales::per_channel(&[1.0, 0.5, 0.1, 0.01], 2, 8);
        assert_eq!(by_channel.fractional_bits(), [6, 10]);
    }

    #[test]
    fn noise_is_a_ratio_of_energies() {
        let noise = WeightScales { fractional_bits: vec![0] }.noise(&[10.0, 0.1]);
        assert!((noise.layer - 10.0 * (100.01f64 / 0.01).log10()).abs() < 1e-4);
        // The second channel is lost: nothing of it is left, its noise is as large as itself.
        let noise = WeightScales { fractional_bits: vec![0, 0] }.noise(&[10.0, 0.1]);
        assert_eq!((noise.channels, noise.worst), (WeightNoise::CEILING / 2.0, 0.0));
    }

    proptest! {
        /// A bit more halves the error: 6 dB.
        #[test]
        fn a_channel_of_its_own_scale_never_does_worse(
            weight in proptest::collection::vec(-1.0f32..1.0, 64), bits in 4..=12u32,
        ) {
            let layer = WeightScales::per_layer(&weight, 4, bits);
            let channel = WeightScales::per_channel(&weight, 4, bits);
            let pairs = layer.fractional_bits().iter().zip(channel.fractional_bits());
            prop_assert!(pairs.clone().all(|(layer, channel)| layer <= channel));
            let largest = weight.iter().fold(0f32, |max, x| max.max(x.abs()));
            for (&bits_after, row) in channel.fractional_bits().iter().zip(weight.chunks(16)) {
                let unit = f64::from(bits_after).exp2();
                let most = f64::from(bits - 1).exp2() - 1.0;
                prop_assert!(row.iter().all(|x| (f64::from(x.abs()) * unit).round() <= most));
            }
            prop_assert!(largest > 0.0);
        }
    }
}
