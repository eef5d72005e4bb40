//! Shared products of random bits.
//!
//! Where transfers cost bytes by the hundred (IKNP), a 1-of-8 or 1-of-16 transfer and a table make one; elsewhere two random
//! 1-of-2 transfers, one in each direction, and no message more.

use super::block::gather;
use super::{BLOCK, Code, Ots};
use crate::bits::Bits;
use crate::packing::{Packer, Unpacker, packed_len};
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::ot::{PAIR_TABLE, SINGLES_TABLE};
use copriv_ir::cost::streams::TRIPLE_WINDOW;
use copriv_ir::{OtKind, Party};
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// One party's XOR shares of random triples `(a, b, c)` with `c = a & b`. Each is good for one product.
#[derive(Debug)]
pub struct Singles {
    /// First factors.
    pub(crate) a: Bits,
    /// Second factors.
    pub(crate) b: Bits,
    /// Products.
    pub(crate) c: Bits,
}

/// One party's XOR shares of random pairs of triples with a common factor: `c[i] = a & b[i]`.
#[derive(Debug)]
pub struct Pairs {
    /// Common factors.
    pub(crate) a: Bits,
    /// Second factors.
    pub(crate) b: [Bits; 2],
    /// Products.
    pub(crate) c: [Bits; 2],
}

impl Singles {
    /// Makes `count` triples. IKNP makes two by one 1-of-16 transfer, other kinds each by two random transfers, one in each direction:
    ///
    /// | server: `a0, b0, c0` at random, twice | | client |
    /// |---|---|---|
    /// | | `<-` extension | its choice is `a1, b1` of both triples |
    /// | for each choice `(a0 ^ a1)(b0 ^ b1) ^ c0` of both, masked by its pad | `->` 32 bits | unmasks `c1` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn make(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        if kind != OtKind::Iknp {
            let Crossed { a, b: [b, _], c: [c, _] } = Crossed::make(channel, ots, kind, count)?;
            return Ok(Self { a, b, c });
        }
        let transfers = count.div_ceil(2);
        let len = 2 * transfers;
        if channel.party() == Party::Server {
            let [a, b, c] = [(); 3].map(|()| Bits::random(len, &mut ots.rng));
            let products = product_tables(&SINGLE_FACTORS);
            offer(channel, ots, Code::OneOf16, SINGLES_TABLE, transfers, |transfer| {
                let [first, second] = [2 * transfer, 2 * transfer + 1];
                let factors =
                    a.get(first) | b.get(first) << 1 | a.get(second) << 2 | b.get(second) << 3;
                products[factors as usize] ^ mask(c.get(first), c.get(second))
            })?;
            return Ok(Self { a, b, c }.truncated(count));
        }
        let [mut a, mut b, mut c] = [(); 3].map(|()| Bits::with_capacity(len));
        request(channel, ots, Code::OneOf16, SINGLES_TABLE, transfers, |choice, products| {
            for triple in 0..2 {
                a.push(choice >> (2 * triple) & 1);
                b.push(choice >> (2 * triple + 1) & 1);
                c.push(products >> triple & 1);
            }
        })?;
        Ok(Self { a, b, c }.truncated(count))
    }

    /// The first `count` of them.
    fn truncated(self, count: usize) -> Self {
        if self.a.len() == count {
            return self;
        }
        let [a, b, c] = [&self.a, &self.b, &self.c].map(|bits| bits.slice(0..count));
        Self { a, b, c }
    }
}

impl Pairs {
    /// Makes `count` pairs. IKNP makes each by one 1-of-8 transfer, other kinds by two random transfers, one in each direction:
    ///
    /// | server: `a0, b0, b0', c0, c0'` at random | | client |
    /// |---|---|---|
    /// | | `<-` extension | its choice is `a1, b1, b1'` |
    /// | for each choice `(a0 ^ a1)(b0 ^ b1) ^ c0` and the same with `b', c'`, masked by its pad | `->` 16 bits | unmasks `c1, c1'` |
    ///
    /// # Errors
    /// As [`Channel::send`] and [`Channel::recv`].
    pub fn make(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        if kind != OtKind::Iknp {
            let Crossed { a, b, c } = Crossed::make(channel, ots, kind, count)?;
            return Ok(Self { a, b, c });
        }
        if channel.party() == Party::Server {
            let [a, b0, b1, c0, c1] = [(); 5].map(|()| Bits::random(count, &mut ots.rng));
            let products = product_tables(&PAIR_FACTORS);
            offer(channel, ots, Code::OneOf8, PAIR_TABLE, count, |pair| {
                let factors = a.get(pair) | b0.get(pair) << 1 | b1.get(pair) << 2;
                products[factors as usize] ^ mask(c0.get(pair), c1.get(pair))
            })?;
            return Ok(Self { a, b: [b0, b1], c: [c0, c1] });
        }
        let [mut a, mut b0, mut b1, mut c0, mut c1] = [(); 5].map(|()| Bits::with_capacity(count));
        request(channel, ots, Code::OneOf8, PAIR_TABLE, count, |choice, products| {
            a.push(choice & 1);
            b0.push(choice >> 1 & 1);
            b1.push(choice >> 2);
            c0.push(products & 1);
            c1.push(products >> 1);
        })?;
        Ok(Self { a, b: [b0, b1], c: [c0, c1] })
    }
}

