//! Two convolutions of one input, added, as one convolution.
//!
//! With equal strides the kernels add once the smaller one is laid into the larger one so that both
//! are centred on the same input position: `padding - padding'` taps from its top left corner. A
//! shortcut is the 1x1 identity, hence the centre tap of a 3x3 kernel. The biases add position by position; the
//! smaller kernel's border classes follow from the larger one's.

use crate::convolution::{BiasMap, Convolution, inputs_of};
use copriv_ir::ConvGeometry;

/// `large + small`, or `None` where `small` does not fit inside `large` or the strides differ.
pub(crate) fn merge_branches(large: &Convolution, small: &Convolution) -> Option<Convolution> {
    let (l, s) = (&large.geometry, &small.geometry);
    let offset = l.padding.checked_sub(s.padding)?;
    let fits = (l.in_channels, l.out_channels, l.stride)
        == (s.in_channels, s.out_channels, s.stride)
        && large.input == small.input
        && l.output_shape(large.input) == s.output_shape(small.input)
        && offset + s.kernel <= l.kernel;
    if !fits {
        return None;
    }
    let geometry = ConvGeometry { groups: if l.groups == s.groups { l.groups } else { 1 }, ..*l };
    let mut weight = vec![0.0; geometry.weight_elements()];
    for (out, row) in weight.chunks_exact_mut(geometry.fan_in()).enumerate() {
        add_kernels(large, &geometry, out, 0, row);
        add_kernels(small, &geometry, out, offset, row);
    }
    let bias = BiasMap::from_fn(&geometry, large.input, |position| {
        large.bias.at(position).iter().zip(small.bias.at(position)).map(|(a, b)| a + b).collect()
    });
    Some(Convolution { geometry, input: large.input, weight, bias })
}

/// Adds the kernels of `conv` to those of output channel `out`, `offset` taps from the corner.
fn add_kernels(
    conv: &Convolution,
    merged: &ConvGeometry,
    out: usize,
    offset: usize,
    row: &mut [f64],
) {
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

    #[test]
    fn what_does_not_fit_stays_apart() {
        let conv = |geometry| {
            Convolution::random(geometry, Shape::new(2, 5, 5), &mut ChaCha8Rng::seed_from_u64(1))
        };
        let large = conv(ConvGeometry::same(2, 2, 3, 1));
        let fits = |geometry| merge_branches(&large, &conv(geometry)).is_some();
        assert!(fits(ConvGeometry::same(2, 2, 3, 1)));
        assert!(!fits(ConvGeometry::same(2, 2, 5, 1)));
        assert!(!fits(ConvGeometry::same(2, 2, 1, 2)));
        assert!(!fits(ConvGeometry::same(2, 4, 1, 1)));
        assert!(!fits(ConvGeometry { padding: 0, ..ConvGeometry::same(2, 2, 3, 1) }));
    }
}
