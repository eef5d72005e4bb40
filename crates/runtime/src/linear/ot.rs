//! Matrix products by oblivious transfer, streamed in chunks.
//!
//! | chooser, values `c` | | OT sender, vectors `x` |
//! |---|---|---|
//! | bits of a chunk of values | `->` extension | keys of all transfers |
//! | adds `p_0 + c x` to its share | `<-` payload | masks `x` for each bit; subtracts `p_0` from its share |
//!
//! A window of chunks is on its way at any time; neither party holds more of the stream than that. While the
//! session's thread extends and talks, others work on chunks: each adds to a share of its own.

use super::single::{Place, SingleTransfers};
use super::transfer::VectorTransfers;
use crate::ot::{BLOCK, Code, OfferedRows, OtReceiver, OtSender, Plane, ReceiverBlock};
use crate::packing::{Packer, Unpacker};
use crate::threads::Threads;
use crate::{Channel, RuntimeError};
use copriv_ir::cost::OtProduct;
use copriv_ir::cost::streams::CHUNK_WINDOW;
use std::collections::VecDeque;
use std::ops::Range;
use zeroize::Zeroizing;

/// Most chunks that a party works on together. An OT sender may need so many before it answers as many earlier ones, so the
/// chooser asks for twice as many ahead.
const AT_ONCE: usize = CHUNK_WINDOW / 2;

/// The chooser's share, `count x rows x len` modulo `2^64`, of `choices * vectors`.
///
/// `choices` are `count x inner x rows` numbers of `choice_bits` bits; what lies above does not matter.
/// `watch` is called after each chunk.
///
/// # Errors
/// As [`Channel::send`] and [`Channel::recv`].
pub(super) fn choose(
    (channel, threads): (&mut Channel, &Threads),
    receiver: &mut OtReceiver,
    product: OtProduct,
    choices: &[u64],
    watch: &mut dyn FnMut(&Channel),
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    let mut workers = Worker::team(product, threads);
    let at_once = workers.len();
    let mut requests = Worker::new(product);
    let mut lane = channel.lane();
    let mut chunks = chunks(&product);
    let mut in_flight: VecDeque<(Range<usize>, Zeroizing<Vec<u128>>)> = VecDeque::new();
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    let mut jobs: Vec<Chosen> = Vec::new();
    loop {
        let work = |worker: &mut Worker, job: &mut Chosen| worker.choose(job, choices);
        let next = together(threads, (&mut workers, &mut jobs), work, || {
            let mut next = Vec::with_capacity(at_once);
            while next.len() < at_once {
                while in_flight.len() < CHUNK_WINDOW
                    && let Some(chunk) = chunks.next()
                {
                    let wanted = choice_plane(&product, &choices[chunk.clone()]);
                    let wanted = (chunk.len() * product.choice_bits as usize, &wanted[..]);
                    let block = receiver.extend(&mut lane, product.kind, Code::OneOf2, wanted)?;
                    let keys = requests.take_pads(chunk.start, block);
                    in_flight.push_back((chunk, keys));
                }
                let Some((chunk, keys)) = in_flight.pop_front() else { break };
                let mut payload = buffers.pop().unwrap_or_default();
                payload.resize(product.payload_bytes(chunk.len() as u64) as usize, 0);
                lane.recv_into(&mut payload)?;
                watch(&lane);
                next.push(Chosen { chunk, keys, payload });
            }
            Ok::<_, RuntimeError>(next)
        })?;
        if next.is_empty() {
            workers.push(requests);
            return Ok(Worker::share(workers));
        }
        buffers.extend(std::mem::replace(&mut jobs, next).into_iter().map(|job| job.payload));
    }
}

/// The OT sender's share, `count x rows x len` modulo `2^64`, of `choices * vectors`.
///
/// `vectors` are `count x inner x len` reduced ring elements. `watch` is called after each chunk.
///
/// # Errors
/// As [`Channel::send`] and [`Channel::recv`].
pub(super) fn offer(
    (channel, threads): (&mut Channel, &Threads),
    sender: &mut OtSender,
    product: OtProduct,
    vectors: &[u64],
    watch: &mut dyn FnMut(&Channel),
) -> Result<Zeroizing<Vec<u64>>, RuntimeError> {
    let mut workers = Worker::team(product, threads);
    let at_once = workers.len();
    let mut chunks = chunks(&product);
    let mut buffers: Vec<(Zeroizing<Vec<u128>>, Vec<u8>)> = Vec::new();
    let mut receive = |channel: &mut Channel, chunk: Range<usize>, (spare, payload)| {
        let transfers = chunk.len() * product.choice_bits as usize;
        let block = sender.extend(channel, product.kind, Code::OneOf2, transfers)?;
        Ok::<_, RuntimeError>(Offered { chunk, rows: block.take(spare), payload })
    };
    let Some(first) = chunks.next() else { return Ok(Worker::share(workers)) };
    let mut jobs = vec![receive(channel, first, Default::default())?];
    // All payload answers the first extension message and counts as one round with it.
    let mut lane = channel.lane();
    while !jobs.is_empty() {
        let work = |worker: &mut Worker, job: &mut Offered| worker.offer(job, vectors);
        let next = together(threads, (&mut workers, &mut jobs), work, || {
            let next = chunks.by_ref().take(at_once);
            next.map(|chunk| receive(&mut lane, chunk, buffers.pop().unwrap_or_default()))
                .collect::<Result<Vec<_>, _>>()
        })?;
        for job in std::mem::replace(&mut jobs, next) {
            lane.send(&job.payload)?;
            watch(&lane);
            buffers.push((job.rows.into_spare(), job.payload));
        }
    }
    Ok(Worker::share(workers))
}