/// Pairs from random 1-of-2 transfers in both directions.
struct Crossed {
    a: Bits,
    b: [Bits; 2],
    c: [Bits; 2],
}

impl Crossed {
    /// Makes `count` pairs. `p_0, p_1` are the last two bits of a transfer's pads, in which the other party chose at random.
    ///
    /// | server: choices `a0`, pads `p_0, p_1` | | client: choices `a1`, pads `q_0, q_1` |
    /// |---|---|---|
    /// | `b0 = p_0 ^ p_1` | `<->` extension, both ways | `b1 = q_0 ^ q_1` |
    /// | `c0 = a0 b0 ^ p_0 ^ q_(a0)` | | `c1 = a1 b1 ^ q_0 ^ p_(a1)` |
    fn make(
        channel: &mut Channel,
        ots: &mut Ots,
        kind: OtKind,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        let mut made = Self {
            a: Bits::with_capacity(count),
            b: [(); 2].map(|()| Bits::with_capacity(count)),
            c: [(); 2].map(|()| Bits::with_capacity(count)),
        };
        let mut lane = channel.lane();
        let code = Code::OneOf2;
        let Ots { sender, receiver, rng, .. } = ots;
        let mut blocks = (0..count).step_by(BLOCK).map(|first| BLOCK.min(count - first));
        let mut ahead = VecDeque::with_capacity(TRIPLE_WINDOW);
        loop {
            while ahead.len() < TRIPLE_WINDOW
                && let Some(count) = blocks.next()
            {
                let (choices, block) =
                    receiver.extend_random(&mut lane, kind, code, (count, rng))?;
                let chosen: Vec<u8> = block.pads().iter().map(|&pad| pad as u8).collect();
                ahead.push_back((choices, Zeroizing::new(chosen)));
            }
            let Some((choices, chosen)) = ahead.pop_front() else { break };
            let count = choices.len();
            let block = sender.extend_random(&mut lane, kind, code, count)?;
            // Of each transfer the bits a, b, b', c, c' from the lowest.
            let mut bits = choices;
            block.for_each(|position, pads| {
                let [zero, one] = [0, 1].map(|w| pads.get(w).map_or(0, |&pad| pad as u8));
                let a = bits[position];
                let b = zero ^ one;
                let c = b & a.wrapping_neg() ^ zero ^ chosen[position];
                bits[position] = a | (b & 3) << 1 | (c & 3) << 3;
            });
            let Self { a, b: [b0, b1], c: [c0, c1] } = &mut made;
            for (bit, made) in (0..).zip([a, b0, b1, c0, c1]) {
                made.extend_from_plane(&*Zeroizing::new(gather(&bits, bit)), count);
            }
        }
        Ok(made)
    }
}

impl Stored for Singles {
    /// How many there are.
    type Shape = usize;

    fn store(self, record: &mut RecordWriter) {
        [&self.a, &self.b, &self.c].into_iter().for_each(|bits| record.bits(bits));
    }

    fn restore(count: usize, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort> {
        Ok(Self { a: record.bits(count)?, b: record.bits(count)?, c: record.bits(count)? })
    }
}

impl Stored for Pairs {
    /// How many there are.
    type Shape = usize;

    fn store(self, record: &mut RecordWriter) {
        record.bits(&self.a);
        self.b.iter().chain(&self.c).for_each(|bits| record.bits(bits));
    }

