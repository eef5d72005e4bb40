//! Making the hint: `H_j = W_j a + u_j a0 + e1_j`.

use super::super::DEGREE;
use super::super::public::{self, Matrix};
use super::super::residue;
use super::super::server::mask;
use super::super::step::LatticeStep;
use super::super::stream::{PublicSeed, Purpose, SecretSeed};
use super::{Hint, header};
use crate::lowering::mat_mul;
use crate::packing::Packer;
use crate::{ConvGeometry, MatMulShape, Ring, StepId};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// Weights that a plan's lattice parameters were not chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "step {}: weights of output channel {channel} are larger than the plan's lattice parameters allow",
    step.0
)]
pub struct HintError {
    /// The step.
    pub step: StepId,
    /// The channel.
    pub channel: usize,
}

impl Hint {
    /// The hint of a plan's lattice steps with their weights.
    ///
    /// `secret` hides the weights. It must be fresh for every compilation, for two hints of different weights under
    /// one seed would reveal how they differ; the server keeps it, for its shares depend on it.
    ///
    /// # Errors
    /// [`HintError`] where weights exceed the norm that the parameters were chosen for.
    ///
    /// # Panics
    /// Where there are not as many weights as the geometry says.
    pub fn compute(
        seed: &PublicSeed,
        secret: &SecretSeed,
        steps: &[LatticeStep],
        weights: &[&[i64]],
    ) -> Result<Self, HintError> {
        assert_eq!(steps.len(), weights.len(), "weights for each step");
        let mut bytes = header(seed, steps);
        bytes.reserve_exact(Self::predicted_size(steps) as usize - bytes.len());
        let matrix = steps.first().map(|step| Matrix::new(step.set, seed));
        for (step, weights) in steps.iter().zip(weights) {
            check(step, weights)?;
            let Some(matrix) = &matrix else { break };
            let start = bytes.len();
            let size = step.hint_channel_bytes();
            bytes.resize(start + step.layout.geometry().out_channels * size, 0);
            let products = weigh(step, seed, weights);
            let channels = bytes[start..].par_chunks_mut(size).enumerate();
            channels.for_each(|(channel, bytes)| {
                let place = channel * step.set.dimension();
                let words = [0, 1].map(|word: usize| {
                    let products = products.get(word).map(|products| &products[place..]);
                    products.unwrap_or_default()
                });
                bytes.copy_from_slice(&hide(step, secret, matrix, channel, words));
            });
        }
        Ok(Self::of_bytes(bytes, steps))
    }
}

/// Whether the noise will be as small as the parameters say.
fn check(step: &LatticeStep, weights: &[i64]) -> Result<(), HintError> {
    let geometry = step.layout.geometry();
    assert_eq!(weights.len(), geometry.weight_elements(), "weights of {geometry}");
    for (channel, weights) in weights.chunks(geometry.fan_in()).enumerate() {
        let squares: u128 = weights.iter().map(|w| u128::from(w.unsigned_abs()).pow(2)).sum();
        let sum: u128 = weights.iter().map(|w| u128::from(w.unsigned_abs())).sum();
        if squares > 1 << step.layer.log_norm || sum > u128::from(step.set.most_weight()) {
            return Err(HintError { step: step.id, channel });
        }
    }
    Ok(())
}

/// Adds what hides a channel's products, and packs them.
fn hide(
    step: &LatticeStep,
    secret: &SecretSeed,
    matrix: &Matrix,
    channel: usize,
    products: [&[u64]; 2],
) -> Vec<u8> {
    let (set, rounding) = (step.set, step.layer.hint_rounding);
    let mask = mask(set, secret, step, channel);
    let mut noise = secret.stream(Purpose::HintNoise, step.index(channel));
    let mut packer = Packer::with_capacity(step.hint_channel_bytes());
    let mut sums = [0, 1].map(|_| Zeroizing::new(vec![0; DEGREE]));
    for component in 0..set.rank() {
        for (word, sums) in sums.iter_mut().enumerate().take(set.words()) {
            mask.product(matrix.column(component, word), 0, sums);
            let products = &products[word][component * DEGREE..][..DEGREE];
            sums.iter_mut().zip(products).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
        }
        for words in residue::zip(&sums[0], &sums[1]) {
            let hidden = residue::noisy(set, words, noise.noise());
            residue::push(&mut packer, set.round(hidden, rounding) >> rounding, step.hint_bits());
        }
    }
    packer.finish()
}

