//! Crops: windows of the padded image, and windows of any size scaled to the network's.

use crate::data::resize;
use copriv_ir::Shape;
use image::RgbImage;
use image::imageops::crop_imm;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A window of random area and aspect, scaled to the network's size (Szegedy et al., arXiv 1409.4842).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResizedCrop {
    /// Least share of the image's area.
    pub min_area: f64,
    /// Largest ratio of the window's sides, either way.
    pub max_aspect: f64,
}

impl Default for ResizedCrop {
    fn default() -> Self {
        Self { min_area: 0.08, max_aspect: 4.0 / 3.0 }
    }
}

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl ResizedCrop {
    /// A random window of `image`, `side` pixels a side.
    pub(super) fn apply(
        &self,
        image: &RgbImage,
        side: usize,
        generator: &mut ChaCha8Rng,
    ) -> RgbImage {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return RgbImage::new(side as u32, side as u32);
        }
        let window = self.window(width, height, generator);
        let [left, top, width, height] =
            [window.left, window.top, window.width, window.height].map(|x| x as u32);
        resize(&crop_imm(image, left, top, width, height).to_image(), side, side)
    }

    /// As torchvision chooses it: ten tries, then the middle.
    fn window(&self, width: usize, height: usize, generator: &mut ChaCha8Rng) -> Window {
        let log = self.max_aspect.ln();
        for _ in 0..10 {
            let area = (width * height) as f64 * generator.random_range(self.min_area..=1.0);
            let aspect = generator.random_range(-log..=log).exp();
            let wide = (area * aspect).sqrt().round() as usize;
            let high = (area / aspect).sqrt().round() as usize;
            if (1..=width).contains(&wide) && (1..=height).contains(&high) {
                let left = generator.random_range(0..=width - wide);
                let top = generator.random_range(0..=height - high);
                return Window { left, top, width: wide, height: high };
            }
        }
        let limit = |other: usize| ((other as f64 * self.max_aspect).round() as usize).max(1);
        let (wide, high) = (width.min(limit(height)), height.min(limit(width)));
        Window { left: (width - wide) / 2, top: (height - high) / 2, width: wide, height: high }
    }
}

/// The window of the image, padded by `reach` black pixels on each side, that begins so far down and right;
/// mirrored or not.
pub(super) fn shifted(
    pixels: &[u8],
    shape: Shape,
    reach: usize,
    (down, right): (usize, usize),
    mirror: bool,
) -> Vec<u8> {
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

/// `to[i] = from[i + shift - reach]` where that exists.
fn copy_shifted(from: &[u8], to: &mut [u8], shift: usize, reach: usize) {
    let overlap = from.len().saturating_sub(shift.abs_diff(reach));
    let (source, target) = (shift.saturating_sub(reach), reach.saturating_sub(shift));
    if overlap > 0 {
        to[target..target + overlap].copy_from_slice(&from[source..source + overlap]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SampleKey;

    #[test]
    fn windows_have_the_area_and_aspect_asked_for() {
        let crop = ResizedCrop { min_area: 0.25, max_aspect: 1.5 };
        let mut generator = SampleKey { seed: 1, epoch: 1, index: 1 }.generator(b"test    ");
        let mut areas = vec![];
        for _ in 0..300 {
            let window = crop.window(200, 150, &mut generator);
            assert!(window.left + window.width <= 200 && window.top + window.height <= 150);
            let area = (window.width * window.height) as f64 / 30_000.0;
            let aspect = window.width as f64 / window.height as f64;
            assert!((0.24..=1.01).contains(&area) && (0.65..=1.53).contains(&aspect));
            areas.push(area);
        }
        assert!(areas.iter().any(|&a| a < 0.3) && areas.iter().any(|&a| a > 0.8));
    }

    #[test]
    fn images_too_long_for_any_window_give_their_middle() {
        let mut generator = SampleKey { seed: 1, epoch: 1, index: 1 }.generator(b"test    ");
        let window = ResizedCrop { min_area: 1.0, max_aspect: 2.0 }.window(900, 10, &mut generator);
        assert_eq!(window, Window { left: 440, top: 0, width: 20, height: 10 });
        let image = RgbImage::from_pixel(900, 10, image::Rgb([7, 8, 9]));
        let crop = ResizedCrop::default().apply(&image, 6, &mut generator);
        assert_eq!(crop.dimensions(), (6, 6));
        assert!(crop.pixels().all(|pixel| pixel.0 == [7, 8, 9]));
    }
}
