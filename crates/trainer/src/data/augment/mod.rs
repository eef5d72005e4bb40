//! How training images are varied. Every choice is a function of seed, epoch and position.

mod crop;
mod erase;
mod key;
mod mix;
mod operation;
mod rand_augment;

pub use crop::ResizedCrop;
pub use key::{SampleKey, epoch_order};
pub use mix::Mixing;
pub use rand_augment::RandAugment;

use super::picture::planes;
use super::{DataError, Images};
use copriv_ir::{InputSpec, Shape};
use image::imageops::flip_horizontal_in_place;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

/// How each training image is varied: a crop, a flip, RandAugment, and erasing, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Black pixels added on each side before a random crop to the old size; 0 for no crop.
    pub crop_padding: usize,
    /// Mirror half of the images.
    pub flip: bool,
    /// A window of the whole image, scaled, in place of the padded crop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resized_crop: Option<ResizedCrop>,
    /// Random operations on geometry and colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
    /// Probability of erasing a rectangle.
    pub erasing: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { crop_padding: 4, flip: true, resized_crop: None, rand_augment: None, erasing: 0.0 }
    }
}

impl Augmentation {
    /// Image number `key.index` of `images`, varied and normalised, channel-major.
    ///
    /// # Errors
    /// Where the image is a file that cannot be read.
    pub fn image(
        &self,
        images: &dyn Images,
        input: &InputSpec,
        key: SampleKey,
    ) -> Result<Vec<f32>, DataError> {
        let shape = input.shape;
        let mut pixels = self.cropped(images, shape, key)?;
        if let Some(rand_augment) = &self.rand_augment {
            pixels = rand_augment.apply(pixels, shape, &mut key.generator(b"randaug "));
        }
        let mut values = input.normalise(&pixels);
        if self.erasing > 0.0 {
            erase::erase(&mut values, shape, self.erasing, &mut key.generator(b"erasing "));
        }
        Ok(values)
    }

    fn cropped(
        &self,
        images: &dyn Images,
        shape: Shape,
        key: SampleKey,
    ) -> Result<Vec<u8>, DataError> {
        let index = key.index as usize;
        let Some(crop) = &self.resized_crop else {
            return Ok(self.apply(&images.pixels(index)?, shape, key));
        };
        let mut generator = key.generator(b"augment ");
        let mut window = crop.apply(&images.picture(index)?, shape.height, &mut generator);
        if self.flip && generator.random::<bool>() {
            flip_horizontal_in_place(&mut window);
        }
        Ok(planes(&window))
    }

    /// The padded crop and the flip alone, of channel-major pixels.
    #[must_use]
    pub fn apply(&self, pixels: &[u8], shape: Shape, key: SampleKey) -> Vec<u8> {
        let mut generator = key.generator(b"augment ");
        let reach = self.crop_padding;
        let place = (generator.random_range(0..=2 * reach), generator.random_range(0..=2 * reach));
        let mirror = self.flip && generator.random::<bool>();
        crop::shifted(pixels, shape, reach, place, mirror)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Manifest, Split};
    use std::path::Path;

    const SHAPE: Shape = Shape::new(3, 5, 5);

    fn image() -> Vec<u8> {
        (1..=75).collect()
    }

    fn key(index: u64) -> SampleKey {
        SampleKey { seed: 3, epoch: 1, index }
    }

    fn crop(crop_padding: usize, flip: bool) -> Augmentation {
        Augmentation { crop_padding, flip, ..Augmentation::default() }
    }

    #[test]
    fn the_same_key_gives_the_same_image_and_another_key_another() {
        let varied = |index| crop(2, true).apply(&image(), SHAPE, key(index));
        assert_eq!(varied(7), varied(7));
        let different: std::collections::BTreeSet<_> = (0..64).map(varied).collect();
        assert!(different.len() > 20, "{}", different.len());
    }

    #[test]
    fn every_crop_is_a_window_of_the_padded_image() {
        let padded = |channel: usize, row: isize, column: isize| {
            let inside = (0..5).contains(&row) && (0..5).contains(&column);
            if inside { image()[channel * 25 + row as usize * 5 + column as usize] } else { 0 }
        };
        for index in 0..200 {
            let varied = crop(2, false).apply(&image(), SHAPE, key(index));
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
        let mirrored: Vec<u8> =
            image().chunks(5).flat_map(|line| line.iter().rev()).copied().collect();
        let varied = |index| crop(0, true).apply(&image(), SHAPE, key(index));
        let count = (0..400).filter(|&index| varied(index) == mirrored).count();
        assert!((0..400).all(|index| [&mirrored, &image()].contains(&&varied(index))));
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn crops_larger_than_the_image_are_black() {
        let black = |index| crop(40, false).apply(&image(), SHAPE, key(index));
        assert!((0..100).any(|index| black(index).iter().all(|&pixel| pixel == 0)));
    }

    #[test]
    fn everything_together_depends_on_the_key_alone() {
        let text = r#"
            name = "one"
            title = "One"
            terms = "none"
            layout = "cifar10"
            resolution = 5
            mean = [0.5, 0.5, 0.5]
            std = [0.25, 0.25, 0.25]
            classes = ["it"]
            [[files]]
            split = "train"
            path = "train.bin"
            records = 1
            sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        "#;
        let manifest = Manifest::parse(text, Path::new("one.toml")).expect("sound");
        let mut dataset = Dataset::empty(&manifest, Split::Train);
        (0..8).for_each(|_| dataset.push(&image(), 0));
        let input = InputSpec { shape: SHAPE, mean: dataset.mean(), std: dataset.std() };
        for resized_crop in [None, Some(ResizedCrop::default())] {
            let all = Augmentation {
                resized_crop,
                rand_augment: Some(RandAugment::default()),
                erasing: 0.5,
                ..crop(1, true)
            };
            let varied = |index| all.image(&dataset, &input, key(index)).expect("in memory");
            assert!((0..8).all(|index| varied(index) == varied(index)));
            assert!((1..8).any(|index| varied(index) != varied(0)));
            assert!(varied(3).len() == 75 && varied(3).iter().all(|value| value.abs() <= 2.0));
        }
    }
}