/// `W_j a` of all output channels: for each word `out_channels x rank * 512`.
fn weigh(step: &LatticeStep, seed: &PublicSeed, weights: &[i64]) -> Vec<Zeroizing<Vec<u64>>> {
    if step.layout.geometry().groups == 1 {
        weigh_dense(step, seed, weights)
    } else {
        weigh_grouped(step, seed, weights)
    }
}

/// Chunk by chunk as matrix products: the weights times the shifted public polynomials.
fn weigh_dense(step: &LatticeStep, seed: &PublicSeed, weights: &[i64]) -> Vec<Zeroizing<Vec<u64>>> {
    let (set, layout) = (step.set, &step.layout);
    let ConvGeometry { in_channels, out_channels, kernel, .. } = *layout.geometry();
    let (taps, n) = (kernel * kernel, set.dimension());
    let mut sums: Vec<_> =
        (0..set.words()).map(|_| Zeroizing::new(vec![0u64; out_channels * n])).collect();
    for chunk in 0..layout.chunks() {
        let channels = layout.channels(chunk);
        let factors = public::chunk(step, seed, chunk);
        let part = channels.start * taps..channels.end * taps;
        let rows = weights.chunks(in_channels * taps).flat_map(|row| &row[part.clone()]);
        let rows: Vec<u64> = rows.map(|weight| weight.cast_unsigned()).collect();
        let rows = Zeroizing::new(rows);
        let shape = MatMulShape { count: 1, m: out_channels, k: channels.len() * taps, n };
        for (word, sums) in sums.iter_mut().enumerate() {
            let mut shifted = Vec::with_capacity(shape.k * n);
            for (channel, tap) in channels.clone().flat_map(|c| (0..taps).map(move |tap| (c, tap)))
            {
                let shift = layout.weight_at(channel, tap / kernel, tap % kernel);
                let factors = factors.iter().skip(word).step_by(set.words());
                factors.for_each(|factor| shifted.extend_from_slice(factor.shifted(shift)));
            }
            let products = Zeroizing::new(mat_mul(words(), shape, &rows, &shifted));
            let pairs = sums.par_chunks_mut(n).zip(products.par_chunks(n));
            pairs.for_each(|(sums, products)| {
                sums.iter_mut().zip(products).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            });
        }
    }
    sums
}

/// Output channel by output channel, where each meets few chunks.
fn weigh_grouped(
    step: &LatticeStep,
    seed: &PublicSeed,
    weights: &[i64],
) -> Vec<Zeroizing<Vec<u64>>> {
    let (set, layout) = (step.set, &step.layout);
    let ConvGeometry { in_channels, out_channels, kernel, groups, .. } = *layout.geometry();
    let (taps, n) = (kernel * kernel, set.dimension());
    let (inputs, outputs) = (in_channels / groups, out_channels / groups);
    let factors: Vec<_> = (0..layout.chunks())
        .into_par_iter()
        .map(|chunk| public::chunk(step, seed, chunk))
        .collect();
    let sum = |word: usize| {
        let mut sums = Zeroizing::new(vec![0u64; out_channels * n]);
        sums.par_chunks_mut(n).enumerate().for_each(|(channel, sums)| {
            let weights = &weights[channel * inputs * taps..][..inputs * taps];
            for (at, weight) in weights.iter().enumerate() {
                let (input, tap) = (channel / outputs * inputs + at / taps, at % taps);
                let shift = layout.weight_at(input, tap / kernel, tap % kernel);
                let factors = &factors[layout.chunk_of(input)];
                let factors = factors.iter().skip(word).step_by(set.words());
                for (sums, factor) in sums.chunks_mut(DEGREE).zip(factors) {
                    for (sum, x) in sums.iter_mut().zip(factor.shifted(shift)) {
                        *sum = sum.wrapping_add(x.wrapping_mul(weight.cast_unsigned()));
                    }
                }
            }
        });
        sums
    };
    (0..set.words()).map(sum).collect()
}

/// Arithmetic on machine words.
fn words() -> Ring {
    Ring::new(64).expect("at most 64")
}
