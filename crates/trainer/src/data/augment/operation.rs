//! The operations that RandAugment chooses from, on channel-major 8-bit pixels.

use copriv_ir::Shape;

/// One operation with its strength.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    Identity,
    /// Each row moved in proportion to its distance from the top.
    ShearX(f64),
    /// Each column moved in proportion to its distance from the left.
    ShearY(f64),
    /// To the right, by pixels.
    TranslateX(f64),
    /// Down, by pixels.
    TranslateY(f64),
    /// About the middle, by degrees.
    Rotate(f64),
    /// Factor on all pixels.
    Brightness(f64),
    /// Factor on the difference to grey.
    Saturation(f64),
    /// Factor on the difference to the image's mean grey.
    Contrast(f64),
    /// Factor on the difference to the smoothed image.
    Sharpness(f64),
    /// Keeps so many bits of each pixel.
    Posterise(u32),
    /// Inverts pixels from this value on.
    Solarise(f64),
    /// Stretches each channel over all values.
    Autocontrast,
    /// Makes each channel's values equally frequent.
    Equalise,
}

impl Operation {
    pub(super) const KINDS: usize = 14;

    /// Operation number `kind` at a strength of 0..1; those with a sign in either direction.
    pub(super) fn of(kind: usize, strength: f64, is_negative: bool, shape: Shape) -> Self {
        let sign = if is_negative { -1.0 } else { 1.0 };
        let reach = |side: usize| sign * 150.0 / 331.0 * side as f64 * strength;
        let factor = 1.0 + sign * 0.9 * strength;
        match kind {
            1 => Self::ShearX(sign * 0.3 * strength),
            2 => Self::ShearY(sign * 0.3 * strength),
            3 => Self::TranslateX(reach(shape.width).trunc()),
            4 => Self::TranslateY(reach(shape.height).trunc()),
            5 => Self::Rotate(sign * 30.0 * strength),
            6 => Self::Brightness(factor),
            7 => Self::Saturation(factor),
            8 => Self::Contrast(factor),
            9 => Self::Sharpness(factor),
            10 => Self::Posterise(8 - (strength * 4.0).round() as u32),
            11 => Self::Solarise(255.0 * (1.0 - strength)),
            12 => Self::Autocontrast,
            13 => Self::Equalise,
            _ => Self::Identity,
        }
    }

    pub(super) fn apply(self, pixels: &[u8], shape: Shape) -> Vec<u8> {
        let each = |f: &dyn Fn(u8) -> u8| pixels.iter().map(|&pixel| f(pixel)).collect();
        match self {
            Self::Identity => pixels.to_vec(),
            Self::ShearX(shear) => warp(pixels, shape, |x, y| (x - shear * y, y)),
            Self::ShearY(shear) => warp(pixels, shape, |x, y| (x, y - shear * x)),
            Self::TranslateX(by) => warp(pixels, shape, |x, y| (x - by, y)),
            Self::TranslateY(by) => warp(pixels, shape, |x, y| (x, y - by)),
            Self::Rotate(degrees) => rotate(pixels, shape, degrees),
            Self::Brightness(factor) => blend(pixels, |_| 0.0, factor),
            Self::Saturation(factor) => {
                let grey = grey(pixels, shape);
                blend(pixels, |i| f64::from(grey[i % shape.area()]), factor)
            }
            Self::Contrast(factor) => {
                let grey = grey(pixels, shape);
                let sum: f64 = grey.iter().map(|&grey| f64::from(grey)).sum();
                let mean = sum / grey.len().max(1) as f64;
                blend(pixels, |_| mean, factor)
            }
            Self::Sharpness(factor) => {
                let smooth = smoothed(pixels, shape);
                blend(pixels, |i| f64::from(smooth[i]), factor)
            }
            Self::Posterise(bits) => {
                let mask = !0u8 << (8 - bits.min(8)).min(7);
                each(&|pixel| pixel & mask)
            }
            Self::Solarise(from) => {
                each(&|pixel| if f64::from(pixel) >= from { 255 - pixel } else { pixel })
            }
            Self::Autocontrast => by_channel(pixels, shape, stretch),
            Self::Equalise => by_channel(pixels, shape, equalise),
        }
    }
}

