//! Exact traffic of truncation and extension: of finding out where shares wrap.

use super::comparison::ComparisonLayout;
use super::ot::{self, message};
use super::{Flights, Offline, packed};
use crate::{Comparison, Direction, ExtendMethod, OtKind, Party, Ring, TruncateMethod};

/// Whether the low `bits` bits of two shares add up to `2^bits` or more, as shares of 0 or 1 in `Z_{2^into}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// Bits of the shares that are looked at.
    pub bits: u32,
    /// Width of the ring in which the answer is shared; nothing is needed of an answer in 0 bits.
    pub into: u32,
    /// How it is found out.
    pub method: WrapMethod,
}

/// How to find out whether shares wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapMethod {
    /// By a comparison.
    Compare(Comparison),
    /// By the shares' top bits: a sum with its top bit clear has wrapped if either share has its top bit set.
    KnownSign(OtKind),
}

impl Wrap {
    /// Width of the product of one bit of each party that the answer takes: with an XOR of bits it counts twice.
    #[must_use]
    pub const fn product_bits(&self) -> u32 {
        match self.method {
            WrapMethod::Compare(_) => self.into.saturating_sub(1),
            WrapMethod::KnownSign(_) => self.into,
        }
    }

    /// The OT extension behind it.
    #[must_use]
    pub const fn ot(&self) -> OtKind {
        match self.method {
            WrapMethod::Compare(comparison) => comparison.ot,
            WrapMethod::KnownSign(ot) => ot,
        }
    }

    fn comparison(&self) -> ComparisonLayout {
        match &self.method {
            WrapMethod::Compare(comparison) => ComparisonLayout::new(self.bits, comparison),
            WrapMethod::KnownSign(ot) => {
                ComparisonLayout::new(0, &Comparison { ot: *ot, leaf_bits: 1, tables: false })
            }
        }
    }
}

/// Offline and online traffic of finding out several wraps of `count` elements side by side.
#[must_use]
pub fn wraps(wraps: &[Wrap], count: u64) -> (Offline, Flights) {
    let side_by_side = |parts: Vec<(Offline, Flights)>| {
        parts.into_iter().fold((Offline::default(), Flights::default()), |all, part| {
            (all.0.beside(part.0), all.1.beside(part.1))
        })
    };
    let compare = |wrap: &Wrap| (wrap.comparison().offline(count), wrap.comparison().online(count));
    let compared = side_by_side(wraps.iter().map(compare).collect());
    let multiply = |wrap: &Wrap| bit_product(wrap.ot(), wrap.product_bits(), count);
    let multiplied = side_by_side(wraps.iter().map(multiply).collect());
    (compared.0.beside(multiplied.0), compared.1 + multiplied.1)
}

/// Offline and online traffic of `count` products of a bit of one party and a bit of the other, as shares in
/// `Z_{2^bits}`.
#[must_use]
pub fn bit_product(kind: OtKind, bits: u32, count: u64) -> (Offline, Flights) {
    if bits == 0 {
        return Default::default();
    }
    let offline = ot::random(kind, Party::Server, count, 1)
        + message(Direction::ServerToClient, packed(count, bits.into())).into();
    (offline, Flights::crossing(packed(count, 1)))
}

/// Offline and online traffic of a truncation of `count` elements of `ring` by `shift` bits,
/// `0 < shift < ring.bits()`.
#[must_use]
pub fn truncate(ring: Ring, shift: u32, count: u64, method: TruncateMethod) -> (Offline, Flights) {
    wraps(&truncation_wraps(ring, shift, method), count)
}

/// The wraps behind a truncation: that in the ring, and for the exact result that of the low bits.
#[must_use]
pub fn truncation_wraps(ring: Ring, shift: u32, method: TruncateMethod) -> Vec<Wrap> {
    let bits = ring.bits();
    let wrap = |method| Wrap { bits, into: shift, method };
    match method {
        TruncateMethod::Faithful(comparison) => {
            let method = WrapMethod::Compare(comparison);
            vec![wrap(method), Wrap { bits: shift, into: bits, method }]
        }
        TruncateMethod::OneOff(comparison) => vec![wrap(WrapMethod::Compare(comparison))],
        TruncateMethod::KnownSign(ot) => vec![wrap(WrapMethod::KnownSign(ot))],
        TruncateMethod::Reduce => vec![],
    }
}

