//! Exact traffic of the non-linear steps.

use super::comparison::ComparisonLayout;
use super::ot::{self, message};
use super::{Offline, packed};
use crate::{Activation, Comparison, Direction, OtKind, Party, Ring, Traffic};

/// Offline and online traffic of an activation on `count` elements of `ring`.
#[must_use]
pub fn activation(
    function: Activation,
    ring: Ring,
    count: u64,
    comparison: &Comparison,
) -> (Offline, Traffic) {
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
pub fn drelu(ring: Ring, count: u64, comparison: &Comparison) -> (Offline, Traffic) {
    let layout = ComparisonLayout::new(ring.bits() - 1, comparison);
    (layout.offline(count), layout.online(count))
}

/// Offline and online traffic of `count` products of a shared bit and a shared element of `ring`.
#[must_use]
pub fn multiplexer(kind: OtKind, ring: Ring, count: u64) -> (Offline, Traffic) {
    let corrections = both_ways(packed(count, 1));
    let differences = both_ways(packed(count, ring.bits().into()));
    let transfers = |sender| ot::random(kind, sender, count, 1);
    let offline = transfers(Party::Server).beside(transfers(Party::Client));
    (offline, corrections + differences)
}

/// Offline and online traffic of the faithful truncation of `count` elements of `ring` by `shift` bits,
/// `0 < shift < ring.bits()`.
#[must_use]
pub fn truncate(ring: Ring, shift: u32, count: u64, comparison: &Comparison) -> (Offline, Traffic) {
    let [wrap, low] = [ring.bits(), shift].map(|bits| ComparisonLayout::new(bits, comparison));
    let up = |bytes| message(Direction::ClientToServer, bytes);
    let down = |bytes| message(Direction::ServerToClient, bytes);
    let differences = [shift, ring.bits()].map(|bits| packed(count, u64::from(bits) - 1));
    let conversion = || ot::random(comparison.ot, Party::Server, count, 1);
    let offline =
        wrap.offline(count).beside(low.offline(count)).beside(conversion()).beside(conversion());
    let mut online = wrap.online(count).beside(low.online(count))
        + up(2 * packed(count, 1))
        + down(differences.iter().sum());
    // The server's first openings leave with the tables, a round before the client's, and the parties take
    // turns to be ahead: after an odd number of levels the client has what it needs a round early.
    let levels = wrap.levels().len().max(low.levels().len()) as u32;
    online.rounds = online.rounds.saturating_sub(levels % 2);
    (offline, online)
}

/// Offline and online traffic of opening `count` elements of `ring` to the client.
#[must_use]
pub fn reveal(ring: Ring, count: u64) -> (Offline, Traffic) {
    (Offline::default(), message(Direction::ServerToClient, packed(count, ring.bits().into())))
}

/// The same message in both directions, crossing.
fn both_ways(bytes: u64) -> Traffic {
    message(Direction::ServerToClient, bytes).beside(message(Direction::ClientToServer, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RADIX_16: Comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };

    fn ring(bits: u32) -> Ring {
        Ring::new(bits).expect("in range")
    }

    #[test]
    fn relu_is_a_comparison_and_a_multiplexer() {
        let (offline, online) = activation(Activation::Relu, ring(41), 8, &RADIX_16);
        let offline = offline.traffic;
        assert_eq!((offline.rounds, online.rounds), (2, 8));
        let openings = 14 + 5 + 2 + 2;
        assert_eq!(online.client_to_server, 40 + openings + 1 + 41);
        assert_eq!(online.server_to_client, 304 + openings + 1 + 41);
        assert_eq!(offline.server_to_client, 16 * 4 + 40 * 2 + 128);
        assert_eq!(offline.client_to_server, 240 * 10 + 240 * 2 + 224 * 5 + 128);
    }

    #[test]
    fn relu6_is_twice_as_many() {
        assert_eq!(
            activation(Activation::Relu6, ring(41), 20, &RADIX_16),
            activation(Activation::Relu, ring(41), 40, &RADIX_16),
        );
    }

    #[test]
    fn faithful_truncation_compares_whole_and_low_parts_side_by_side() {
        let (offline, online) = truncate(ring(41), 12, 8, &RADIX_16);
        let [wrap, low] = [41, 12].map(|bits| ComparisonLayout::new(bits, &RADIX_16));
        let offline = offline.traffic;
        assert_eq!((offline.rounds, online.rounds), (2, 8));
        let up = wrap.online(8).client_to_server + low.online(8).client_to_server + 2;
        assert_eq!(online.client_to_server, up);
        let down = wrap.online(8).server_to_client + low.online(8).server_to_client + 11 + 40;
        assert_eq!(online.server_to_client, down);
        // CrypTFlow2, section 5.3: fewer than 128 (l + s + 2) + 19 l + 14 s bits. With eight elements, bytes
        // in all are bits for each.
        let bits = offline.bytes() + online.bytes();
        assert!(bits < 128 * (41 + 12 + 2) + 19 * 41 + 14 * 12, "{bits} bits");
    }
}
