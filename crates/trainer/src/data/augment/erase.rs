//! Random erasing (Zhong et al., arXiv 1708.04896): a rectangle of the normalised image becomes 0, the mean colour.

use copriv_ir::Shape;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// Share of the area, and ratio of the sides, of the rectangle.
const AREA: (f64, f64) = (0.02, 0.33);
const ASPECT: (f64, f64) = (0.3, 3.3);

/// Erases a rectangle of a channel-major image, with this probability.
pub(super) fn erase(image: &mut [f32], shape: Shape, probability: f64, generator: &mut ChaCha8Rng) {
    if !generator.random_bool(probability) {
        return;
    }
    for _ in 0..10 {
        let area = shape.area() as f64 * generator.random_range(AREA.0..=AREA.1);
        let aspect = generator.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
        let height = (area * aspect).sqrt().round() as usize;
        let width = (area / aspect).sqrt().round() as usize;
        if !(1..shape.height).contains(&height) || !(1..shape.width).contains(&width) {
            continue;
        }
        let top = generator.random_range(0..=shape.height - height);
        let left = generator.random_range(0..=shape.width - width);
        for plane in image.chunks_exact_mut(shape.area()) {
            for row in plane.chunks_exact_mut(shape.width).skip(top).take(height) {
                row[left..left + width].fill(0.0);
            }
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SampleKey;

    #[test]
    fn a_rectangle_of_all_channels_is_erased() {
        let shape = Shape::new(3, 16, 12);
        let mut erased = 0;
        for index in 0..100 {
            let mut image = vec![1.0; shape.elements()];
            let mut generator = SampleKey { seed: 2, epoch: 0, index }.generator(b"erasing ");
            erase(&mut image, shape, 0.5, &mut generator);
            let holes: Vec<usize> = (0..shape.area()).filter(|&i| image[i] == 0.0).collect();
            for plane in image.chunks(shape.area()) {
                assert!((0..shape.area()).all(|i| (plane[i] == 0.0) == holes.contains(&i)));
            }
            let (Some(first), Some(last)) = (holes.first(), holes.last()) else { continue };
            let (width, height) = (last % 12 + 1 - first % 12, last / 12 + 1 - first / 12);
            assert_eq!(holes.len(), width * height, "a rectangle");
            let share = holes.len() as f64 / shape.area() as f64;
            assert!((0.01..0.4).contains(&share), "{share}");
            erased += 1;
        }
        assert!((30..70).contains(&erased), "{erased}");
    }
}
