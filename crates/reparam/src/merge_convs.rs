//! A convolution after a convolution, as one convolution.
//!
//! Let the first have kernel `k1`, stride `s1`, padding `p1`, the second `k2`, `s2`, `p2`. Inside the map
//! both together are the convolution with
//!
//! ```text
//! kernel k1 + (k2 - 1) s1      stride s1 s2      padding p1 + p2 s1
//! W[o, c, i s1 + a, j s1 + b] = sum over m, (i, j), (a, b) of W2[o, m, i, j] W1[m, c, a, b]
//! ```
//!
//! For an inverted residual block this is `W = (W3 s3) diag(dw s2) (W1 s1)`, 3x3.
//!
//! At the border the second convolution sees zeros beside the first one's output, where the merged one
//! sees the first kernel applied to a map continued with zeros. [`ConvGeometry::then`] says when the two
//! agree. Where they do not, as with 3x3 after 3x3, both with padding, no bias map mends it: the two stay
//! apart.
//!
//! The first one's bias is not continued: it passes through those taps of the second kernel that fall
//! inside. Which these are follows from the merged kernel's taps that fall inside, so the merged bias
//! is a function of the merged border class.

use crate::convolution::{BiasMap, Convolution, inputs_of};
use crate::product::{View, ViewMut, add_product};
use copriv_ir::ConvGeometry;
use rayon::prelude::*;

/// `second` after `first`, or `None` where the two are not one convolution.
pub(crate) fn merge_convs(first: &Convolution, second: &Convolution) -> Option<Convolution> {
    let geometry = first.geometry.then(&second.geometry, first.input)?;
    let weight = if first.geometry.groups == 1 && second.geometry.groups == 1 {
        merge_dense(first, second, &geometry)
    } else {
        let mut weight = vec![0.0; geometry.weight_elements()];
        let blocks = weight.par_chunks_mut(OUT_CHANNELS_AT_ONCE * geometry.fan_in());
        blocks.enumerate().for_each(|(number, block)| {
            merge_kernels(first, second, &geometry, number * OUT_CHANNELS_AT_ONCE, block);
        });
        weight
    };
    let bias = BiasMap::from_fn(&geometry, first.input, |position| {
        let through = bias_through(first, second, position);
        through.iter().zip(second.bias.at(position)).map(|(b1, b2)| b1 + b2).collect()
    });
    Some(Convolution { geometry, input: first.input, weight, bias })
}

/// One matrix product for each pair of taps; of a 1x1 convolution after any other, one for all of them.
fn merge_dense(first: &Convolution, second: &Convolution, merged: &ConvGeometry) -> Vec<f64> {
    let ConvGeometry { kernel: k1, stride: s1, in_channels: inputs, .. } = first.geometry;
    let ConvGeometry { kernel: k2, in_channels: middles, out_channels: outputs, .. } =
        second.geometry;
    let mut weight = vec![0.0; merged.weight_elements()];
    if k2 == 1 {
        let (a, b) =
            (View::rows(&second.weight, middles), View::rows(&first.weight, inputs * k1 * k1));
        let columns = inputs * k1 * k1;
        add_product([outputs, middles, columns], a, b, ViewMut::rows(&mut weight, columns));
        return weight;
    }
    let (taps1, taps2, taps) = (k1 * k1, k2 * k2, merged.kernel * merged.kernel);
    for (tap2, tap1) in (0..taps2).flat_map(|tap2| (0..taps1).map(move |tap1| (tap2, tap1))) {
        let (i, j) = (tap2 / k2 * s1 + tap1 / k1, tap2 % k2 * s1 + tap1 % k1);
        let a = View { values: &second.weight[tap2..], row: middles * taps2, column: taps2 };
        let b = View { values: &first.weight[tap1..], row: inputs * taps1, column: taps1 };
        let values = &mut weight[i * merged.kernel + j..];
        let c = ViewMut { values, row: inputs * taps, column: taps };
        add_product([outputs, middles, inputs], a, b, c);
    }
    weight
}

/// While a kernel of the first convolution is in the cache, it is used for this many output channels.
const OUT_CHANNELS_AT_ONCE: usize = 8;

/// Adds up the merged kernels of the output channels from `first_out` on: `block` has for each of them
/// `[in_channels / groups, kernel, kernel]`.
fn merge_kernels(
    first: &Convolution,
    second: &Convolution,
    merged: &ConvGeometry,
    first_out: usize,
    block: &mut [f64],
) {
    let rows = block.len() / merged.fan_in();
    let middles = second.inputs_of(first_out).start..second.inputs_of(first_out + rows - 1).end;
    for middle in middles {
        for (out, row) in (first_out..).zip(block.chunks_exact_mut(merged.fan_in())) {
            let from = second.inputs_of(out);
            if from.contains(&middle) {
                let kernel = second.kernel(out, middle - from.start);
                // The first input channel of `row` is the first that `out` reads.
                let skipped = first.inputs_of(middle).start - inputs_of(merged, out).start;
                let row = &mut row[skipped * merged.kernel * merged.kernel..];
                add_merged(first, middle, (second.geometry.kernel, kernel), merged.kernel, row);
            }
        }
    }
}

