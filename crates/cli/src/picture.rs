//! Image files to the pixels a network takes in.

use anyhow::{Context as _, Result};
use copriv_ir::InputSpec;
use copriv_trainer::data::read_picture;
use image::RgbImage;
use std::path::Path;

/// The image, scaled and cut as for evaluation ([`copriv_trainer::data::fit`]), normalised, channel-major.
///
/// # Errors
/// Where the file cannot be read or is no PNG or JPEG image.
pub fn read(path: &Path, input: &InputSpec) -> Result<Vec<f32>> {
    let pixels = read_picture(path, input.shape.height)
        .with_context(|| format!("cannot read the image {}", path.display()))?;
    Ok(input.normalise(&pixels))
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
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("text.png");
        std::fs::write(&path, "no image").expect("writes");
        let network = Network::new(Architecture::ResNet18, 1.0, 10, 32).expect("usual");
        let error = format!("{:#}", read(&path, network.input()).expect_err("refused"));
        assert!(error.contains("text.png") && error.contains("no JPEG or PNG"), "{error}");
    }
}
