//! The order in which the parties send and wait.
//!
//! Bytes and rounds say what is sent and which message depends on which; they do not say that a party takes in the answers to
//! one request before it makes the next. This does, block by block, as the runtime's loops have it.

use super::ot::{self, BLOCK, Choices};
use super::{
    ArgMaxRound, ComparisonLayout, OtProduct, SessionCost, Wrap, WrapMethod, extension_wrap,
    packed, truncation_wraps,
};
use crate::{
    Activation, Comparison, Correlation, LinearStep, OtKind, Party, Plan, Ring, Shape, SidePool,
    Step, StepId, StepOp,
};

/// Blocks that go both ways, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Who waits for whom.
    pub order: Order,
    /// Blocks that a party sends before it waits for what the other sends back.
    pub window: usize,
    /// Bytes of each block, from client to server and back; nobody waits for what is empty.
    pub blocks: Vec<[u64; 2]>,
}

/// Who waits for whom in a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both send what depends on nothing.
    Crossing,
    /// One asks, the other answers each block, `lag` blocks late.
    Asks {
        /// Who asks.
        party: Party,
        /// Blocks that the other takes in before it answers the one before them.
        lag: usize,
    },
}

/// What a session's first inference of `plan` sends offline, step by step, in the order of both parties' programs
/// ([`Plan::offline_order`]).
#[must_use]
pub fn offline(plan: &Plan) -> Vec<(StepId, Vec<Stream>)> {
    let mut session = SessionCost::new(plan);
    let step = |step: &Step| {
        let ots = super::step_cost(plan, step).0.ots;
        let filled = session.fill(&ots);
        let filled = [filled.client_to_server, filled.server_to_client];
        let mut streams = vec![Stream { order: Order::Crossing, window: 1, blocks: vec![filled] }];
        streams.extend(step_streams(plan, step));
        streams.retain(|stream| stream.blocks.iter().any(|block| *block != [0, 0]));
        (step.id, streams)
    };
    plan.offline_order().into_iter().map(step).collect()
}

/// What an inference of `plan` sends online, step by step: one stream a message, or two that cross.
#[must_use]
pub fn online(plan: &Plan) -> Vec<(StepId, Vec<Stream>)> {
    let step = |step: &Step| {
        let stream = |block| Stream { order: Order::Crossing, window: 1, blocks: vec![block] };
        (step.id, super::step_cost(plan, step).1.blocks().map(stream).collect())
    };
    plan.steps().iter().map(step).collect()
}

/// Blocks of products of two parties' bits that are asked for ahead.
pub const PRODUCT_WINDOW: usize = 4;

/// Blocks of one-time truth tables that are asked for ahead.
pub const TABLE_WINDOW: usize = 4;

/// Blocks of bit triples that are asked for, or sent, ahead: enough to keep a link of some hundred megabits a second busy
/// across a continent.
pub const TRIPLE_WINDOW: usize = 32;

/// Chunks of a matrix product that are asked for ahead.
pub const CHUNK_WINDOW: usize = 16;

fn step_streams(plan: &Plan, step: &Step) -> Vec<Stream> {
    let Some(fact) = step.inputs.first().map(|&value| plan.fact(value)) else { return vec![] };
    let (ring, count) = (fact.ring, step.op.count(fact.shape) as u64);
    match &step.op {
        StepOp::Linear(linear) => linear_streams(plan, step, linear, fact.shape, ring),
        StepOp::Truncate { shift, method } => {
            wraps(&truncation_wraps(ring, *shift, *method), count)
        }
        StepOp::Extend { ring: wider, method } => {
            wraps(extension_wrap(ring, *wider, *method).as_slice(), count)
        }
        StepOp::Activation { function, comparison, .. } => {
            let count = match function {
                Activation::Relu => count,
                Activation::Relu6 => 2 * count,
            };
            relus(comparison, ring, count)
        }
        StepOp::MaxPool { window, comparison } => {
            let sides = window.sides(fact.shape);
            let rounds = sides.iter().flat_map(SidePool::matches);
            rounds.flat_map(|matches| relus(comparison, ring, matches as u64)).collect()
        }
        StepOp::ArgMax { comparison } => {
            let round = |round: ArgMaxRound| {
                let matches = round.matches as u64;
                let selected = if round.value_bits + round.index_bits > 0 { matches } else { 0 };
                signs(comparison, ring, (matches, selected))
            };
            ArgMaxRound::all(ring, fact.shape.elements()).into_iter().flat_map(round).collect()
        }
        StepOp::Input | StepOp::Add | StepOp::SumPool | StepOp::Reduce { .. } | StepOp::Reveal => {
            vec![]
        }
    }
}

