//! Two convolutions of one input, added, as one convolution.
//!
//! With equal strides the kernels add once the smaller one is laid into the larger one so that both
//! are centred on the same input position: `padding - padding'` taps from its top left corner. A
//! shortcut is the 1x1 identity, hence the centre tap of a 3x3 kernel. The biases add position by position; the
//! smaller kernel's border classes follow from the larger one's.

use crate::convolution::{BiasMap, Convolution, inputs_of};
use copriv_ir::ConvGeometry;

/// `one + other`, or `None` where the two are not one convolution ([`ConvGeometry::beside`]).
pub(crate) fn merge_branches(one: &Convolution, other: &Convolution) -> Option<Convolution> {
    let geometry = one.geometry.beside(&other.geometry, one.input)?;
    if one.input != other.input {
        return None;
    }
    let mut weight = vec![0.0; geometry.weight_elements()];
    for (out, row) in weight.chunks_exact_mut(geometry.fan_in()).enumerate() {
        for branch in [one, other] {
            add_kernels(branch, &geometry, out, row);
        }
    }
    let bias = BiasMap::from_fn(&geometry, one.input, |position| {
        one.bias.at(position).iter().zip(other.bias.at(position)).map(|(a, b)| a + b).collect()
    });
    Some(Convolution { geometry, input: one.input, weight, bias })
}

/// Adds the kernels of `conv` to those of output channel `out`, centred.
fn add_kernels(conv: &Convolution, merged: &ConvGeometry, out: usize, row: &mut [f64]) {
    let offset = merged.padding - conv.geometry.padding;
    let start = inputs_of(merged, out).start;
    for (number, input) in conv.inputs_of(out).enumerate() {
        let target = &mut row[(input - start) * merged.kernel * merged.kernel..];
        for (tap, weight) in conv.kernel(out, number).iter().enumerate() {
            let (i, j) = (tap / conv.geometry.kernel, tap % conv.geometry.kernel);
            target[(i + offset) * merged.kernel + j + offset] += weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convolution::testing::{distance, numbers};
    use copriv_ir::Shape;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    proptest! {
        /// A RepVGG block: 3x3, 1x1 and, at stride 1, identity.
        #[test]
        fn branches_add_up_at_every_pixel(
            channels in 1..=4usize, stride in 1..=2usize, grouped: bool,
            height in 1..=7usize, width in 1..=7usize, seed: u64,
        ) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let input = Shape::new(channels, height, width);
            let dense = ConvGeometry::same(channels, channels, 3, stride);
            let groups = if grouped { channels } else { 1 };
            let large = Convolution::random(ConvGeometry { groups, ..dense }, input, &mut random);
            let pointwise = ConvGeometry::same(channels, channels, 1, stride);
            let small = Convolution::random(pointwise, input, &mut random);
            let mut merged = merge_branches(&large, &small).expect("fits");

            let image = numbers(&mut random, input.elements());
            let mut branches = vec![large.apply(&image), small.apply(&image)];
            if stride == 1 {
                merged = merge_branches(&merged, &Convolution::identity(input)).expect("fits");
                branches.push(image.clone());
            }
            let sum = |i: usize| branches.iter().map(|branch| branch[i]).sum::<f64>();
            let expected: Vec<f64> = (0..branches[0].len()).map(sum).collect();
            prop_assert!(distance(&expected, &merged.apply(&image)) < 1e-12);
        }
    }
}
