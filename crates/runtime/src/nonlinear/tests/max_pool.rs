//! Max pooling with windows of every geometry.

use super::*;
use copriv_ir::{PoolWindow, Shape};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn max_pooling_finds_the_greatest_of_each_window(
        (kernel, stride, padding) in (1_usize..5, 1_usize..4, 0_usize..5),
        (height, width) in (1_usize..8, 1_usize..8),
        bits in 2_u32..=64, comparison in any_comparison(), seed: u8,
    ) {
        let window = PoolWindow { kernel, stride, padding: padding.min(kernel - 1) };
        prop_assume!(height.min(width) + 2 * window.padding >= kernel);
        let (input, ring) = (Shape::new(3, height, width), Ring::new(bits).expect("in range"));
        // Differences must fit the ring.
        let mut shared = Shared::random(ring, input.elements(), seed);
        shared.values = shared.map(|x| x >> 1);
        let shares = shared.values.iter().zip(&shared.shares[0]);
        shared.shares[1] = shares.map(|(&x, &share)| ring.sub(x, share)).collect();
        let opened = run(
            cost::max_pool(window, input, ring, &comparison),
            |channel, ots| MaxPoolCorrelation::prepare(channel, ots, (window, &comparison), (ring, input)),
            |channel, correlation| {
                let party = channel.party();
                let bits = stored::max_pool(window, input, ring, &comparison, party);
                let shape = (window, comparison, ring, input);
                let correlation = through_a_record(party, correlation, &shape, bits);
                correlation.pool(channel, shared.of(party))
            },
        );
        prop_assert_eq!(shared.open(opened), greatest(&shared, window, input));
    }
}

/// By the definition.
fn greatest(shared: &Shared, window: PoolWindow, input: Shape) -> Vec<u64> {
    let output = window.geometry(3).output_shape(input);
    let covered = |at: usize, extent: usize| {
        let first = at * window.stride;
        (first..first + window.kernel)
            .filter_map(move |side| side.checked_sub(window.padding).filter(|&side| side < extent))
    };
    let mut all = Vec::new();
    for channel in 0..3 {
        for row in 0..output.height {
            for column in 0..output.width {
                let values = covered(row, input.height).flat_map(|y| {
                    let at = (channel * input.height + y) * input.width;
                    covered(column, input.width).map(move |x| at + x)
                });
                let max = values.map(|at| shared.ring.to_signed(shared.values[at])).max();
                all.push(shared.ring.from_signed(max.expect("a window covers something")));
            }
        }
    }
    all
}
