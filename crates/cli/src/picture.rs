//! Image files to the pixels a network takes in.

use anyhow::{Context as _, Result};
use copriv_ir::InputSpec;
use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, RgbImage};
use std::path::Path;

/// The image, normalised, channel-major.
///
/// An image that does not have the network's size is scaled so that its shorter side covers 256/224 of it
/// (ImageNet's customary evaluation), or exactly it for small networks, and cut out of the middle.
///
/// # Errors
/// Where the file cannot be read or is no PNG or JPEG image.
pub fn read(path: &Path, input: &InputSpec) -> Result<Vec<f32>> {
    let unreadable = || format!("cannot read the image {}", path.display());
    let image = ImageReader::open(path)
        .with_context(unreadable)?
        .with_guessed_format()
        .with_context(unreadable)?
        .decode()
        .with_context(|| format!("{} is no PNG or JPEG image", path.display()))?
        .into_rgb8();
    let image = fit(&image, input.shape.height as u32);
    Ok(input.normalise(&planes(&image)))
}

/// Writes channel-major pixels of a square RGB image as PNG.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, pixels: &[u8], side: usize) -> Result<()> {
    let area = side * side;
    let image = RgbImage::from_fn(side as u32, side as u32, |x, y| {
        let at = y as usize * side + x as usize;
        image::Rgb([pixels[at], pixels[area + at], pixels[2 * area + at]])
    });
    image.save(path).with_context(|| format!("cannot write the image {}", path.display()))
}

fn fit(image: &RgbImage, side: u32) -> RgbImage {
    if image.dimensions() == (side, side) {
        return image.clone();
    }
    let cover = if side < 96 { side } else { (side * 256).div_ceil(224) };
    let (width, height) = image.dimensions();
    let shorter = width.min(height).max(1);
    let scaled = |length: u32| {
        let length = u64::from(length) * u64::from(cover) / u64::from(shorter);
        length.max(u64::from(cover)) as u32
    };
    let image = resize(image, scaled(width), scaled(height), FilterType::Triangle);
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    crop_imm(&image, left, top, side, side).to_image()
}

fn planes(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::{Architecture, Network};

    #[test]
    fn a_picture_survives_its_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("image.png");
        let pixels: Vec<u8> = (0..3 * 32 * 32).map(|i| (i % 251) as u8).collect();
        write(&path, &pixels, 32).expect("writes");
        let network = Network::new(Architecture::ResNet18, 1.0, 10, 32).expect("usual");
        assert_eq!(
            read(&path, network.input()).expect("reads"),
            network.input().normalise(&pixels)
        );
    }

    #[test]
    fn other_sizes_are_scaled_and_cut() {
        let image = RgbImage::from_pixel(640, 480, image::Rgb([10, 20, 30]));
        let fitted = fit(&image, 224);
        assert_eq!(fitted.dimensions(), (224, 224));
        assert!(fitted.pixels().all(|pixel| pixel.0 == [10, 20, 30]));
        assert_eq!(fit(&RgbImage::new(1, 1000), 32).dimensions(), (32, 32));
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("text.png");
        std::fs::write(&path, "no image").expect("writes");
        let network = Network::new(Architecture::ResNet18, 1.0, 10, 32).expect("usual");
        let error = format!("{:#}", read(&path, network.input()).expect_err("refused"));
        assert!(error.contains("text.png") && error.contains("no PNG or JPEG"), "{error}");
    }
}