/// The nearest pixel at the place that each pixel comes from; pixels' centres are at halves.
fn warp(pixels: &[u8], shape: Shape, origin: impl Fn(f64, f64) -> (f64, f64)) -> Vec<u8> {
    let mut warped = vec![0; pixels.len()];
    for row in 0..shape.height {
        for column in 0..shape.width {
            let (x, y) = origin(column as f64 + 0.5, row as f64 + 0.5);
            let inside =
                (0.0..shape.width as f64).contains(&x) && (0.0..shape.height as f64).contains(&y);
            if !inside {
                continue;
            }
            let (from, to) = (y as usize * shape.width + x as usize, row * shape.width + column);
            for plane in (0..pixels.len()).step_by(shape.area().max(1)) {
                warped[plane + to] = pixels[plane + from];
            }
        }
    }
    warped
}

fn rotate(pixels: &[u8], shape: Shape, degrees: f64) -> Vec<u8> {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (middle_x, middle_y) = (shape.width as f64 / 2.0, shape.height as f64 / 2.0);
    warp(pixels, shape, |x, y| {
        let (x, y) = (x - middle_x, y - middle_y);
        (cos * x + sin * y + middle_x, cos * y - sin * x + middle_y)
    })
}

/// `factor * pixel + (1 - factor) * other(index)`, cut off to 8 bits.
fn blend(pixels: &[u8], other: impl Fn(usize) -> f64, factor: f64) -> Vec<u8> {
    let value = |(i, &pixel): (usize, &u8)| {
        let blended = factor * f64::from(pixel) + (1.0 - factor) * other(i);
        blended.clamp(0.0, 255.0) as u8
    };
    pixels.iter().enumerate().map(value).collect()
}

/// Luma of ITU-R 601, one value a pixel.
fn grey(pixels: &[u8], shape: Shape) -> Vec<u8> {
    let area = shape.area();
    let channel = |c: usize, i: usize| f64::from(pixels.get(c * area + i).copied().unwrap_or(0));
    let luma = |i| (0.2989 * channel(0, i) + 0.587 * channel(1, i) + 0.114 * channel(2, i)) as u8;
    (0..area).map(luma).collect()
}

/// Each pixel with a fifth to thirteenth of its neighbours: weights 1 about a 5. The border stays.
fn smoothed(pixels: &[u8], shape: Shape) -> Vec<u8> {
    let mut smooth = pixels.to_vec();
    let width = shape.width;
    for start in (0..pixels.len()).step_by(shape.area().max(1)) {
        for row in 1..shape.height.saturating_sub(1) {
            for column in 1..width.saturating_sub(1) {
                let at = start + row * width + column;
                let line = |at: usize| pixels[at - 1..=at + 1].iter().map(|&p| u32::from(p));
                let lines = line(at - width).chain(line(at)).chain(line(at + width));
                let sum = lines.sum::<u32>() + 4 * u32::from(pixels[at]);
                smooth[at] = (f64::from(sum) / 13.0).round() as u8;
            }
        }
    }
    smooth
}

fn by_channel(pixels: &[u8], shape: Shape, table: fn(&[u8]) -> [u8; 256]) -> Vec<u8> {
    let planes = pixels.chunks(shape.area().max(1));
    planes
        .flat_map(|plane| {
            let table = table(plane);
            plane.iter().map(move |&pixel| table[usize::from(pixel)])
        })
        .collect()
}

/// The smallest value becomes 0, the largest 255.
fn stretch(plane: &[u8]) -> [u8; 256] {
    let least = plane.iter().min().copied().unwrap_or(0);
    let most = plane.iter().max().copied().unwrap_or(0);
    let scale = 255.0 / f64::from(most - least);
    std::array::from_fn(|value| {
        if most == least { value as u8 } else { ((value as f64 - f64::from(least)) * scale) as u8 }
    })
}