fn linear_streams(
    plan: &Plan,
    step: &Step,
    linear: &LinearStep,
    input: Shape,
    ring: Ring,
) -> Vec<Stream> {
    match linear.correlation {
        Correlation::Ot { kind, chooser } => {
            let product = OtProduct::new(linear, (kind, chooser), input, ring);
            product.iter().map(product_stream).collect()
        }
        Correlation::Lattice(_) => {
            let lattice = plan.lattice_plan();
            let upload = lattice.iter().flat_map(|lattice| {
                let number = lattice.steps.iter().position(|layer| layer.id() == step.id);
                number.map(|number| lattice.upload_bytes(number))
            });
            upload.map(|bytes| asks(Party::Client, (1, 0), vec![[bytes, 0]])).collect()
        }
        Correlation::Reply(_) => {
            let reply = plan.reply_plan();
            let bytes = reply.and_then(|reply| Some(reply.bytes(reply.number(step.id)?)));
            bytes.map(|bytes| asks(Party::Client, (1, 0), vec![bytes])).into_iter().collect()
        }
    }
}

/// The OT sender, on one thread, takes in one chunk before it answers the one before.
fn product_stream(product: &OtProduct) -> Stream {
    let block = |values| {
        let (asked, answered) = (product.extension_bytes(values), product.payload_bytes(values));
        match product.chooser {
            Party::Client => [asked, answered],
            Party::Server => [answered, asked],
        }
    };
    let blocks = cut(product.values(), product.values_in_chunk()).map(block);
    asks(product.chooser, (CHUNK_WINDOW, 1), blocks.collect())
}

fn relus(comparison: &Comparison, ring: Ring, count: u64) -> Vec<Stream> {
    signs(comparison, ring, (count, count))
}

/// Products of shared bits with numbers, then signs.
fn signs(comparison: &Comparison, ring: Ring, (signs, products): (u64, u64)) -> Vec<Stream> {
    let mut streams = vec![crossing(comparison.ot, products, 1)];
    streams.extend(comparisons(&ComparisonLayout::new(ring.bits() - 1, comparison), signs));
    streams
}

fn wraps(wraps: &[Wrap], count: u64) -> Vec<Stream> {
    let one = |wrap: &Wrap| {
        let compared = match &wrap.method {
            WrapMethod::Compare(how) => comparisons(&ComparisonLayout::new(wrap.bits, how), count),
            WrapMethod::KnownSign(_) => vec![],
        };
        let (kind, bits) = (wrap.ot(), wrap.product_bits());
        let count = if bits == 0 { 0 } else { count };
        let block = |n| [extension(kind, n, 1), packed(n, bits.into())];
        let products =
            asks(Party::Client, (PRODUCT_WINDOW, 0), cut(count, BLOCK).map(block).collect());
        compared.into_iter().chain([products])
    };
    wraps.iter().flat_map(one).collect()
}

fn comparisons(layout: &ComparisonLayout, count: u64) -> Vec<Stream> {
    let kind = layout.ot();
    let leaves = layout.runs().into_iter().map(|(width, digits)| {
        let (leaves, bits) = (count * digits as u64, u64::from(width));
        let (blocks, window): (Vec<_>, _) = if layout.tables() {
            let half = if width == 1 { 0 } else { 1 << (2 * bits) };
            let block = |n| [extension(kind, n * bits, 1), packed(n * bits, half)];
            (cut(leaves, BLOCK / bits).map(block).collect(), TABLE_WINDOW)
        } else {
            (cut(leaves, BLOCK).map(|n| [extension(kind, n, width), 0]).collect(), 1)
        };
        asks(Party::Client, (window, 0), blocks)
    });
    let (singles, pairs) = (count * layout.singles() as u64, count * layout.pairs() as u64);
    let triples = match kind {
        OtKind::Iknp => [
            iknp_tables(singles.div_ceil(2), 4, ot::SINGLES_TABLE),
            iknp_tables(pairs, 3, ot::PAIR_TABLE),
        ],
        _ => [singles, pairs].map(|count| crossing(kind, count, TRIPLE_WINDOW)),
    };
    leaves.chain(triples).collect()
}

fn iknp_tables(transfers: u64, bits: u32, table: u32) -> Stream {
    let block = |n| [extension(OtKind::Iknp, n, bits), packed(n, table.into())];
    asks(Party::Client, (TRIPLE_WINDOW, 0), cut(transfers, BLOCK).map(block).collect())
}

/// Random 1-of-2 transfers in each direction.
fn crossing(kind: OtKind, count: u64, window: usize) -> Stream {
    let blocks = cut(count, BLOCK).map(|n| [extension(kind, n, 1); 2]).collect();
    Stream { order: Order::Crossing, window, blocks }
}

fn asks(party: Party, (window, lag): (usize, usize), blocks: Vec<[u64; 2]>) -> Stream {
    Stream { order: Order::Asks { party, lag }, window, blocks }
}

fn extension(kind: OtKind, transfers: u64, bits: u32) -> u64 {
    ot::extension(kind, Choices::Random, transfers, bits)
}

/// The sizes of the blocks of `count` things.
fn cut(count: u64, block: u64) -> impl Iterator<Item = u64> {
    let block = block.max(1);
    (0..count.div_ceil(block)).map(move |number| block.min(count - number * block))
}
