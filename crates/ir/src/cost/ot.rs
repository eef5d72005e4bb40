//! Traffic of OT extensions and of what is made from them.

use super::offline::{Offline, OtUse};
use super::packed;
use crate::{Direction, OtKind, Party, Traffic};

/// Most transfers that one extension message makes.
pub const BLOCK: u64 = 8192;

/// Bits of a pair's table where it comes from a 1-of-8 transfer: 8 entries of 2 bits.
pub const PAIR_TABLE: u32 = 16;

/// Bits of the table of two singles from a 1-of-16 transfer: 16 entries of 2 bits.
pub const SINGLES_TABLE: u32 = 32;

/// Base transfers of each direction: the columns of the longest code.
pub const BASE_OTS: u64 = 240;

/// Bits of the fields that SoftSpoken comes with.
pub const SOFT_SPOKEN_FIELDS: [u32; 3] = [2, 4, 8];

/// Bits of the field of the SoftSpoken transfers that seed silent ones.
pub const SEED_FIELD: u32 = 8;

/// Columns of IKNP's extension matrix of 1-of-`2^bits` transfers, `bits` from 1 to 4: the length of a simplex
/// code with distance 128.
#[must_use]
pub const fn columns(bits: u32) -> u64 {
    ((1 << bits) - 1) * (256 >> bits)
}

/// Who decides what the receiver of a transfer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choices {
    /// The extension itself: random, and known to the receiver alone.
    Random,
    /// The receiver.
    Chosen,
}

/// Bits that the receiver sends for each 1-of-`2^bits` transfer.
#[must_use]
pub const fn transfer_bits(kind: OtKind, bits: u32, choices: Choices) -> u64 {
    match (kind, choices) {
        (OtKind::Iknp, _) => columns(bits),
        (OtKind::SoftSpoken2, _) => soft_spoken_bits(2, bits, choices),
        (OtKind::SoftSpoken4, _) => soft_spoken_bits(4, bits, choices),
        (OtKind::SoftSpoken8, _) => soft_spoken_bits(8, bits, choices),
        (OtKind::Silent, Choices::Random) => 0,
        (OtKind::Silent, Choices::Chosen) => bits as u64,
    }
}

const fn soft_spoken_bits(field_bits: u64, bits: u32, choices: Choices) -> u64 {
    let columns = 128 / field_bits;
    (bits as u64) * if matches!(choices, Choices::Random) { columns - 1 } else { columns }
}

/// Bytes, receiver to sender, of `transfers` 1-of-`2^bits` transfers in blocks of at most [`BLOCK`].
#[must_use]
pub const fn extension(kind: OtKind, choices: Choices, transfers: u64, bits: u32) -> u64 {
    let (blocks, rest) = (transfers / BLOCK, transfers % BLOCK);
    transfer_bits(kind, bits, choices) * (blocks * (BLOCK / 8) + rest.div_ceil(8))
}

/// What `transfers` 1-of-`2^bits` transfers take in which the receiver chooses at random.
#[must_use]
pub fn random(kind: OtKind, sender: Party, transfers: u64, bits: u32) -> Offline {
    made(kind, Choices::Random, sender, (transfers, bits))
}

/// What `transfers` 1-of-`2^bits` transfers take whose choices the receiver brings.
#[must_use]
pub fn chosen(kind: OtKind, sender: Party, transfers: u64, bits: u32) -> Offline {
    made(kind, Choices::Chosen, sender, (transfers, bits))
}

fn made(kind: OtKind, choices: Choices, sender: Party, (transfers, bits): (u64, u32)) -> Offline {
    let bytes = extension(kind, choices, transfers, bits);
    Offline {
        traffic: message(sender.peer().sends(), bytes),
        ots: OtUse::new(kind, sender, transfers * u64::from(bits)),
    }
}

/// What `count` pairs of bit triples with a common factor take.
#[must_use]
pub fn pairs(kind: OtKind, count: u64) -> Offline {
    match kind {
        OtKind::Iknp => tables(count, 3, PAIR_TABLE),
        _ => both_directions(kind, count),
    }
}

/// What `count` single bit triples take. IKNP makes them two at a time.
#[must_use]
pub fn singles(kind: OtKind, count: u64) -> Offline {
    match kind {
        OtKind::Iknp => tables(count.div_ceil(2), 4, SINGLES_TABLE),
        _ => both_directions(kind, count),
    }
}

/// A random 1-of-2 transfer in each direction.
fn both_directions(kind: OtKind, count: u64) -> Offline {
    random(kind, Party::Server, count, 1).beside(random(kind, Party::Client, count, 1))
}

/// Transfers from the server, and a table for each.
fn tables(transfers: u64, bits: u32, table: u32) -> Offline {
    let tables = packed(transfers, table.into());
    random(OtKind::Iknp, Party::Server, transfers, bits)
        + message(Direction::ServerToClient, tables).into()
}

/// Traffic of one message of `bytes` in one direction; none if it is empty.
pub(super) const fn message(direction: Direction, bytes: u64) -> Traffic {
    Traffic::one_way(direction, bytes, if bytes == 0 { 0 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_code_words_differ_in_128_places() {
        assert_eq!([1, 2, 3, 4].map(columns), [128, 192, 224, 240]);
        for bits in 1..=4 {
            assert_eq!(columns(bits) * (1 << (bits - 1)) / ((1 << bits) - 1), 128);
        }
    }

    #[test]
    fn extensions_are_padded_to_bytes_once() {
        let iknp = |transfers, bits| extension(OtKind::Iknp, Choices::Random, transfers, bits);
        assert_eq!(iknp(0, 1), 0);
        assert_eq!(iknp(1, 1), 128);
        assert_eq!(iknp(8, 4), 240);
        assert_eq!(iknp(3 * BLOCK + 9, 1), 128 * (3 * 1024 + 2));
    }

    #[test]
    fn bits_of_a_transfer() {
        let bits = |choices| OtKind::ALL.map(|kind| transfer_bits(kind, 1, choices));
        assert_eq!(bits(Choices::Random), [128, 63, 31, 15, 0]);
        assert_eq!(bits(Choices::Chosen), [128, 64, 32, 16, 1]);
        assert_eq!(transfer_bits(OtKind::SoftSpoken4, 3, Choices::Random), 93);
    }
}