/// As Pillow's `ImageOps.equalize`.
fn equalise(plane: &[u8]) -> [u8; 256] {
    let mut counts = [0usize; 256];
    plane.iter().for_each(|&pixel| counts[usize::from(pixel)] += 1);
    let last = counts.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
    let step = (plane.len() - last) / 255;
    let mut before = step / 2;
    std::array::from_fn(|value| {
        if step == 0 {
            return value as u8;
        }
        let level = (before / step).min(255) as u8;
        before += counts[value];
        level
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Shape = Shape::new(1, 1, 4);

    fn square(rows: [[u8; 3]; 3]) -> Vec<u8> {
        rows.concat()
    }

    const SQUARE: Shape = Shape::new(1, 3, 3);

    #[test]
    fn geometry_moves_whole_pixels() {
        let image = square([[1, 2, 3], [4, 5, 6], [7, 8, 9]]);
        let applied = |operation: Operation| operation.apply(&image, SQUARE);
        assert_eq!(applied(Operation::Identity), image);
        assert_eq!(applied(Operation::TranslateX(1.0)), square([[0, 1, 2], [0, 4, 5], [0, 7, 8]]));
        assert_eq!(applied(Operation::TranslateY(-2.0)), square([[7, 8, 9], [0, 0, 0], [0, 0, 0]]));
        // Row y + 1/2 moves by half a pixel times that: 0.25, 0.75, 1.25.
        assert_eq!(applied(Operation::ShearX(0.5)), square([[1, 2, 3], [0, 4, 5], [0, 7, 8]]));
        assert_eq!(applied(Operation::ShearY(0.5)), square([[1, 0, 0], [4, 2, 3], [7, 5, 6]]));
        assert_eq!(applied(Operation::Rotate(90.0)), square([[7, 4, 1], [8, 5, 2], [9, 6, 3]]));
        assert_eq!(applied(Operation::Rotate(-90.0)), square([[3, 6, 9], [2, 5, 8], [1, 4, 7]]));
    }

    #[test]
    fn tones_follow_their_formulae() {
        let applied = |operation: Operation| operation.apply(&[0, 100, 150, 250], ROW);
        assert_eq!(applied(Operation::Brightness(1.5)), [0, 150, 225, 255]);
        assert_eq!(applied(Operation::Brightness(0.5)), [0, 50, 75, 125]);
        assert_eq!(applied(Operation::Posterise(2)), [0, 64, 128, 192]);
        assert_eq!(applied(Operation::Posterise(8)), [0, 100, 150, 250]);
        assert_eq!(applied(Operation::Solarise(150.0)), [0, 100, 105, 5]);
        assert_eq!(applied(Operation::Autocontrast), [0, 102, 153, 255]);
        assert_eq!(Operation::Autocontrast.apply(&[7; 4], ROW), [7; 4]);
        // Too few pixels to spread over 255 levels.
        assert_eq!(applied(Operation::Equalise), [0, 100, 150, 250]);
    }

    #[test]
    fn colours_are_blended_with_grey() {
        let pixel = Shape::new(3, 1, 1);
        // Luma of (200, 100, 50): 59.78 + 58.7 + 5.7 = 124.18.
        let applied = |operation: Operation| operation.apply(&[200, 100, 50], pixel);
        assert_eq!(applied(Operation::Saturation(0.0)), [124; 3]);
        assert_eq!(applied(Operation::Saturation(0.5)), [162, 112, 87]);
        assert_eq!(applied(Operation::Contrast(0.5)), [162, 112, 87]);
        assert_eq!(applied(Operation::Saturation(2.0)), [255, 76, 0]);
    }

    #[test]
    fn sharpness_is_about_the_smoothed_image() {
        let image = square([[13, 13, 13], [13, 0, 13], [13, 13, 13]]);
        let centre = |factor| Operation::Sharpness(factor).apply(&image, SQUARE)[4];
        assert_eq!((centre(0.0), centre(1.0), centre(0.5)), (8, 0, 4));
        let rest = Operation::Sharpness(0.0).apply(&image, SQUARE);
        assert!(rest.iter().enumerate().all(|(i, &pixel)| i == 4 || pixel == 13));
    }

    #[test]
    fn equalising_spreads_values_evenly() {
        // 256 pixels twice of each even value below 256 ... of four values, a quarter of the pixels each.
        let plane: Vec<u8> = (0..1024).map(|i| [10, 20, 30, 40][i / 256]).collect();
        let shape = Shape::new(1, 32, 32);
        let mut levels = Operation::Equalise.apply(&plane, shape);
        levels.dedup();
        // Steps of (1024 - 256) / 255 = 3 pixels a level.
        assert_eq!(levels, [0, 85, 171, 255]);
    }
}