/// Offline and online traffic of an extension of `count` elements of `from` to the wider ring `to`.
#[must_use]
pub fn extend(from: Ring, to: Ring, count: u64, method: ExtendMethod) -> (Offline, Flights) {
    let wrap = extension_wrap(from, to, method);
    wraps(wrap.as_slice(), count)
}

/// The wrap behind an extension, if it takes one.
#[must_use]
pub fn extension_wrap(from: Ring, to: Ring, method: ExtendMethod) -> Option<Wrap> {
    let method = match method {
        ExtendMethod::Compare(comparison) => WrapMethod::Compare(comparison),
        ExtendMethod::KnownSign(ot) | ExtendMethod::Offset(ot) => WrapMethod::KnownSign(ot),
        ExtendMethod::Local => return None,
    };
    Some(Wrap { bits: from.bits(), into: to.bits().saturating_sub(from.bits()), method })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RADIX_16: Comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };

    fn ring(bits: u32) -> Ring {
        Ring::new(bits).expect("in range")
    }

    #[test]
    fn faithful_truncation_compares_whole_and_low_parts_side_by_side() {
        let method = TruncateMethod::Faithful(RADIX_16);
        let (offline, online) = truncate(ring(41), 12, 8, method);
        let (offline, online) = (offline.traffic, online.traffic());
        let [wrap, low] =
            [41, 12].map(|bits| ComparisonLayout::new(bits, &RADIX_16).online(8).traffic());
        assert_eq!((offline.rounds, online.rounds), (2, 7));
        let up = wrap.client_to_server + low.client_to_server + 2;
        assert_eq!(online.client_to_server, up);
        let down = wrap.server_to_client + low.server_to_client + 2;
        assert_eq!(online.server_to_client, down);
        // CrypTFlow2, section 5.3: fewer than 128 (l + s + 2) + 19 l + 14 s bits. With eight elements, bytes
        // in all are bits for each.
        let bits = offline.bytes() + online.bytes();
        assert!(bits < 128 * (41 + 12 + 2) + 19 * 41 + 14 * 12, "{bits} bits");
    }

    #[test]
    fn a_known_sign_saves_all_comparisons() {
        let (offline, online) =
            truncate(ring(32), 12, 65_536, TruncateMethod::KnownSign(OtKind::Iknp));
        let (offline, online) = (offline.traffic, online.traffic());
        assert_eq!((online.bytes(), online.rounds), (2 * 8192, 1));
        assert_eq!(offline.server_to_client, 65_536 * 12 / 8);
        assert_eq!(offline.client_to_server, 65_536 * 128 / 8);
        assert_eq!(truncate(ring(32), 12, 8, TruncateMethod::Reduce), Default::default());
    }

    #[test]
    fn extension_pays_for_the_added_bits() {
        let methods = [ExtendMethod::KnownSign(OtKind::Iknp), ExtendMethod::Offset(OtKind::Iknp)];
        for method in methods {
            let (offline, online) = extend(ring(8), ring(24), 80, method);
            assert_eq!((offline.traffic.server_to_client, online.bytes()), (80 * 16 / 8, 20));
        }
        let compared = extend(ring(8), ring(24), 80, ExtendMethod::Compare(RADIX_16));
        let comparison = ComparisonLayout::new(8, &RADIX_16).online(80);
        assert_eq!(compared.1.bytes(), comparison.bytes() + 20);
        // One added bit needs the parity of the wrap alone, which is an XOR.
        let one = extend(ring(8), ring(9), 80, ExtendMethod::Compare(RADIX_16));
        assert_eq!(one.1, comparison);
        assert_eq!(extend(ring(8), ring(24), 80, ExtendMethod::Local), Default::default());
    }
}
