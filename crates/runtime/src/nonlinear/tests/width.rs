//! Truncation and extension by every method, at every width.

use super::*;
use copriv_ir::ExtendMethod;

/// The same shares of numbers made to fit: `x`, signed, becomes `f(x)` and the client's share follows.
fn adjusted(mut shared: Shared, f: impl Fn(i64) -> i64) -> Shared {
    let ring = shared.ring;
    shared.values = shared.map(f);
    let shares = shared.values.iter().zip(&shared.shares[0]);
    shared.shares[1] = shares.map(|(&x, &share)| ring.sub(x, share)).collect();
    shared
}

fn ring(bits: u32) -> Ring {
    Ring::new(bits).expect("in range")
}

/// Truncates by a method and holds every element to the formula with the shares' own low bits.
fn assert_truncated(shared: &Shared, shift: u32, method: TruncateMethod) {
    let (from, count) = (shared.ring, shared.values.len());
    let opened = run(
        cost::truncate(from, shift, count as u64, method),
        |channel, ots| TruncationCorrelation::prepare(channel, ots, method, (from, shift), count),
        |channel, correlation| {
            let party = channel.party();
            let bits = stored::truncate(from, shift, count as u64, method, party);
            let shape = (method, from, shift, count);
            let correlation = through_a_record(party, correlation, &shape, bits);
            correlation.truncate(channel, shared.of(party))
        },
    );
    let to = match method {
        TruncateMethod::Reduce => ring(from.bits() - shift),
        _ => from,
    };
    let mask = (1 << shift) - 1;
    let expected: Vec<u64> = std::iter::zip(&shared.values, &shared.shares[0])
        .map(|(&x, &server)| {
            let down = from.to_signed(x) >> shift;
            let up = match method {
                TruncateMethod::Faithful(_) => false,
                _ => server & mask > 0 && server & mask <= x & mask,
            };
            to.from_signed(down + i64::from(up))
        })
        .collect();
    let shares = opened.0.iter().chain(opened.1.iter());
    assert!(shares.clone().all(|&share| share == to.reduce(share)), "elements of the ring");
    let sums: Vec<u64> = opened.0.iter().zip(&*opened.1).map(|(&x, &y)| to.add(x, y)).collect();
    assert_eq!(sums, expected, "{from} by {shift}, {method:?}");
}

fn assert_extended(shared: &Shared, to: Ring, method: ExtendMethod) {
    let (from, count) = (shared.ring, shared.values.len());
    let (server, client) = run(
        cost::extend(from, to, count as u64, method),
        |channel, ots| ExtensionCorrelation::prepare(channel, ots, method, (from, to), count),
        |channel, correlation| {
            let party = channel.party();
            let bits = stored::extend(from, to, count as u64, method, party);
            let shape = (method, from, to, count);
            let correlation = through_a_record(party, correlation, &shape, bits);
            correlation.extend(channel, shared.of(party))
        },
    );
    let sums: Vec<u64> = server.iter().zip(&*client).map(|(&x, &y)| to.add(x, y)).collect();
    let signed = shared.values.iter().map(|&x| to.from_signed(from.to_signed(x)));
    assert_eq!(sums, signed.collect::<Vec<_>>(), "{from} to {to}, {method:?}");
}

fn truncations(bits: u32, shift: u32, count: usize, comparison: Comparison, seed: u8) {
    let shared = Shared::random(ring(bits), count, seed);
    assert_truncated(&shared, shift, TruncateMethod::Faithful(comparison));
    assert_truncated(&shared, shift, TruncateMethod::OneOff(comparison));
    assert_truncated(&shared, shift, TruncateMethod::Reduce);
    let positive = adjusted(shared, |x| x & i64::MAX >> (64 - bits));
    assert_truncated(&positive, shift, TruncateMethod::KnownSign(comparison.ot));
}