/// Gives each job to a worker of its own, and does something else `meanwhile` on this thread.
fn together<J: Send, T>(
    threads: &Threads,
    (workers, jobs): (&mut [Worker], &mut [J]),
    work: impl Fn(&mut Worker, &mut J) + Sync,
    meanwhile: impl FnOnce() -> T,
) -> T {
    threads.scope(|scope| {
        let mut pairs = workers.iter_mut().zip(jobs);
        let own = pairs.next();
        for (worker, job) in pairs {
            let work = &work;
            scope.spawn(move |_| work(worker, job));
        }
        let result = meanwhile();
        if let Some((worker, job)) = own {
            work(worker, job);
        }
        result
    })
}

/// A chunk as the chooser has it.
struct Chosen {
    chunk: Range<usize>,
    /// Empty where the vectors have one number.
    keys: Zeroizing<Vec<u128>>,
    payload: Vec<u8>,
}

/// A chunk as the OT sender has it, its payload still to be made.
struct Offered {
    chunk: Range<usize>,
    rows: OfferedRows,
    payload: Vec<u8>,
}

/// What works on one chunk at a time, and adds up a part of the party's share.
struct Worker {
    product: OtProduct,
    transfers: Transfers,
    share: Zeroizing<Vec<u64>>,
}

/// What becomes of the transfers.
enum Transfers {
    Single(SingleTransfers),
    Vectors { transfers: Box<VectorTransfers>, keys: Zeroizing<Vec<[u128; 2]>> },
}

impl Worker {
    fn new(product: OtProduct) -> Self {
        let transfers = if product.len == 1 {
            Transfers::Single(SingleTransfers::new(&product))
        } else {
            let transfers = Box::new(VectorTransfers::new(product));
            Transfers::Vectors { transfers, keys: Zeroizing::default() }
        };
        let size = product.count * product.rows * product.len;
        Self { product, transfers, share: Zeroizing::new(vec![0; size]) }
    }

    /// One for each thread.
    fn team(product: OtProduct, threads: &Threads) -> Vec<Self> {
        (0..threads.count().min(AT_ONCE)).map(|_| Self::new(product)).collect()
    }

    /// The sum of all their shares.
    fn share(workers: Vec<Self>) -> Zeroizing<Vec<u64>> {
        let shares = workers.into_iter().map(|worker| worker.share);
        let sum = |mut sum: Zeroizing<Vec<u64>>, share: Zeroizing<Vec<u64>>| {
            sum.iter_mut().zip(&*share).for_each(|(sum, &x)| *sum = sum.wrapping_add(x));
            sum
        };
        shares.reduce(sum).unwrap_or_default()
    }

    /// Makes the payload of a chunk.
    fn offer(&mut self, job: &mut Offered, vectors: &[u64]) {
        let Self { product, transfers, share } = self;
        let OtProduct { len, choice_bits, .. } = *product;
        let mut payload = Packer::over(std::mem::take(&mut job.payload));
        let places = places(product, job.chunk.start).take(job.chunk.len());
        match transfers {
            Transfers::Single(transfers) => {
                let values = places.map(|(row, vector)| Place { row, number: vectors[vector] });
                transfers.offer(&job.rows, values, share, &mut payload);
            }
            Transfers::Vectors { transfers, keys } => {
                transfers.go_to(job.chunk.start);
                job.rows.keys_to(keys);
                for ((row, vector), keys) in places.zip(keys.chunks(choice_bits as usize)) {
                    let vector = &vectors[vector * len..][..len];
                    let share = &mut share[row * len..][..len];
                    transfers.offer(keys, vector, share, &mut payload);
                }
            }
        }
        job.payload = payload.finish();
    }

    /// What the chooser has to keep of the transfers of a chunk that begins with value number `first`: their keys, or nothing
    /// where their pads can be added to its share at once.
    fn take_pads(&mut self, first: usize, block: ReceiverBlock<'_>) -> Zeroizing<Vec<u128>> {
        match &mut self.transfers {
            Transfers::Single(transfers) => {
                let values = places(&self.product, first).map(|(row, _)| Place { row, number: 0 });
                let count = block.pads().len() / self.product.choice_bits as usize;
                transfers.take_pads(block.pads(), values.take(count), &mut self.share);
                Zeroizing::default()
            }
            Transfers::Vectors { .. } => block.keys(),
        }
    }

