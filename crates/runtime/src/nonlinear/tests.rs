//! Every protocol against its clear-text meaning, and its traffic against the prediction.

use super::*;
use crate::bits::Bits;
use crate::ot::test_pair::{both_with, both_with_ots};
use crate::ot::{Ots, Prg};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use copriv_ir::cost::{self, ComparisonLayout, Flights, Offline, stored};
use copriv_ir::{Activation, Comparison, OtKind, Party, Phase, Ring, StepId, TruncateMethod};
use proptest::prelude::*;

mod argmax;
mod max_pool;
mod width;

const STEP: StepId = StepId(5);

fn comparison(leaf_bits: u32) -> Comparison {
    Comparison { ot: OtKind::Iknp, leaf_bits, tables: false }
}

fn kind() -> impl Strategy<Value = OtKind> {
    prop::sample::select(&OtKind::ALL)
}

/// All ways to compare.
fn any_comparison() -> impl Strategy<Value = Comparison> {
    let all = (kind(), 1_u32..=4, any::<bool>());
    all.prop_map(|(ot, leaf_bits, tables)| Comparison { ot, leaf_bits, tables })
}

/// Numbers of a ring and random shares of them, with edge values among both.
#[derive(Clone, Debug)]
struct Shared {
    ring: Ring,
    values: Vec<u64>,
    shares: [Vec<u64>; 2],
}

impl Shared {
    fn random(ring: Ring, count: usize, seed: u8) -> Self {
        let mut rng = Prg::from_seed(&[seed; 16]);
        let (min, max) = ring.signed_range();
        let edges = [0, -1, 1, min, max, min + 1].map(|edge| ring.from_signed(edge));
        let mut number = |position: usize| {
            let random = rng.next_u64();
            let edge = edges[position % edges.len()];
            if position < 2 * edges.len() || random.is_multiple_of(4) {
                edge
            } else {
                ring.reduce(random)
            }
        };
        let values: Vec<u64> = (0..count).map(&mut number).collect();
        // Shares meet the edges in another order than values do.
        let first: Vec<u64> = (0..count).map(|position| number(position / edges.len())).collect();
        let second = values.iter().zip(&first).map(|(&x, &share)| ring.sub(x, share)).collect();
        Self { ring, values, shares: [first, second] }
    }

    fn of(&self, party: Party) -> &[u64] {
        &self.shares[usize::from(party == Party::Client)]
    }

    /// `f` of each number, signed.
    fn map(&self, f: impl Fn(i64) -> i64) -> Vec<u64> {
        let signed = self.values.iter().map(|&x| self.ring.to_signed(x));
        signed.map(|x| self.ring.from_signed(f(x))).collect()
    }

    fn open(&self, (server, client): (impl AsRef<[u64]>, impl AsRef<[u64]>)) -> Vec<u64> {
        let shares = server.as_ref().iter().zip(client.as_ref());
        shares.map(|(&x0, &x1)| self.ring.add(x0, x1)).collect()
    }
}

fn open_bits((server, client): (Bits, Bits)) -> Vec<u64> {
    let mut sum = server;
    sum.xor(&client);
    sum.iter().collect()
}

/// Runs a protocol at both parties and holds its traffic to the prediction.
fn run<C, T: Send>(
    predicted: (Offline, Flights),
    prepare: impl Fn(&mut Channel, &mut Ots) -> Result<C, RuntimeError> + Sync,
    online: impl Fn(&mut Channel, C) -> Result<T, RuntimeError> + Sync,
) -> (T, T) {
    both_with(1, &predicted.0.ots, |channel, ots| {
        channel.enter(STEP, Phase::Offline).expect("nothing is left");
        let correlation = prepare(channel, ots).expect("prepares");
        channel.enter(STEP, Phase::Online).expect("nothing is left");
        let result = online(channel, correlation).expect("runs");
        channel.enter(StepId(6), Phase::Online).expect("nothing is left");
        let comm = channel.comm();
        assert_eq!(comm.traffic(STEP, Phase::Offline), predicted.0.traffic, "offline");
        assert_eq!(comm.traffic(STEP, Phase::Online), predicted.1.traffic(), "online");
        result
    })
}

