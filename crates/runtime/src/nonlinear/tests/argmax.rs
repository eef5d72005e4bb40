//! Argmax of few and many numbers, with ties.

use super::*;

/// Numbers whose differences fit the ring; for even seeds few different ones, so that many are equal.
fn comparable(ring: Ring, count: usize, seed: u8) -> Shared {
    let mut shared = Shared::random(ring, count, seed);
    let coarse = if seed.is_multiple_of(2) { ring.bits().saturating_sub(3) } else { 0 };
    shared.values = shared.map(|x| x >> 1 >> coarse << coarse);
    let shares = shared.values.iter().zip(&shared.shares[0]);
    shared.shares[1] = shares.map(|(&x, &share)| ring.sub(x, share)).collect();
    shared
}

fn assert_argmax(bits: u32, count: usize, comparison: Comparison, seed: u8) {
    let ring = Ring::new(bits).expect("in range");
    let shared = comparable(ring, count, seed);
    let (server, client) = run(
        cost::argmax(ring, count, &comparison),
        |channel, ots| ArgMaxCorrelation::prepare(channel, ots, &comparison, (ring, count)),
        |channel, correlation| {
            let party = channel.party();
            let bits = stored::argmax(ring, count, &comparison, party);
            let shape = (ring, count, comparison);
            let correlation = through_a_record(party, correlation, &shape, bits);
            correlation.find(channel, shared.of(party))
        },
    );
    let digits: Vec<u64> = server.iter().zip(client.iter()).map(|(x, y)| x ^ y).collect();
    assert_eq!(digits.len(), copriv_ir::class_digits(count));
    assert!(server.iter().chain(client.iter()).all(|&share| share < 2), "elements of Z_2");
    let signed = |place: usize| ring.to_signed(shared.values[place]);
    let greatest = (0..count).map(signed).max();
    let first = (0..count).find(|&place| Some(signed(place)) == greatest);
    assert_eq!(Some(copriv_ir::class_of_digits(&digits)), first, "{bits} bits, {comparison:?}");
}

#[test]
fn every_number_of_classes_and_both_kinds_of_leaves() {
    for (seed, count) in [1, 2, 3, 5, 10, 100].into_iter().enumerate() {
        for tables in [false, true] {
            let comparison = Comparison { ot: OtKind::SoftSpoken8, leaf_bits: 4, tables };
            assert_argmax(20, count, comparison, seed as u8);
            assert_argmax(64, count, comparison, seed as u8 + 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_first_of_the_greatest_is_found(
        bits in 2_u32..=64, count in 1_usize..40, comparison in any_comparison(), seed: u8,
    ) {
        assert_argmax(bits, count, comparison, seed);
    }
}
