//! Does the fused model compute what the checkpoint computes?

use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator};
use copriv_ir::{Checkpoint, FusedModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::fmt;

/// How far the logits of a fused model are from those of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verification {
    /// Images compared.
    pub images: usize,
    /// Images with the same largest logit.
    pub same_class: usize,
    /// Largest difference between two logits.
    pub max_abs: f32,
    /// The same relative to the image's largest logit in magnitude; the largest over the images.
    pub max_rel: f32,
}

impl Verification {
    /// Largest relative difference that rounding in `f32` explains.
    pub const TOLERANCE: f32 = 1e-4;

    /// Whether the two agree within [`Self::TOLERANCE`] on every image.
    #[must_use]
    pub fn is_good(&self) -> bool {
        // Written so that a difference that is no number is not good.
        self.max_rel <= Self::TOLERANCE
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, same_class, max_abs, max_rel } = self;
        write!(
            f,
            "logits differ by at most {max_abs:.1e} ({max_rel:.1e} of the largest); \
             {same_class} of {images} images have the same class"
        )
    }
}

/// Compares the logits of both on `images`: normalised, channel-major, of the network's input shape.
///
/// # Panics
/// Where an image has another size.
#[must_use]
pub fn verify<I: AsRef<[f32]> + Sync>(
    checkpoint: &Checkpoint,
    fused: &FusedModel,
    images: &[I],
) -> Verification {
    let unfused = CheckpointEvaluator::new(checkpoint).batch_logits(images);
    let fused = FusedEvaluator::new(fused).batch_logits(images);
    let none = Verification { images: 0, same_class: 0, max_abs: 0.0, max_rel: 0.0 };
    unfused.iter().zip(&fused).fold(none, |sum, (a, b)| {
        let size = largest(a.iter().map(|x| x.abs()));
        let difference = largest(a.iter().zip(b).map(|(a, b)| (a - b).abs()));
        Verification {
            images: sum.images + 1,
            same_class: sum.same_class + usize::from(class(a) == class(b)),
            max_abs: largest([sum.max_abs, difference]),
            max_rel: largest([sum.max_rel, difference / size.max(f32::MIN_POSITIVE)]),
        }
    })
}

/// Compares both on `count` images of noise: every pixel uniform and independent.
#[must_use]
pub fn verify_random(
    checkpoint: &Checkpoint,
    fused: &FusedModel,
    count: usize,
    seed: u64,
) -> Verification {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let input = checkpoint.network().input();
    let images: Vec<Vec<f32>> = (0..count)
        .map(|_| {
            let mut pixels = vec![0; input.shape.elements()];
            random.fill(pixels.as_mut_slice());
            input.normalise(&pixels)
        })
        .collect();
    verify(checkpoint, fused, &images)
}

/// The largest value, not a number if one of them is not.
fn largest(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}

fn class(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_good() {
        assert!(largest([1.0, f32::NAN, 2.0]).is_nan());
        assert_eq!(largest([1.0, 3.0, 2.0]), 3.0);
        let bad = Verification { images: 1, same_class: 1, max_abs: f32::NAN, max_rel: f32::NAN };
        assert!(!bad.is_good());
    }
}