fn run_comparisons(batches: &[(u32, usize)], comparison: Comparison, seed: u8) {
    let layouts: Vec<_> =
        batches.iter().map(|&(bits, _)| ComparisonLayout::new(bits, &comparison)).collect();
    let numbers: Vec<_> = batches
        .iter()
        .map(|&(bits, count)| {
            let ring = Ring::new(bits.max(1)).expect("in range");
            let [server, mut client] = [0, 1].map(|n| Shared::random(ring, count, seed ^ n).values);
            // Equal numbers and close ones.
            for (index, (a, b)) in server.iter().zip(&mut client).enumerate().skip(12) {
                match index % 4 {
                    0 => *b = *a,
                    1 => *b = a ^ (1 << ((seed as usize + index) % bits.max(1) as usize)),
                    _ => {}
                }
            }
            [server, client]
        })
        .collect();
    let predicted = layouts.iter().zip(batches).fold(
        (Offline::default(), Flights::default()),
        |(offline, online), (layout, &(_, count))| {
            let count = count as u64;
            (offline.beside(layout.offline(count)), online.beside(layout.online(count)))
        },
    );
    let prepare = |channel: &mut Channel, ots: &mut Ots| {
        requesting(channel, |channel| {
            let batches = layouts.iter().cloned().zip(batches);
            let prepare = |(layout, &(_, count)): (_, &(u32, usize))| {
                ComparisonCorrelation::prepare(channel, ots, layout, count)
            };
            batches.map(prepare).collect::<Result<Vec<_>, _>>()
        })
    };
    let (server, client) = run(predicted, prepare, |channel, correlations| {
        let side = usize::from(channel.party() == Party::Client);
        let numbers = numbers.iter().map(|numbers| &numbers[side][..]);
        ComparisonCorrelation::compare(channel, correlations.into_iter().zip(numbers).collect())
    });
    for ((shares, [a, b]), &(bits, _)) in server.into_iter().zip(client).zip(&numbers).zip(batches)
    {
        let less = a.iter().zip(b).map(|(a, b)| u64::from(bits > 0 && a < b));
        assert_eq!(open_bits(shares), less.collect::<Vec<_>>(), "{bits} bits, {comparison:?}");
    }
}

#[test]
fn comparisons_of_every_width_and_digit() {
    for leaf_bits in 1..=4 {
        let all: Vec<_> = (0..=64).map(|bits| (bits, 40 + bits as usize)).collect();
        run_comparisons(&all, comparison(leaf_bits), leaf_bits as u8);
        let tables = Comparison { ot: OtKind::Silent, leaf_bits, tables: true };
        run_comparisons(&all, tables, leaf_bits as u8);
    }
}

#[test]
fn batches_longer_than_the_windows() {
    run_comparisons(&[(7, 3 * 8192 + 5), (4, 10), (0, 3), (12, 1)], comparison(4), 9);
    let shared = Shared::random(Ring::new(9).expect("in range"), 45_000, 3);
    assert_activation(Activation::Relu, &shared, 1, comparison(4));
    let silent = Comparison { ot: OtKind::Silent, leaf_bits: 2, tables: false };
    assert_activation(Activation::Relu, &shared, 1, silent);
    let tables = Comparison { ot: OtKind::SoftSpoken8, leaf_bits: 3, tables: true };
    assert_activation(Activation::Relu, &shared, 1, tables);
}

