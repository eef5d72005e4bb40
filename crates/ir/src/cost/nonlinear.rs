//! Exact traffic of the non-linear steps.

use super::comparison::ComparisonLayout;
use super::ot;
use super::{Flights, Offline, packed};
use crate::{Activation, Comparison, Direction, OtKind, Party, PoolWindow, Ring, Shape, SidePool};

/// Offline and online traffic of an activation on `count` elements of `ring`.
#[must_use]
pub fn activation(
    function: Activation,
    ring: Ring,
    count: u64,
    comparison: &Comparison,
) -> (Offline, Flights) {
    let count = match function {
        Activation::Relu => count,
        Activation::Relu6 => 2 * count,
    };
    let drelu = drelu(ring, count, comparison);
    let multiplexer = multiplexer(comparison.ot, ring, count);
    (drelu.0.beside(multiplexer.0), drelu.1 + multiplexer.1)
}

/// Offline and online traffic of the signs of `count` elements of `ring`: a comparison of one bit less.
#[must_use]
pub fn drelu(ring: Ring, count: u64, comparison: &Comparison) -> (Offline, Flights) {
    let layout = ComparisonLayout::new(ring.bits() - 1, comparison);
    (layout.offline(count), layout.online(count))
}

/// Offline and online traffic of `count` products of a shared bit and a shared element of `ring`.
#[must_use]
pub fn multiplexer(kind: OtKind, ring: Ring, count: u64) -> (Offline, Flights) {
    let corrections = Flights::crossing(packed(count, 1));
    let differences = Flights::crossing(packed(count, ring.bits().into()));
    let transfers = |sender| ot::random(kind, sender, count, 1);
    let offline = transfers(Party::Server).beside(transfers(Party::Client));
    (offline, corrections + differences)
}

/// Offline and online traffic of max pooling a map of shape `input` in `ring`: the ReLUs of every round of matches, one
/// round after the other.
#[must_use]
pub fn max_pool(
    window: PoolWindow,
    input: Shape,
    ring: Ring,
    comparison: &Comparison,
) -> (Offline, Flights) {
    let sides = window.sides(input);
    let rounds = sides.iter().flat_map(SidePool::matches);
    let relus = rounds.map(|n| activation(Activation::Relu, ring, n as u64, comparison));
    relus.fold(Default::default(), |(offline, online): (Offline, Flights), relu| {
        (offline.beside(relu.0), online + relu.1)
    })
}

/// Offline and online traffic of opening `count` elements of `ring` to the client.
#[must_use]
pub fn reveal(ring: Ring, count: u64) -> (Offline, Flights) {
    let opened = packed(count, ring.bits().into());
    (Offline::default(), Flights::one_way(Direction::ServerToClient, opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Traffic;
    use crate::cost::SessionCost;

    const RADIX_16: Comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };

    fn ring(bits: u32) -> Ring {
        Ring::new(bits).expect("in range")
    }

    #[test]
    fn relu_is_a_comparison_and_a_multiplexer() {
        let (offline, online) = activation(Activation::Relu, ring(41), 8, &RADIX_16);
        let (offline, online) = (offline.traffic, online.traffic());
        assert_eq!((offline.rounds, online.rounds), (2, 8));
        let openings = 14 + 5 + 2 + 2;
        assert_eq!(online.client_to_server, 40 + openings + 1 + 41);
        assert_eq!(online.server_to_client, 285 + openings + 1 + 41);
        assert_eq!(offline.server_to_client, 16 * 4 + 40 * 2 + 128);
        assert_eq!(offline.client_to_server, 240 * 10 + 240 * 2 + 224 * 5 + 128);
    }

    /// MiB of ReLU on 65,536 elements as the first step of a session, without its set-up: in all, and online.
    fn relu_mebibytes(bits: u32, comparison: Comparison) -> (f64, f64) {
        let (offline, online) = activation(Activation::Relu, ring(bits), 1 << 16, &comparison);
        let online = online.traffic();
        let filled = SessionCost::of_use(&offline.ots).fill(&offline.ots);
        let mebibytes = |traffic: Traffic| traffic.bytes() as f64 / f64::from(1 << 20);
        (mebibytes(filled + offline.traffic + online), mebibytes(online))
    }

    #[test]
    fn relu_with_silent_transfers_costs_less_than_published_systems() {
        // OpenCheetah takes 3.11 MiB, SPU 3.07 at 32 bits.
        let silent = Comparison { ot: OtKind::Silent, leaf_bits: 2, tables: false };
        let (total, _) = relu_mebibytes(32, silent);
        assert!(total <= 2.6, "{total}");
        let (total, _) = relu_mebibytes(12, silent);
        assert!(total <= 1.0, "{total}");
        for leaf_bits in [3, 4] {
            let tables = Comparison { leaf_bits, tables: true, ..silent };
            let (_, online) = relu_mebibytes(32, tables);
            assert!(online <= 1.5, "{online}");
            let (_, online) = relu_mebibytes(12, tables);
            assert!(online <= 0.6, "{online}");
        }
    }

    #[test]
    fn relu6_is_twice_as_many() {
        assert_eq!(
            activation(Activation::Relu6, ring(41), 20, &RADIX_16),
            activation(Activation::Relu, ring(41), 40, &RADIX_16),
        );
    }
}
