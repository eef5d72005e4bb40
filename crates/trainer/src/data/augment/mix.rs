//! Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): each image of a batch with the one before it.

use super::key::{SampleKey, beta};
use copriv_ir::Shape;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

/// How images and targets of a batch are mixed; where both are on, each has half of the batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixing {
    /// Parameter of the beta distribution that mixup's share comes from; 0 for no mixup.
    pub mixup: f64,
    /// The same for cutmix.
    pub cutmix: f64,
}

impl Mixing {
    /// Mixes images `[batch, channels, height, width]` and their targets `[batch, classes]`.
    ///
    /// `key` names the batch. Targets that sum to 1 do so afterwards.
    pub fn apply(&self, images: &mut [f32], targets: &mut [f32], shape: Shape, key: SampleKey) {
        let size = shape.elements();
        let count = images.len() / size.max(1);
        if count < 2 || (self.mixup == 0.0 && self.cutmix == 0.0) {
            return;
        }
        let mut generator = key.generator(b"mix     ");
        let first_half = generator.random::<bool>();
        let is_cut = self.cutmix > 0.0 && (self.mixup == 0.0 || first_half);
        let share = beta(&mut generator, if is_cut { self.cutmix } else { self.mixup });
        let others = rolled(images, size);
        let pairs = images.chunks_exact_mut(size).zip(others.chunks_exact(size));
        let share = if is_cut {
            let centre =
                (generator.random_range(0..shape.height), generator.random_range(0..shape.width));
            let cut = Cut::new(shape, centre, share);
            pairs.for_each(|(image, other)| cut.paste(image, other, shape));
            1.0 - (cut.rows.len() * cut.columns.len()) as f64 / shape.area() as f64
        } else {
            pairs.for_each(|(image, other)| blend(image, other, share as f32));
            share
        };
        let classes = targets.len() / count;
        let others = rolled(targets, classes);
        blend(targets, &others, share as f32);
    }
}

/// The same records, each moved to the place of the next.
fn rolled(records: &[f32], size: usize) -> Vec<f32> {
    let mut rolled = records.to_vec();
    rolled.rotate_right(size);
    rolled
}

fn blend(values: &mut [f32], others: &[f32], share: f32) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = share * *value + (1.0 - share) * other;
    }
}

/// The rectangle that comes from the other image.
struct Cut {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl Cut {
    /// Of the area `1 - share` about `centre`, cut off at the image's border.
    fn new(shape: Shape, centre: (usize, usize), share: f64) -> Self {
        let half = 0.5 * (1.0 - share).max(0.0).sqrt();
        let range = |centre: usize, side: usize| {
            let reach = (half * side as f64) as usize;
            centre.saturating_sub(reach)..(centre + reach).min(side)
        };
        Self { rows: range(centre.0, shape.height), columns: range(centre.1, shape.width) }
    }

    fn paste(&self, image: &mut [f32], other: &[f32], shape: Shape) {
        let planes = image.chunks_exact_mut(shape.area()).zip(other.chunks_exact(shape.area()));
        for (plane, other) in planes {
            for row in self.rows.clone() {
                let line =
                    row * shape.width + self.columns.start..row * shape.width + self.columns.end;
                plane[line.clone()].copy_from_slice(&other[line]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::new(3, 8, 6);

    /// Image i is all i, of class i.
    fn batch() -> (Vec<f32>, Vec<f32>) {
        let images = (0..4).flat_map(|i| vec![i as f32; SHAPE.elements()]).collect();
        let targets = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
        (images, targets)
    }

    fn mixed(mixing: Mixing, index: u64) -> (Vec<f32>, Vec<f32>) {
        let (mut images, mut targets) = batch();
        mixing.apply(&mut images, &mut targets, SHAPE, SampleKey { seed: 4, epoch: 2, index });
        (images, targets)
    }

    #[test]
    fn targets_are_shares_of_the_pixels_and_sum_to_one() {
        for mixing in [
            Mixing { mixup: 0.4, cutmix: 0.0 },
            Mixing { mixup: 0.0, cutmix: 1.0 },
            Mixing { mixup: 0.2, cutmix: 1.0 },
        ] {
            for index in 0..40 {
                let (images, targets) = mixed(mixing, index);
                for (i, (image, target)) in
                    images.chunks(SHAPE.elements()).zip(targets.chunks(4)).enumerate()
                {
                    assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                    let other = (i + 3) % 4;
                    // Of all pixels, what the mean colour says.
                    let mean = image.iter().sum::<f32>() / SHAPE.elements() as f32;
                    let expected = target[i] * i as f32 + target[other] * other as f32;
                    assert!((mean - expected).abs() < 1e-4, "{mean}, {expected}");
                }
            }
        }
    }

    #[test]
    fn cutmix_takes_pixels_whole_and_mixup_blends() {
        let (cut, _) = mixed(Mixing { mixup: 0.0, cutmix: 1.0 }, 3);
        assert!(cut.iter().all(|pixel| pixel.fract() == 0.0));
        let (blended, _) = mixed(Mixing { mixup: 1.0, cutmix: 0.0 }, 3);
        assert!(blended.iter().any(|pixel| pixel.fract() != 0.0));
        assert_eq!(mixed(Mixing::default(), 3), batch());
        assert_eq!(mixed(Mixing { mixup: 1.0, cutmix: 1.0 }, 3).0.len(), cut.len());
    }
}