/// The correlation as it comes back from disk, where it takes as many bits as predicted.
fn through_a_record<C: Stored<Shape: Clone>>(
    party: Party,
    correlation: C,
    shape: &C::Shape,
    bits: u64,
) -> C {
    let mut record = RecordWriter::with_capacity(0);
    correlation.store(&mut record);
    // The last bit of all shows that nothing is missing before it.
    record.number(1, 1);
    let payload = record.finish();
    assert_eq!(payload.len() as u64, (bits + 1).div_ceil(8));
    let lens = [0, payload.len() / 3, payload.len().saturating_sub(2)];
    for len in lens.into_iter().filter(|&len| 8 * (len as u64) < bits) {
        let short = C::restore(shape.clone(), &mut RecordReader::new(party, &payload[..len]));
        assert_eq!(short.map(drop), Err(RecordTooShort));
    }
    let mut record = RecordReader::new(party, &payload);
    let restored = C::restore(shape.clone(), &mut record).expect("all is there");
    assert_eq!(record.number(1), Ok(1));
    assert!(record.is_at_end());
    restored
}

fn assert_activation(function: Activation, shared: &Shared, scale: u32, comparison: Comparison) {
    let (ring, count) = (shared.ring, shared.values.len());
    let opened = run(
        cost::activation(function, ring, count as u64, &comparison),
        |channel, ots| {
            ActivationCorrelation::prepare(channel, ots, (function, &comparison), ring, count)
        },
        |channel, correlation| {
            let party = channel.party();
            let bits = stored::activation(function, ring, count as u64, &comparison, party);
            let shape = (function, comparison, ring, count);
            let correlation = through_a_record(party, correlation, &shape, bits);
            correlation.apply(channel, scale, shared.of(party))
        },
    );
    let expected = match function {
        Activation::Relu => shared.map(|x| x.max(0)),
        Activation::Relu6 => shared.map(|x| x.clamp(0, 6 << scale)),
    };
    assert_eq!(shared.open(opened), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn comparisons_side_by_side(
        batches in prop::collection::vec((0_u32..=64, 1_usize..300), 1..4), comparison in any_comparison(), seed: u8,
    ) {
        run_comparisons(&batches, comparison, seed);
    }

    #[test]
    fn drelu_is_one_where_a_number_is_not_negative(
        bits in 1_u32..=64, count in 1_usize..300, comparison in any_comparison(), seed: u8,
    ) {
        let ring = Ring::new(bits).expect("in range");
        let shared = Shared::random(ring, count, seed);
        let layout = ComparisonLayout::new(bits - 1, &comparison);
        let opened = run(
            cost::drelu(ring, count as u64, &comparison),
            |channel, ots| ComparisonCorrelation::prepare(channel, ots, layout.clone(), count),
            |channel, correlation| drelu(channel, correlation, ring, shared.of(channel.party())),
        );
        let signs = shared.values.iter().map(|&x| u64::from(ring.to_signed(x) >= 0));
        prop_assert_eq!(open_bits(opened), signs.collect::<Vec<_>>());
    }

    #[test]
    fn the_multiplexer_multiplies_bits_and_numbers(
        bits in 1_u32..=64, count in 1_usize..300, kind in kind(), seed: u8,
    ) {
        let ring = Ring::new(bits).expect("in range");
        let shared = Shared::random(ring, count, seed);
        let choices = [1, 2].map(|n| Bits::random(count, &mut Prg::from_seed(&[seed ^ n; 16])));
        let opened = run(
            cost::multiplexer(kind, ring, count as u64),
            |channel, ots| MultiplexerCorrelation::prepare(channel, ots, kind, (ring, count)),
            |channel, correlation| {
                let side = usize::from(channel.party() == Party::Client);
                correlation.multiply(channel, &choices[side], shared.of(channel.party()))
            },
        );
        let [first, second] = choices;
        let products = open_bits((first, second)).into_iter().zip(&shared.values).map(|(b, x)| b * x);
        prop_assert_eq!(shared.open(opened), products.collect::<Vec<_>>());
    }

    #[test]
    fn relu_is_the_greater_of_zero_and_the_number(
        bits in 2_u32..=64, count in 1_usize..300, comparison in any_comparison(), seed: u8,
    ) {
        let shared = Shared::random(Ring::new(bits).expect("in range"), count, seed);
        assert_activation(Activation::Relu, &shared, 0, comparison);
    }

    #[test]
    fn relu6_also_caps(
        bits in 5_u32..=64, count in 1_usize..300, comparison in any_comparison(), room in 0_u32..60, seed: u8,
    ) {
        let ring = Ring::new(bits).expect("in range");
        let scale = room.min(bits - 5);
        // What six is subtracted from must be in the ring afterwards.
        let mut shared = Shared::random(ring, count, seed);
        let (min, _) = ring.signed_range();
        for index in 0..count {
            let x = ring.to_signed(shared.values[index]).max(min + (6 << scale));
            shared.values[index] = ring.from_signed(x);
            shared.shares[1][index] = ring.sub(ring.from_signed(x), shared.shares[0][index]);
        }
        assert_activation(Activation::Relu6, &shared, scale, comparison);
    }

    #[test]
    fn revealed_shares_are_their_sum(bits in 1_u32..=64, count in 1_usize..300, seed: u8) {
        let ring = Ring::new(bits).expect("in range");
        let shared = Shared::random(ring, count, seed);
        let (server, client) = run(
            cost::reveal(ring, count as u64),
            |_, _| Ok(()),
            |channel, ()| reveal(channel, ring, shared.of(channel.party())),
        );
        prop_assert_eq!(server, None);
        prop_assert_eq!(client, Some(shared.values));
    }
}

/// Everything that a party of the non-linear protocols does, one after the other.
fn run_all(channel: &mut Channel, ots: &mut Ots) -> Result<(), RuntimeError> {
    let (ring, radix, shares) = (Ring::new(17).expect("in range"), comparison(4), vec![5; 50]);
    let relu6 = (Activation::Relu6, &radix);
    let relu6 = ActivationCorrelation::prepare(channel, ots, relu6, ring, shares.len())?;
    let faithful = TruncateMethod::Faithful(radix);
    let half = TruncationCorrelation::prepare(channel, ots, faithful, (ring, 8), shares.len())?;
    let shares = relu6.apply(channel, 4, &shares)?;
    let shares = half.truncate(channel, &shares)?;
    assert!(shares.iter().all(|&share| share == ring.reduce(share)), "still elements of the ring");
    reveal(channel, ring, &shares).map(drop)
}

#[test]
fn whatever_a_peer_sends_nothing_panics() {
    for (honest, seed) in [(Party::Server, 1), (Party::Client, 2)] {
        for len in [0, 1, 1000, 1 << 20] {
            let (server, client) = both_with_ots(seed, |channel, ots| {
                if channel.party() == honest {
                    return Some(run_all(channel, ots));
                }
                let mut garbage = vec![0; len];
                ots.rng.fill(&mut garbage);
                channel.send(&garbage).and_then(|()| channel.flush()).expect("sends");
                None
            });
            match server.or(client).expect("one is honest") {
                Ok(()) => assert!(len > 1000, "too few bytes for a run"),
                Err(error) => {
                    assert!(matches!(error, RuntimeError::ConnectionLost { .. }), "{error}");
                }
            }
        }
    }
}

#[test]
fn nothing_secret_is_printed() {
    let ring = Ring::new(41).expect("in range");
    let (server, client) = both_with_ots(1, |channel, ots| {
        let relu = (Activation::Relu, &comparison(4));
        let relu = ActivationCorrelation::prepare(channel, ots, relu, ring, 50).expect("prepares");
        let faithful = TruncateMethod::Faithful(comparison(4));
        let half = TruncationCorrelation::prepare(channel, ots, faithful, (ring, 12), 50);
        format!("{relu:?} {:?}", half.expect("prepares"))
    });
    for text in [server, client] {
        assert!(text.contains("MultiplexerCorrelation") && text.contains("Leaves"), "{text}");
        let digits = |word: &str| word.parse::<u64>().is_ok_and(|number| number > 1000);
        let words = text.split(|c: char| !c.is_ascii_digit());
        assert_eq!(words.filter(|word| digits(word)).count(), 0, "{text}");
    }
}