    fn restore(count: usize, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort> {
        let a = record.bits(count)?;
        let mut both = || Ok([record.bits(count)?, record.bits(count)?]);
        Ok(Self { a, b: both()?, c: both()? })
    }
}

/// The factors of both products, as bits of a choice.
type Factors = [[u32; 2]; 2];

const SINGLE_FACTORS: Factors = [[0, 1], [2, 3]];
const PAIR_FACTORS: Factors = [[0, 1], [0, 2]];

/// For the server's factors: the table of both products for each of the client's factors, 2 bits each.
fn product_tables(factors: &Factors) -> [u64; 16] {
    let mut tables = [0; 16];
    for (server, table) in tables.iter_mut().enumerate() {
        for client in 0..16 {
            let sum = server ^ client;
            for (product, [a, b]) in factors.iter().enumerate() {
                let bit = (sum >> a & sum >> b & 1) as u64;
                *table |= bit << (2 * client + product);
            }
        }
    }
    tables
}

/// Both bits in each of 16 entries.
fn mask(first: u64, second: u64) -> u64 {
    (first * 0x5555_5555) ^ (second * 0xaaaa_aaaa)
}

/// The server's part: for each transfer sends `table(transfer)`, N entries of 2 bits, masked by the pads.
fn offer(
    channel: &mut Channel,
    ots: &mut Ots,
    code: Code,
    table_bits: u32,
    transfers: usize,
    mut table: impl FnMut(usize) -> u64,
) -> Result<(), RuntimeError> {
    for first in (0..transfers).step_by(BLOCK) {
        let count = BLOCK.min(transfers - first);
        let mut message = Packer::with_capacity(packed_len(count, table_bits));
        ots.sender.extend_random(channel, OtKind::Iknp, code, count)?.for_each(|position, pads| {
            let pads = pads.iter().rev().fold(0, |all, &pad| all << 2 | pad as u64 & 3);
            message.push(table(first + position) ^ pads, table_bits);
        });
        channel.answer().send(&message.finish())?;
    }
    Ok(())
}

/// The client's part: calls `f` with each transfer's random choice and the two bits it chose.
fn request(
    channel: &mut Channel,
    ots: &mut Ots,
    code: Code,
    table_bits: u32,
    transfers: usize,
    mut f: impl FnMut(u64, u64),
) -> Result<(), RuntimeError> {
    let mut lane = channel.lane();
    let mut in_flight = VecDeque::with_capacity(TRIPLE_WINDOW);
    for first in (0..transfers).step_by(BLOCK) {
        if in_flight.len() == TRIPLE_WINDOW
            && let Some(block) = in_flight.pop_front()
        {
            unmask(&mut lane, &block, table_bits, &mut f)?;
        }
        let Ots { receiver, rng, .. } = &mut *ots;
        let count = BLOCK.min(transfers - first);
        let (choices, pads) =
            receiver.extend_random(&mut lane, OtKind::Iknp, code, (count, rng))?;
        let pads = pads.pads().iter().map(|&pad| pad as u8 & 3).collect();
        in_flight.push_back((choices, Zeroizing::new(pads)));
    }
    in_flight.into_iter().try_for_each(|block| unmask(&mut lane, &block, table_bits, &mut f))
}

/// Choices of a block of transfers and the pads that they gave.
type Block = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

fn unmask(
    channel: &mut Channel,
    (choices, pads): &Block,
    table_bits: u32,
    f: &mut impl FnMut(u64, u64),
) -> Result<(), RuntimeError> {
    let message = channel.recv(packed_len(choices.len(), table_bits))?;
    let mut tables = Unpacker::new(&message);
    for (&choice, &pad) in choices.iter().zip(&**pads) {
        let entry = tables.next(table_bits) >> (2 * choice) & 3;
        f(choice.into(), entry ^ u64::from(pad));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::test_pair::both_with;
    use copriv_ir::cost::ot;
    use copriv_ir::{Phase, StepId};

    /// The sum of both parties' shares.
    fn open(mut ours: Bits, theirs: &Bits) -> Vec<u64> {
        ours.xor(theirs);
        ours.iter().collect()
    }

    fn assert_products(a: &[u64], b: &[u64], c: &[u64]) {
        assert!((0..a.len()).all(|i| a[i] & b[i] == c[i]));
    }

    fn kinds_and<const N: usize>(counts: [usize; N]) -> impl Iterator<Item = (OtKind, usize)> {
        let kinds = [OtKind::Iknp, OtKind::SoftSpoken4, OtKind::Silent].into_iter();
        kinds.flat_map(move |kind| counts.map(|count| (kind, count)))
    }

    #[test]
    fn singles_are_products() {
        for (kind, count) in kinds_and([0, 1, 2, 3, 301, 6 * 2 * BLOCK + 5]) {
            let expected = ot::singles(kind, count as u64);
            let (server, client) = both_with(1, &expected.ots, |channel, ots| {
                channel.enter(StepId(1), Phase::Offline).expect("nothing is left");
                let made = Singles::make(channel, ots, kind, count).expect("runs");
                channel.enter(StepId(2), Phase::Offline).expect("nothing is left");
                assert_eq!(channel.comm().traffic(StepId(1), Phase::Offline), expected.traffic);
                made
            });
            let [a, b, c] =
                [open(server.a, &client.a), open(server.b, &client.b), open(server.c, &client.c)];
            assert_eq!([a.len(), b.len(), c.len()], [count; 3]);
            assert_products(&a, &b, &c);
            assert!(count < 300 || [&a, &b].iter().all(|x| x.contains(&0) && x.contains(&1)));
        }
    }

    #[test]
    fn pairs_are_products_with_a_common_factor() {
        for (kind, count) in kinds_and([0, 1, 7, 300, 6 * BLOCK + 1]) {
            let expected = ot::pairs(kind, count as u64);
            let (server, client) = both_with(2, &expected.ots, |channel, ots| {
                channel.enter(StepId(1), Phase::Offline).expect("nothing is left");
                let made = Pairs::make(channel, ots, kind, count).expect("runs");
                channel.enter(StepId(2), Phase::Offline).expect("nothing is left");
                assert_eq!(channel.comm().traffic(StepId(1), Phase::Offline), expected.traffic);
                made
            });
            let a = open(server.a, &client.a);
            assert_eq!(a.len(), count);
            let products =
                server.b.into_iter().zip(&client.b).zip(server.c.into_iter().zip(&client.c));
            for ((b0, b1), (c0, c1)) in products {
                assert_products(&a, &open(b0, b1), &open(c0, c1));
            }
        }
    }
}
