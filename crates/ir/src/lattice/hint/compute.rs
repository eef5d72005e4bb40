//! Making the hint: `H_j = W_j a + u_j a0 + e1_j`.

use super::super::factors::transforms;
use super::super::ntt::{Sum, Transform};
use super::super::public::{self, Matrix};
use super::super::residue;
use super::super::server::mask;
use super::super::step::{Kernel, LatticeStep};
use super::super::stream::{PublicSeed, Purpose, SecretSeed};
use super::{Hint, header};
use crate::StepId;
use crate::packing::Packer;
use rayon::prelude::*;

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
            let size = step.hint_polynomial_bytes();
            bytes.resize(start + step.hint_bytes() as usize, 0);
            let public: Vec<_> = (0..step.layout.chunks())
                .into_par_iter()
                .map(|chunk| transforms(step.set, &public::chunk(step, seed, chunk)))
                .collect();
            let polynomials = bytes[start..].par_chunks_mut(size).enumerate();
            polynomials.for_each(|(number, bytes)| {
                let kernels = step.kernels(weights, number);
                bytes.copy_from_slice(&hide(step, secret, (matrix, &public), number, &kernels));
            });
        }
        Ok(Self::of_bytes(bytes, steps))
    }
}

/// Whether the noise will be as small as the parameters say.
pub(in super::super) fn check(step: &LatticeStep, weights: &[i64]) -> Result<(), HintError> {
    let (geometry, slots) = (&step.geometry, step.layout.slots());
    assert_eq!(weights.len(), geometry.weight_elements(), "weights of {geometry}");
    for (polynomial, weights) in weights.chunks(slots * geometry.fan_in()).enumerate() {
        let squares: u128 = weights.iter().map(|w| u128::from(w.unsigned_abs()).pow(2)).sum();
        let sum: u128 = weights.iter().map(|w| u128::from(w.unsigned_abs())).sum();
        if squares > 1 << step.layer.log_norm || sum > u128::from(step.set.most_weight()) {
            return Err(HintError { step: step.id, channel: polynomial * slots });
        }
    }
    Ok(())
}

/// `W a + u a0 + e1` of one polynomial, packed.
fn hide(
    step: &LatticeStep,
    secret: &SecretSeed,
    (matrix, public): (&Matrix, &[Vec<Transform>]),
    number: usize,
    kernels: &[Kernel],
) -> Vec<u8> {
    let (set, rounding) = (step.set, step.layer.hint_rounding);
    let mask = mask(set, secret, step, number);
    let mut sums: Vec<_> = (0..set.rank()).map(|_| Sum::new(set)).collect();
    for (component, sum) in sums.iter_mut().enumerate() {
        matrix.column(component).zip(mask.values(set)).for_each(|(a, u)| sum.add(a, u));
    }
    for (kernel, public) in kernels.iter().zip(public).filter(|(kernel, _)| !kernel.is_empty()) {
        let kernel = Transform::of_small(set, kernel.iter().copied());
        sums.iter_mut().zip(public).for_each(|(sum, a)| sum.add(a, &kernel));
    }
    let mut noise = secret.stream(Purpose::HintNoise, step.index(number));
    let mut packer = Packer::with_capacity(step.hint_polynomial_bytes());
    for sum in sums {
        for product in sum.finish().coefficients(0, set.degree()) {
            let hidden = residue::noisy(set, product, noise.noise());
            residue::push(&mut packer, set.round(hidden, rounding) >> rounding, step.hint_bits());
        }
    }
    packer.finish()
}