fn extensions(from: u32, to: u32, count: usize, comparison: Comparison, seed: u8) {
    let (shared, to) = (Shared::random(ring(from), count, seed), ring(to));
    assert_extended(&shared, to, ExtendMethod::Compare(comparison));
    let (_, max) = ring(from).signed_range();
    let positive = adjusted(shared.clone(), |x| x & max);
    assert_extended(&positive, to, ExtendMethod::KnownSign(comparison.ot));
    if from > 1 {
        let middle = adjusted(shared, |x| x.clamp(-(max / 2) - 1, max / 2));
        assert_extended(&middle, to, ExtendMethod::Offset(comparison.ot));
    }
}

#[test]
fn truncation_at_the_edges_of_width_and_shift() {
    for (bits, shift) in [(2, 1), (3, 1), (3, 2), (41, 12), (41, 40), (64, 1), (64, 12), (64, 63)] {
        truncations(bits, shift, 100, comparison(4), bits as u8);
    }
}

#[test]
fn extension_at_the_edges_of_both_widths() {
    for (from, to) in [(1, 2), (1, 64), (2, 3), (6, 21), (8, 9), (31, 63), (32, 64), (63, 64)] {
        extensions(from, to, 100, comparison(4), from as u8);
    }
}

#[test]
fn several_blocks_of_one_correlated_transfer_each() {
    let shared = adjusted(Shared::random(ring(20), 6 * 8192 + 5, 3), |x| x & 0x7_ffff);
    assert_truncated(&shared, 12, TruncateMethod::KnownSign(OtKind::Silent));
    assert_extended(&shared, ring(33), ExtendMethod::KnownSign(OtKind::SoftSpoken4));
}

#[test]
fn what_the_client_alone_knows_is_extended_by_it() {
    let mut shared = Shared::random(ring(9), 50, 4);
    shared.shares = [vec![0; 50], shared.values.clone()];
    assert_extended(&shared, ring(30), ExtendMethod::Local);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn truncation_of_any_width_by_any_shift(
        bits in 2_u32..=64, shift in 1_u32..64, count in 1_usize..300, comparison in any_comparison(), seed: u8,
    ) {
        truncations(bits, 1 + (shift - 1) % (bits - 1), count, comparison, seed);
    }

    #[test]
    fn extension_from_any_width_to_any(
        from in 1_u32..64, added in 0_u32..63, count in 1_usize..300, comparison in any_comparison(), seed: u8,
    ) {
        extensions(from, from + 1 + added % (64 - from), count, comparison, seed);
    }

    #[test]
    fn products_of_one_bit_of_each_party(
        batches in prop::collection::vec((0_u32..=64, 1_usize..300), 1..4), kind in kind(), seed: u8,
    ) {
        let bits = [1, 2].map(|n| {
            let mut rng = Prg::from_seed(&[seed ^ n; 16]);
            batches.iter().map(|&(_, count)| Bits::random(count, &mut rng)).collect::<Vec<_>>()
        });
        let all = batches.iter().map(|&(width, count)| cost::bit_product(kind, width, count as u64));
        let predicted = all.reduce(|(a, b), (c, d)| (a.beside(c), b.beside(d))).expect("some");
        let (server, client) = run(
            predicted,
            |channel, ots| {
                requesting(channel, |channel| {
                    let prepare = |&shape| BitProductCorrelation::prepare(channel, ots, kind, shape);
                    batches.iter().map(prepare).collect::<Result<Vec<_>, _>>()
                })
            },
            |channel, correlations| {
                let side = usize::from(channel.party() == Party::Client);
                BitProductCorrelation::multiply(channel, correlations.into_iter().zip(&bits[side]).collect())
            },
        );
        let [first, second] = bits;
        for (index, (a, b)) in first.iter().zip(&second).enumerate() {
            let width = batches[index].0;
            for (position, (a, b)) in a.iter().zip(b.iter()).enumerate() {
                let sum = server[index][position].wrapping_add(client[index][position]);
                let difference = sum.wrapping_sub(a & b);
                prop_assert!(width == 0 || difference << (64 - width) == 0);
            }
        }
    }
}
