//! Matrix products by oblivious transfer, streamed in chunks.
//!
//! | chooser, values `c` | | OT sender, vectors `x` |
//! |---|---|---|
//! | bits of a chunk of values | `->` extension | keys of all transfers |
//! | adds `p_0 + c x` to its share | `<-` payload | masks `x` for each bit; subtracts `p_0` from its share |
//!
//! A window of chunks is on its way at any time; neither party holds more of the stream than that.

use super::transfer::VectorTransfers;
use crate::ot::{Code, OtReceiver, OtSender};
use crate::packing::{Packer, Unpacker};
use crate::{Channel, RuntimeError};
use copriv_ir::cost::OtProduct;
use std::collections::VecDeque;
use std::ops::Range;
use zeroize::Zeroizing;

/// Chunks whose payload the chooser waits for at a time.
const WINDOW: usize = 4;

/// The chooser's share, `count x rows x len` modulo `2^64`, of `choices * vectors`.
///
/// `choices` are `count x inner x rows` numbers of `choice_bits` bits; what lies above does not matter.
/// `watch` is called after each chunk.
///
/// # Errors
/// As [`Channel::send`] and [`Channel::recv`].
pub(super) fn choose(
    channel: &mut Channel,
    receiver: &mut OtReceiver,
    product: OtProduct,
    choices: &[u64],
    watch: &mut dyn FnMut(&Channel),
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    let mut chooser = Chooser {
        transfers: VectorTransfers::new(product),
        product,
        choices,
        share: empty_share(&product),
    };
    let mut lane = channel.lane();
    let mut in_flight: VecDeque<(Range<usize>, Zeroizing<Vec<u128>>)> =
        VecDeque::with_capacity(WINDOW);
    for chunk in chunks(&product) {
        if in_flight.len() == WINDOW
            && let Some((chunk, keys)) = in_flight.pop_front()
        {
            chooser.take_in(&mut lane, chunk, &keys)?;
            watch(&lane);
        }
        let bits = chooser.bits(chunk.clone());
        let keys = receiver.extend(&mut lane, product.kind, Code::OneOf2, &bits)?.keys();
        in_flight.push_back((chunk, keys));
    }
    for (chunk, keys) in in_flight {
        chooser.take_in(&mut lane, chunk, &keys)?;
        watch(&lane);
    }
    Ok(chooser.share)
}

/// The OT sender's share, `count x rows x len` modulo `2^64`, of `choices * vectors`.
///
/// `vectors` are `count x inner x len` reduced ring elements. `watch` is called after each chunk.
///
/// # Errors
/// As [`Channel::send`] and [`Channel::recv`].
pub(super) fn offer(
    channel: &mut Channel,
    sender: &mut OtSender,
    product: OtProduct,
    vectors: &[u64],
    watch: &mut dyn FnMut(&Channel),
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    let mut transfers = VectorTransfers::new(product);
    let mut share = empty_share(&product);
    let mut chunks = chunks(&product);
    let Some(mut chunk) = chunks.next() else { return Ok(share) };
    let transfers_of = |chunk: &Range<usize>| chunk.len() * product.choice_bits as usize;
    let mut keys = sender.extend(channel, product.kind, Code::OneOf2, transfers_of(&chunk))?.keys();
    // All payload answers the first extension message and counts as one round with it.
    let mut lane = channel.lane();
    loop {
        let mut payload = Packer::with_capacity(product.payload_bytes(chunk.len() as u64) as usize);
        for (value, keys) in chunk.clone().zip(keys.chunks(product.choice_bits as usize)) {
            let vector = &vectors[value / product.rows * product.len..][..product.len];
            transfers.offer(keys, vector, row(&mut share, &product, value), &mut payload);
        }
        lane.send(&payload.finish())?;
        watch(&lane);
        let Some(next) = chunks.next() else { return Ok(share) };
        keys = sender.extend(&mut lane, product.kind, Code::OneOf2, transfers_of(&next))?.keys();
        chunk = next;
    }
}

struct Chooser<'a> {
    transfers: VectorTransfers,
    product: OtProduct,
    choices: &'a [u64],
    share: Zeroizing<Vec<u64>>,
}

impl Chooser<'_> {
    /// The bits of a chunk's values, a byte each, least significant first.
    fn bits(&self, chunk: Range<usize>) -> Zeroizing<Vec<u8>> {
        let width = self.product.choice_bits as usize;
        let mut all = Zeroizing::new(vec![0; chunk.len() * width]);
        for (bits, value) in all.chunks_exact_mut(width).zip(&self.choices[chunk]) {
            for (at, bit) in bits.iter_mut().enumerate() {
                *bit = (value >> at & 1) as u8;
            }
        }
        all
    }

    /// Receives the payload of a chunk.
    fn take_in(
        &mut self,
        channel: &mut Channel,
        chunk: Range<usize>,
        keys: &[u128],
    ) -> Result<(), RuntimeError> {
        let payload = channel.recv(self.product.payload_bytes(chunk.len() as u64) as usize)?;
        let mut payload = Unpacker::new(&payload);
        for (value, keys) in chunk.zip(keys.chunks(self.product.choice_bits as usize)) {
            let share = row(&mut self.share, &self.product, value);
            self.transfers.choose(keys, self.choices[value], share, &mut payload);
        }
        Ok(())
    }
}