/// Adds the first convolution's kernels to channel `middle`, each convolved with the second's kernel of
/// side `k2` from there, to `row`, which holds merged kernels of side `side`.
fn add_merged(
    first: &Convolution,
    middle: usize,
    (k2, kernel2): (usize, &[f64]),
    side: usize,
    row: &mut [f64],
) {
    let ConvGeometry { kernel: k1, stride: s1, .. } = first.geometry;
    let fan_in = first.geometry.fan_in();
    let kernels1 = &first.weight[middle * fan_in..][..fan_in];
    if let [w2] = kernel2 {
        row.iter_mut().zip(kernels1).for_each(|(sum, w1)| *sum += w2 * w1);
        return;
    }
    for (target, kernel1) in row.chunks_exact_mut(side * side).zip(kernels1.chunks_exact(k1 * k1)) {
        for (tap2, w2) in kernel2.iter().enumerate() {
            for (tap1, w1) in kernel1.iter().enumerate() {
                let (i, j) = (tap2 / k2 * s1 + tap1 / k1, tap2 % k2 * s1 + tap1 % k1);
                target[i * side + j] += w2 * w1;
            }
        }
    }
}

/// The first one's bias after the second kernel, at a position of the second one's output.
fn bias_through(first: &Convolution, second: &Convolution, position: [usize; 2]) -> Vec<f64> {
    let ConvGeometry { kernel, stride, padding, out_channels, .. } = second.geometry;
    let mut sums = vec![0.0; out_channels];
    for tap in 0..kernel * kernel {
        let padded = [position[0] * stride + tap / kernel, position[1] * stride + tap % kernel];
        let inside = (padding..padding + second.input.height).contains(&padded[0])
            && (padding..padding + second.input.width).contains(&padded[1]);
        if !inside {
            continue;
        }
        let bias = first.bias.at(padded.map(|coordinate| coordinate - padding));
        for (out, sum) in sums.iter_mut().enumerate() {
            let inputs = second.inputs_of(out).enumerate();
            *sum += inputs
                .map(|(number, middle)| second.kernel(out, number)[tap] * bias[middle])
                .sum::<f64>();
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convolution::testing::{distance, numbers};
    use copriv_ir::Shape;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A geometry for `inputs` times 2 channels in one or two groups.
    fn geometry(inputs: usize) -> impl Strategy<Value = ConvGeometry> {
        (1..=2usize, 1..=4usize, 1..=4usize, 1..=3usize).prop_flat_map(
            move |(groups, outputs, kernel, stride)| {
                (0..kernel).prop_map(move |padding| ConvGeometry {
                    in_channels: 2 * inputs,
                    out_channels: 2 * outputs,
                    kernel,
                    stride,
                    padding,
                    groups,
                })
            },
        )
    }

    fn pairs() -> impl Strategy<Value = (ConvGeometry, ConvGeometry)> {
        (1..=3usize)
            .prop_flat_map(geometry)
            .prop_flat_map(|first| (Just(first), geometry(first.out_channels / 2)))
    }

    /// Two random convolutions, their merged one if there is one, and how far apart the two are.
    fn merged_distance(
        (first, second): (ConvGeometry, ConvGeometry),
        input: Shape,
        seed: u64,
    ) -> Option<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let first = Convolution::random(first, input, &mut random);
        let second = Convolution::random(second, first.output(), &mut random);
        let image = numbers(&mut random, input.elements());
        let merged = merge_convs(&first, &second)?;
        Some(distance(&second.apply(&first.apply(&image)), &merged.apply(&image)))
    }

    fn has_output((first, second): (ConvGeometry, ConvGeometry), input: Shape) -> bool {
        let middle = first.output_shape(input);
        middle.elements() > 0 && second.output_shape(middle).elements() > 0
    }

    proptest! {
        #[test]
        fn what_merges_is_exact_at_every_pixel(
            pair in pairs(), height in 1..=12usize, width in 1..=12usize, seed: u64,
        ) {
            let input = Shape::new(pair.0.in_channels, height, width);
            prop_assume!(has_output(pair, input));
            if let Some(distance) = merged_distance(pair, input, seed) {
                prop_assert!(distance < 1e-12, "{distance} for {pair:?}");
            }
        }
    }

    #[test]
    fn the_numbers_of_a_small_case() {
        // 2 x + 1, then the sum of three neighbours plus 10: borders lack one of three ones.
        let scale = Convolution::new(
            ConvGeometry::same(1, 1, 1, 1),
            Shape::new(1, 1, 3),
            vec![2.0],
            &[1.0],
        );
        let row = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        let sum = Convolution::new(
            ConvGeometry::same(1, 1, 3, 1),
            Shape::new(1, 1, 3),
            row.to_vec(),
            &[10.0],
        );
        let merged = merge_convs(&scale, &sum).expect("one tap before");
        assert_eq!(merged.weight, row.map(|w| 2.0 * w));
        assert_eq!(merged.apply(&[0.0; 3]), [12.0, 13.0, 12.0]);
        assert_eq!(merged.apply(&[1.0, 10.0, 100.0]), [34.0, 235.0, 232.0]);
    }

    /// Two sums of 3x3 neighbours. As one 5x5 kernel they are right inside and wrong at the border.
    #[test]
    fn padded_kernels_in_a_row_stay_apart() {
        let geometry = ConvGeometry::same(1, 1, 3, 1);
        let input = Shape::new(1, 5, 5);
        let sum = Convolution::new(geometry, input, vec![1.0; 9], &[0.0]);
        assert!(merge_convs(&sum, &sum).is_none());

        let row = [1.0, 2.0, 3.0, 2.0, 1.0];
        let weight = row.iter().flat_map(|a| row.map(|b| a * b)).collect();
        let both = Convolution::new(ConvGeometry::same(1, 1, 5, 1), input, weight, &[0.0]);
        let image = [1.0; 25];
        let (expected, found) = (sum.apply(&sum.apply(&image)), both.apply(&image));
        assert_eq!((expected[12], found[12]), (81.0, 81.0));
        assert_eq!((expected[0], found[0]), (25.0, 36.0));
    }
}
