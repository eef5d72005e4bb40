//! The bias of a fused convolution, spread over its output.

use crate::{ConvGeometry, Ring, Shape};

/// The bias at every output, NCHW, for an input of shape `input`: `bias` is a map by border class
/// (see [`crate::LinearWeights`]) or one value for each output channel.
///
/// # Panics
/// Where `bias` has neither length.
#[must_use]
pub fn bias_map(ring: Ring, geometry: &ConvGeometry, input: Shape, bias: &[i64]) -> Vec<u64> {
    let output = geometry.output_shape(input);
    let rows = geometry.border_classes(input.height);
    let columns = geometry.border_classes(input.width);
    let channels = output.channels;
    let uniform = bias.len() == channels;
    assert!(
        uniform || bias.len() == rows.count() * columns.count() * channels,
        "bias of {geometry}"
    );
    let mut map = Vec::with_capacity(output.elements());
    for channel in 0..channels {
        for &row in rows.class_of_output() {
            map.extend(columns.class_of_output().iter().map(|&column| {
                let class = if uniform { 0 } else { row * columns.count() + column };
                ring.from_signed(bias[class * channels + channel])
            }));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_takes_the_bias_of_its_class() {
        let ring = Ring::new(8).expect("in range");
        let geometry = ConvGeometry::same(1, 2, 3, 1);
        let bias: Vec<i64> = (0..9).flat_map(|class| [class, -class]).collect();
        let map = bias_map(ring, &geometry, Shape::new(1, 4, 3), &bias);
        assert_eq!(map[..12], [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]);
        assert!(map[..12].iter().zip(&map[12..]).all(|(&a, &b)| ring.neg(a) == b));
    }

    #[test]
    fn a_uniform_bias_is_the_same_everywhere() {
        let ring = Ring::new(8).expect("in range");
        let geometry = ConvGeometry::same(1, 2, 3, 2);
        let map = bias_map(ring, &geometry, Shape::new(1, 3, 3), &[5, -1]);
        assert_eq!(map, [5, 5, 5, 5, 255, 255, 255, 255]);
    }
}