/// The values of each chunk.
fn chunks(product: &OtProduct) -> impl Iterator<Item = Range<usize>> + use<> {
    let values = product.values() as usize;
    let size = product.values_in_chunk() as usize;
    (0..values).step_by(size).map(move |first| first..values.min(first + size))
}

/// The row of the result to which value number `value` contributes.
fn row<'a>(share: &'a mut [u64], product: &OtProduct, value: usize) -> &'a mut [u64] {
    let OtProduct { inner, rows, len, .. } = *product;
    let row = value / (inner * rows) * rows + value % rows;
    &mut share[row * len..][..len]
}

fn empty_share(product: &OtProduct) -> Zeroizing<Vec<u64>> {
    Zeroizing::new(vec![0; product.count * product.rows * product.len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use crate::ot::test_pair::both_with;
    use copriv_ir::lowering::mat_mul;
    use copriv_ir::{MatMulShape, OtKind, Party, Phase, Ring, StepId};
    use proptest::prelude::*;

    /// Runs a product; the sum of the shares, the product in clear, and the server's measured traffic.
    fn run(product: OtProduct, seed: u8) -> (Vec<u64>, Vec<u64>, copriv_ir::Traffic) {
        let OtProduct { chooser, count, inner, rows, len, choice_bits, ring, .. } = product;
        let mut random = Prg::from_seed(&[seed; 16]);
        let mut draw = |n: usize| -> Vec<u64> { (0..n).map(|_| random.next_u64()).collect() };
        let unused = 64 - choice_bits;
        let choices: Vec<u64> = draw(count * inner * rows)
            .iter()
            .map(|x| ring.from_signed((x << unused).cast_signed() >> unused))
            .collect();
        let vectors: Vec<u64> = draw(count * inner * len).iter().map(|&x| ring.reduce(x)).collect();
        let (server, client) = both_with(seed, &product.offline().ots, |channel, ots| {
            channel.enter(StepId(1), Phase::Offline).expect("nothing is left over");
            let share = if channel.party() == chooser {
                choose(channel, &mut ots.receiver, product, &choices, &mut |_| ())
            } else {
                offer(channel, &mut ots.sender, product, &vectors, &mut |_| ())
            };
            let share = share.expect("the parties are honest");
            channel.flush().expect("the peer is there");
            (share, channel.comm().traffic(StepId(1), Phase::Offline))
        });
        assert_eq!(server.1, client.1, "both parties measure the same");
        let sum = server.0.iter().zip(client.0.iter()).map(|(&s, &t)| ring.add(s, t)).collect();
        let shape = MatMulShape { count, m: rows, k: inner, n: len };
        let mut transposed = Vec::new();
        for choices in choices.chunks(inner * rows) {
            for i in 0..rows {
                transposed.extend(choices.iter().skip(i).step_by(rows));
            }
        }
        (sum, mat_mul(ring, shape, &transposed, &vectors), server.1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_add_up_to_the_product(
            server_chooses: bool,
            (bits, choice_bits) in (1u32..=64, 1u32..=64),
            (count, inner) in (1usize..=3, 1usize..=6),
            (rows, len) in (1usize..=6, 1usize..=20),
            kind in prop::sample::select(&OtKind::ALL),
            seed: u8,
        ) {
            let product = OtProduct {
                kind,
                chooser: if server_chooses { Party::Server } else { Party::Client },
                count,
                inner,
                rows,
                len,
                choice_bits: choice_bits.min(bits),
                ring: Ring::new(bits).expect("in range"),
            };
            let (sum, expected, measured) = run(product, seed);
            prop_assert_eq!(sum, expected);
            prop_assert_eq!(measured, product.offline().traffic);
        }
    }

    #[test]
    fn streams_longer_than_the_window_are_two_rounds() {
        let ring = Ring::new(41).expect("in range");
        for (chooser, rows, len) in [(Party::Client, 300, 2), (Party::Server, 3, 9000)] {
            let (count, inner, choice_bits) = (2, 4, 41);
            let kind = OtKind::Iknp;
            let product = OtProduct { kind, chooser, count, inner, rows, len, choice_bits, ring };
            assert!(product.values() > 2 * WINDOW as u64 * product.values_in_chunk());
            let (sum, expected, measured) = run(product, 3);
            assert_eq!(sum, expected);
            assert_eq!(measured, product.offline().traffic);
            assert_eq!(measured.rounds, 2);
        }
    }
}
