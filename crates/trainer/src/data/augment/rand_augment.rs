//! RandAugment (arXiv 1909.13719): a few operations drawn from fourteen, all of one strength.
//!
//! Operations and ranges are torchvision's; pixels that come from outside the image are black.

use super::operation::Operation;
use copriv_ir::Shape;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How many operations, and how strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations an image.
    pub operations: usize,
    /// Strength, 0 to [`Self::LARGEST`].
    pub magnitude: u32,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { operations: 2, magnitude: 9 }
    }
}

impl RandAugment {
    /// The largest magnitude.
    pub const LARGEST: u32 = 30;

    pub(super) fn apply(
        &self,
        mut pixels: Vec<u8>,
        shape: Shape,
        generator: &mut ChaCha8Rng,
    ) -> Vec<u8> {
        for _ in 0..self.operations {
            let kind = generator.random_range(0..Operation::KINDS);
            let is_negative = generator.random::<bool>();
            let strength = f64::from(self.magnitude.min(Self::LARGEST)) / f64::from(Self::LARGEST);
            let operation = Operation::of(kind, strength, is_negative, shape);
            pixels = operation.apply(&pixels, shape);
        }
        pixels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SampleKey;

    #[test]
    fn all_operations_are_drawn_and_magnitude_zero_changes_little() {
        let shape = Shape::new(3, 32, 32);
        let pixels: Vec<u8> = (0..3072).map(|i| (i * 37 % 251) as u8).collect();
        let varied = |magnitude, index| {
            let mut generator = SampleKey { seed: 1, epoch: 1, index }.generator(b"randaug ");
            RandAugment { operations: 1, magnitude }.apply(pixels.clone(), shape, &mut generator)
        };
        let different: std::collections::BTreeSet<_> = (0..400).map(|i| varied(9, i)).collect();
        // Every operation changes these pixels but the identity; nine are signed.
        assert_eq!(different.len(), Operation::KINDS + 9);
        // Black and white, and stretched or equalised contrast, do not depend on the magnitude.
        let gentle: std::collections::BTreeSet<_> = (0..400).map(|i| varied(0, i)).collect();
        assert!(gentle.len() <= 5, "{}", gentle.len());
        assert!(gentle.contains(&pixels));
    }
}
