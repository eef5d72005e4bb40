//! Bilinear scaling of images with antialiasing, to the pixel as Pillow scales 8-bit images.
//!
//! Networks are evaluated on images scaled by Pillow. Its result is that of two passes, along rows and then along
//! columns, each rounded to 8 bits, with weights of 22 fractional bits; so is this one. (Pillow 13 begins with the
//! columns where that is less work, which it is not where both sides are scaled alike.)

use image::RgbImage;

/// Fractional bits of the weights: what is left of 32 beside 8 bits of pixel and 2 of overshoot.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// The image scaled to `width` x `height`, both at least 1.
#[must_use]
pub fn resize(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let columns = weights(old_width, width);
    let narrowed = along_rows(image.as_raw(), old_width, &columns);
    // Columns are rows of the transposed image.
    let rows = weights(old_height, height);
    let turned = transposed(&narrowed, width);
    let scaled = transposed(&along_rows(&turned, old_height, &rows), height);
    RgbImage::from_raw(width as u32, height as u32, scaled).unwrap_or_default()
}

/// The inputs that make up one output, and their weights.
struct Window {
    start: usize,
    weights: Vec<i64>,
}

/// For each of `new` outputs along a side of `old` inputs, a triangle as wide as the scale (but no
/// narrower than two pixels) about its centre.
fn weights(old: usize, new: usize) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    let reach = scale.max(1.0);
    let window = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        let start = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(old);
        let triangle = |input: usize| {
            let distance = (input as f64 - centre + 0.5) * (1.0 / reach);
            (1.0 - distance.abs()).max(0.0)
        };
        let raw: Vec<f64> = (start..end).map(triangle).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            (0.5 + weight * f64::from(1u32 << WEIGHT_BITS)) as i64
        };
        Window { start, weights: raw.iter().map(fixed).collect() }
    };
    (0..new).map(window).collect()
}

/// Scales every row of RGB pixels.
fn along_rows(pixels: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let rows = pixels.chunks_exact(3 * width);
    let mut scaled = Vec::with_capacity(rows.len() * windows.len() * 3);
    for row in rows {
        for Window { start, weights } in windows {
            let mut sums = [1i64 << (WEIGHT_BITS - 1); 3];
            let inputs = row.as_chunks::<3>().0.iter().skip(*start);
            for (pixel, weight) in inputs.zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(*value) * weight;
                }
            }
            scaled.extend(sums.map(|sum| (sum >> WEIGHT_BITS).clamp(0, 255) as u8));
        }
    }
    scaled
}

fn transposed(pixels: &[u8], width: usize) -> Vec<u8> {
    let pixels = pixels.as_chunks::<3>().0;
    (0..width).flat_map(|x| pixels.iter().skip(x).step_by(width).flatten().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 37 + y * 11) as u8, (x * y * 5 + 3) as u8, (x * x + 7 * y) as u8])
        })
    }

    #[test]
    fn a_size_that_stays_changes_nothing() {
        let image = picture(7, 5);
        assert_eq!(resize(&image, 7, 5), image);
    }

    /// What Pillow makes of the same picture with `Image.resize(size, Image.BILINEAR)`: the sum over each
    /// channel, and the first pixels.
    #[test]
    fn scaling_is_pillows() {
        type Case = ((usize, usize), [usize; 3], [u8; 12]);
        let cases: [Case; 3] = [
            ((5, 3), [1925, 1162, 1056], [48, 7, 8, 133, 18, 18, 151, 29, 43, 73, 40, 82]),
            ((11, 8), [11286, 6672, 6232], [7, 3, 0, 49, 3, 2, 91, 3, 6, 133, 3, 13]),
            ((4, 20), [10270, 6134, 5620], [53, 3, 3, 147, 3, 21, 80, 3, 60, 135, 3, 113]),
        ];
        for ((width, height), sums, first) in cases {
            let scaled = resize(&picture(13, 7), width, height);
            assert_eq!(scaled.as_raw()[..12], first, "{width}x{height}");
            let value = |channel: usize| scaled.pixels().map(move |p| usize::from(p.0[channel]));
            assert_eq!(
                [0, 1, 2].map(|channel| value(channel).sum::<usize>()),
                sums,
                "{width}x{height}"
            );
        }
    }

    #[test]
    fn a_plain_image_stays_plain() {
        let image = RgbImage::from_pixel(13, 9, Rgb([255, 0, 77]));
        for (width, height) in [(1, 1), (4, 30), (29, 2)] {
            let scaled = resize(&image, width, height);
            assert_eq!(scaled.dimensions(), (width as u32, height as u32));
            assert!(scaled.pixels().all(|pixel| pixel.0 == [255, 0, 77]));
        }
    }
}
