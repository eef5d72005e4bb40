//! Image files to the pixels that a network takes in.

use super::{DataError, resize};
use image::{ImageReader, RgbImage};
use std::path::Path;

/// Below this many pixels a side an image is not scaled past what is cut out.
const SMALL_BELOW: usize = 96;

/// The image in a JPEG or PNG file as channel-major pixels, `side` a side: see [`fit`].
///
/// # Errors
/// [`DataError::Io`] and [`DataError::Picture`].
pub fn read_picture(path: &Path, side: usize) -> Result<Vec<u8>, DataError> {
    Ok(planes(&fit(&decode(path)?, side)))
}

/// The image in a JPEG or PNG file as it is.
pub(super) fn decode(path: &Path) -> Result<RgbImage, DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let reader = ImageReader::open(path).map_err(io)?.with_guessed_format().map_err(io)?;
    let decoded = reader.decode().map_err(|error| {
        let reason = error.to_string();
        DataError::Picture { path: path.into(), reason }
    })?;
    Ok(decoded.into_rgb8())
}

/// The middle of the image, `side` pixels a side, as ImageNet is customarily evaluated.
///
/// The shorter side is scaled to 256/224 of `side` (to `side` itself for small networks) and the middle
/// is cut out; an image of the right size stays as it is. Scaling, rounding and cutting agree with torchvision's
/// `Resize` and `CenterCrop` on PIL images to the pixel.
#[must_use]
pub fn fit(image: &RgbImage, side: usize) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if (width, height) == (side, side) || width == 0 || height == 0 {
        return image.clone();
    }
    let cover = if side < SMALL_BELOW { side } else { (side * 256).div_ceil(224) };
    let shorter = width.min(height);
    let scaled = |length: usize| length * cover / shorter;
    let image = resize(image, scaled(width), scaled(height));
    let left = middle(image.width() as usize - side) as u32;
    let top = middle(image.height() as usize - side) as u32;
    image::imageops::crop_imm(&image, left, top, side as u32, side as u32).to_image()
}

/// Half of it, halves rounded to even as Python does.
fn middle(excess: usize) -> usize {
    let half = excess / 2;
    if excess.is_multiple_of(2) { half } else { half + half % 2 }
}

/// Channel-major pixels.
pub(super) fn planes(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])).collect()
}

/// The image of channel-major pixels; black where there are too few.
pub(super) fn interleaved(pixels: &[u8], width: usize, height: usize) -> RgbImage {
    let area = width * height;
    let value = |i: usize| pixels.get(i % 3 * area + i / 3).copied().unwrap_or_default();
    let values = (0..3 * area).map(value).collect();
    RgbImage::from_raw(width as u32, height as u32, values).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn other_sizes_are_scaled_and_cut() {
        let image = RgbImage::from_pixel(640, 480, Rgb([10, 20, 30]));
        let fitted = fit(&image, 224);
        assert_eq!(fitted.dimensions(), (224, 224));
        assert!(fitted.pixels().all(|pixel| pixel.0 == [10, 20, 30]));
        assert_eq!(fit(&RgbImage::new(1, 1000), 32).dimensions(), (32, 32));
        let exact = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 7]));
        assert_eq!(fit(&exact, 32), exact);
    }

    #[test]
    fn planes_and_pixels_hold_the_same() {
        let image = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8, y as u8, (x + y) as u8]));
        assert_eq!(interleaved(&planes(&image), 3, 2), image);
    }

    #[test]
    fn the_middle_is_pythons() {
        assert_eq!([0, 1, 2, 3, 5, 117, 119].map(middle), [0, 0, 1, 2, 2, 58, 60]);
    }
}