    /// Takes in the payload of a chunk.
    fn choose(&mut self, job: &mut Chosen, choices: &[u64]) {
        let Self { product, transfers, share } = self;
        let OtProduct { len, choice_bits, .. } = *product;
        let mut payload = Unpacker::new(&job.payload);
        let values = places(product, job.chunk.start).zip(&choices[job.chunk.clone()]);
        match transfers {
            Transfers::Single(transfers) => {
                let values = values.map(|((row, _), &number)| Place { row, number });
                transfers.choose(values, share, &mut payload);
            }
            Transfers::Vectors { transfers, .. } => {
                transfers.go_to(job.chunk.start);
                for (((row, _), &value), keys) in values.zip(job.keys.chunks(choice_bits as usize))
                {
                    let share = &mut share[row * len..][..len];
                    transfers.choose(keys, value, share, &mut payload);
                }
            }
        }
    }
}

/// The bits of a chunk's values one after the other, least significant first.
fn choice_plane(product: &OtProduct, choices: &[u64]) -> Zeroizing<[Plane; 1]> {
    let mut packer = Packer::with_capacity(BLOCK / 8);
    choices.iter().for_each(|&value| packer.push(value, product.choice_bits));
    let bytes = Zeroizing::new(packer.finish());
    let mut plane = Zeroizing::new([[0; BLOCK / 128]]);
    for (word, bytes) in plane.as_flattened_mut().iter_mut().zip(bytes.chunks(16)) {
        let mut whole = [0; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u128::from_le_bytes(whole);
    }
    plane
}

/// The values of each chunk.
fn chunks(product: &OtProduct) -> impl Iterator<Item = Range<usize>> + use<> {
    let values = product.values() as usize;
    let size = product.values_in_chunk() as usize;
    (0..values).step_by(size).map(move |first| first..values.min(first + size))
}

/// Of each value from number `first` on: the row of the result to which it contributes, and the number of its vector.
fn places(product: &OtProduct, first: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let OtProduct { inner, rows, .. } = *product;
    let (mut vector, mut row) = (first / rows, first % rows);
    let mut of_matrix = vector / inner * rows;
    std::iter::repeat_with(move || {
        let place = (of_matrix + row, vector);
        row += 1;
        if row == rows {
            (vector, row) = (vector + 1, 0);
            if vector.is_multiple_of(inner) {
                of_matrix += rows;
            }
        }
        place
    })
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
    fn run(
        product: OtProduct,
        threads: usize,
        seed: u8,
    ) -> (Vec<u64>, Vec<u64>, copriv_ir::Traffic) {
        let OtProduct { chooser, count, inner, rows, len, choice_bits, ring, .. } = product;
        let mut random = Prg::from_seed(&[seed; 16]);
        let mut draw = |n: usize| -> Vec<u64> { (0..n).map(|_| random.next_u64()).collect() };
        let unused = 64 - choice_bits;
        let choices: Vec<u64> = draw(count * inner * rows)
            .iter()
            .map(|x| ring.from_signed((x << unused).cast_signed() >> unused))
            .collect();
        let vectors: Vec<u64> = draw(count * inner * len).iter().map(|&x| ring.reduce(x)).collect();
        let threads = &Threads::new(threads).expect("threads start");
        let (server, client) = both_with(seed, &product.offline().ots, |channel, ots| {
            channel.enter(StepId(1), Phase::Offline).expect("nothing is left over");
            let share = if channel.party() == chooser {
                choose((channel, threads), &mut ots.receiver, product, &choices, &mut |_| ())
            } else {
                offer((channel, threads), &mut ots.sender, product, &vectors, &mut |_| ())
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
            (threads, seed) in (1usize..=3, any::<u8>()),
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
            let (sum, expected, measured) = run(product, threads, seed);
            prop_assert_eq!(sum, expected);
            prop_assert_eq!(measured, product.offline().traffic);
        }
    }

    #[test]
    fn streams_longer_than_the_window_are_two_rounds() {
        let ring = Ring::new(41).expect("in range");
        for (chooser, rows, len, threads) in
            [(Party::Client, 1200, 2, 1), (Party::Client, 1200, 2, 3), (Party::Server, 6, 9000, 20)]
        {
            let (count, inner, choice_bits) = (2, 4, 41);
            let kind = OtKind::Iknp;
            let product = OtProduct { kind, chooser, count, inner, rows, len, choice_bits, ring };
            assert!(product.values() > 2 * CHUNK_WINDOW as u64 * product.values_in_chunk());
            let (sum, expected, measured) = run(product, threads, 3);
            assert_eq!(sum, expected);
            assert_eq!(measured, product.offline().traffic);
            assert_eq!(measured.rounds, 2);
        }
    }
}
