//! Random crops and flips, and the order of images, all functions of seed, epoch and position.
//!
//! No generator is carried along from image to image: an interrupted run goes on with the same data.

use copriv_ir::Shape;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How training images are varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Black pixels added on each side before a random crop to the old size; 0 for no crop.
    pub crop_padding: usize,
    /// Mirror half of the images.
    pub flip: bool,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { crop_padding: 4, flip: true }
    }
}

/// What an image's variation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Epochs completed, over all stages.
    pub epoch: u64,
    /// Position in the data set.
    pub index: u64,
}

impl SampleKey {
    fn generator(self, purpose: &[u8; 8]) -> ChaCha8Rng {
        let mut key = [0; 32];
        let parts = [self.seed.to_le_bytes(), self.epoch.to_le_bytes(), self.index.to_le_bytes()];
        for (slot, part) in key.chunks_exact_mut(8).zip(parts.iter().chain([purpose])) {
            slot.copy_from_slice(part);
        }
        ChaCha8Rng::from_seed(key)
    }
}

impl Augmentation {
    /// The varied image, channel-major like `pixels`.
    #[must_use]
    pub fn apply(&self, pixels: &[u8], shape: Shape, key: SampleKey) -> Vec<u8> {
        let mut generator = key.generator(b"augment ");
        let reach = self.crop_padding;
        let (down, right) =
            (generator.random_range(0..=2 * reach), generator.random_range(0..=2 * reach));
        let mirror = self.flip && generator.random::<bool>();
        let mut varied = vec![0; pixels.len()];
        let planes = pixels.chunks_exact(shape.area()).zip(varied.chunks_exact_mut(shape.area()));
        for (from, to) in planes {
            for (row, line) in to.chunks_exact_mut(shape.width).enumerate() {
                let source = (row + down).checked_sub(reach).filter(|&row| row < shape.height);
                let Some(source) = source else { continue };
                let from = &from[source * shape.width..(source + 1) * shape.width];
                copy_shifted(from, line, right, reach);
                if mirror {
                    line.reverse();
                }
            }
        }
        varied
    }
}

/// `to[i] = from[i + shift - reach]` where that exists.
fn copy_shifted(from: &[u8], to: &mut [u8], shift: usize, reach: usize) {
    let overlap = from.len().saturating_sub(shift.abs_diff(reach));
    let (source, target) = (shift.saturating_sub(reach), reach.saturating_sub(shift));
    if overlap > 0 {
        to[target..target + overlap].copy_from_slice(&from[source..source + overlap]);
    }
}

/// The order in which an epoch visits `count` images.
#[must_use]
pub fn epoch_order(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut SampleKey { seed, epoch, index: 0 }.generator(b"order   "));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::new(3, 5, 5);

    fn image() -> Vec<u8> {
        (1..=75).collect()
    }

    fn key(index: u64) -> SampleKey {
        SampleKey { seed: 3, epoch: 1, index }
    }

    #[test]
    fn the_same_key_gives_the_same_image_and_another_key_another() {
        let augmentation = Augmentation { crop_padding: 2, flip: true };
        let varied = |index| augmentation.apply(&image(), SHAPE, key(index));
        assert_eq!(varied(7), varied(7));
        let different: std::collections::BTreeSet<_> = (0..64).map(varied).collect();
        assert!(different.len() > 20, "{}", different.len());
    }

    #[test]
    fn every_crop_is_a_window_of_the_padded_image() {
        let augmentation = Augmentation { crop_padding: 2, flip: false };
        let padded = |channel: usize, row: isize, column: isize| {
            let inside = (0..5).contains(&row) && (0..5).contains(&column);
            if inside { image()[channel * 25 + row as usize * 5 + column as usize] } else { 0 }
        };
        for index in 0..200 {
            let varied = augmentation.apply(&image(), SHAPE, key(index));
            let fits = |down: isize, right: isize| {
                (0..75).all(|i| {
                    let (channel, row, column) = (i / 25, (i % 25 / 5) as isize, (i % 5) as isize);
                    varied[i] == padded(channel, row + down, column + right)
                })
            };
            assert!((-2..=2).any(|down| (-2..=2).any(|right| fits(down, right))), "{index}");
        }
    }

    #[test]
    fn without_padding_half_of_the_images_are_mirrored() {
        let augmentation = Augmentation { crop_padding: 0, flip: true };
        let mirrored: Vec<u8> =
            image().chunks(5).flat_map(|line| line.iter().rev()).copied().collect();
        let varied = |index| augmentation.apply(&image(), SHAPE, key(index));
        let count = (0..400).filter(|&index| varied(index) == mirrored).count();
        assert!((0..400).all(|index| [&mirrored, &image()].contains(&&varied(index))));
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn crops_larger_than_the_image_are_black() {
        let augmentation = Augmentation { crop_padding: 40, flip: false };
        let black = |index| augmentation.apply(&image(), SHAPE, key(index)).iter().all(|&p| p == 0);
        assert!((0..100).any(black));
    }

    #[test]
    fn an_order_is_a_permutation_that_depends_on_the_epoch() {
        let mut order = epoch_order(1, 2, 50);
        assert_eq!(order, epoch_order(1, 2, 50));
        assert_ne!(order, epoch_order(1, 3, 50));
        assert_ne!(order, epoch_order(2, 2, 50));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }
}
