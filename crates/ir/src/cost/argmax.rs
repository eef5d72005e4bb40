//! Finding the greatest of many values: its rounds, and what they cost.

use super::nonlinear::drelu;
use super::ot;
use super::{Flights, Offline, packed};
use crate::{Comparison, OtKind, Party, Ring, SidePool};

/// One round of the knock-out behind an argmax: neighbours meet, the last of an odd number goes on unmatched.
///
/// A winner takes its value along, save from the last round, and the binary digits of its number among those that it and
/// whom it beat stand for. The highest of these says who won and needs no message, so that after round `r`,
/// counted from 0, a number has `r + 1` digits, of which `r` had to be selected.
///
/// The runtime executes these rounds and the cost formulae count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgMaxRound {
    /// How many pairs meet.
    pub matches: usize,
    /// Bits of the values that winners take along.
    pub value_bits: u32,
    /// Digits of numbers that winners take along.
    pub index_bits: u32,
}

impl ArgMaxRound {
    /// All rounds for `count` elements of `ring`: `ceil(log2 count)`.
    #[must_use]
    pub fn all(ring: Ring, count: usize) -> Vec<Self> {
        let matches = SidePool::of_all(count).matches();
        let last = matches.len().saturating_sub(1);
        let round = |(number, matches): (usize, usize)| Self {
            matches,
            value_bits: if number == last { 0 } else { ring.bits() },
            index_bits: number as u32,
        };
        matches.into_iter().enumerate().map(round).collect()
    }
}

/// Offline and online traffic of finding the greatest of `count` elements of `ring`, round after round.
#[must_use]
pub fn argmax(ring: Ring, count: usize, comparison: &Comparison) -> (Offline, Flights) {
    let rounds = ArgMaxRound::all(ring, count).into_iter();
    rounds.fold(Default::default(), |(offline, online): (Offline, Flights), round| {
        let matches = round.matches as u64;
        let compared = drelu(ring, matches, comparison);
        let selected = selection(comparison.ot, round.value_bits + round.index_bits, matches);
        (offline.beside(compared.0).beside(selected.0), online + compared.1 + selected.1)
    })
}

/// Offline and online traffic of `count` products of a shared bit and shared numbers of `bits` bits together.
#[must_use]
pub fn selection(kind: OtKind, bits: u32, count: u64) -> (Offline, Flights) {
    if bits == 0 {
        return Default::default();
    }
    let transfers = |sender| ot::random(kind, sender, count, 1);
    let offline = transfers(Party::Server).beside(transfers(Party::Client));
    let (corrections, differences) = (packed(count, 1), packed(count, bits.into()));
    (offline, Flights::crossing(corrections) + Flights::crossing(differences))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RADIX_16: Comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };

    fn ring(bits: u32) -> Ring {
        Ring::new(bits).expect("in range")
    }

    #[test]
    fn a_hundred_logits_take_seven_rounds_of_matches() {
        let rounds = ArgMaxRound::all(ring(20), 100);
        let matches: Vec<usize> = rounds.iter().map(|round| round.matches).collect();
        assert_eq!(matches, [50, 25, 12, 6, 3, 2, 1]);
        let index_bits: Vec<u32> = rounds.iter().map(|round| round.index_bits).collect();
        assert_eq!(index_bits, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(rounds[5].value_bits, 20);
        assert_eq!(rounds[6].value_bits, 0);
        // A comparison of 19 bits has five digits on three levels; a selection takes two rounds, the last of which it shares
        // with the next comparison.
        assert_eq!(argmax(ring(20), 100, &RADIX_16).1.traffic().rounds, 7 * (2 + 3 + 2) - 6);
    }

    #[test]
    fn of_one_or_two_nothing_is_taken_along() {
        assert_eq!(argmax(ring(20), 1, &RADIX_16), Default::default());
        assert_eq!(argmax(ring(20), 2, &RADIX_16), drelu(ring(20), 1, &RADIX_16));
    }
}
