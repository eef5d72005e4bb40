//! Traffic of OT extension and of what is made from it.

use super::packed;
use crate::{Direction, Traffic};

/// Most transfers that one extension message makes.
pub const BLOCK: u64 = 8192;

/// Bits of a pair's table: 8 entries of 2 bits.
pub const PAIR_TABLE: u32 = 16;

/// Bits of the table of two singles: 16 entries of 2 bits.
pub const SINGLES_TABLE: u32 = 32;

/// Columns of the extension matrix of 1-of-`2^bits` transfers, `bits` from 1 to 4: the length of a simplex
/// code with distance 128.
#[must_use]
pub const fn columns(bits: u32) -> u64 {
    ((1 << bits) - 1) * (256 >> bits)
}

/// Bytes, receiver to sender, of `transfers` random 1-of-`2^bits` transfers.
#[must_use]
pub const fn extension(transfers: u64, bits: u32) -> u64 {
    let (blocks, rest) = (transfers / BLOCK, transfers % BLOCK);
    columns(bits) * (blocks * (BLOCK / 8) + rest.div_ceil(8))
}

/// Offline traffic of `count` pairs of bit triples with a common factor.
#[must_use]
pub const fn pairs(count: u64) -> Traffic {
    triples(count, 3, PAIR_TABLE)
}

/// Offline traffic of `count` single bit triples. They are made two at a time.
#[must_use]
pub const fn singles(count: u64) -> Traffic {
    triples(count.div_ceil(2), 4, SINGLES_TABLE)
}

const fn triples(transfers: u64, bits: u32, table: u32) -> Traffic {
    Traffic {
        server_to_client: packed(transfers, table as u64),
        client_to_server: extension(transfers, bits),
        rounds: if transfers == 0 { 0 } else { 2 },
    }
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
        assert_eq!(extension(0, 1), 0);
        assert_eq!(extension(1, 1), 128);
        assert_eq!(extension(8, 4), 240);
        assert_eq!(extension(3 * BLOCK + 9, 1), 128 * (3 * 1024 + 2));
    }
}
