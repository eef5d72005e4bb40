//! Exact sizes of prepared inferences that wait on disk.
//!
//! A record's payload is one stream of bits: what each party keeps of each step, in the order of the plan,
//! without gaps. What is public (rings, counts, layouts) follows from the plan and is not stored.

use super::{ArgMaxRound, ComparisonLayout, Wrap, WrapMethod, extension_wrap, truncation_wraps};
use crate::{
    Activation, Comparison, ConvGeometry, ExtendMethod, Party, Plan, PoolWindow, Ring, Shape,
    SidePool, Step, StepOp, TruncateMethod,
};

/// Bytes before the payload of a record: who made it, for which plan, which inference, and digests.
pub const RECORD_HEADER: u64 = 208;

/// Bytes of the payload that `party` keeps for one prepared inference.
#[must_use]
pub fn record(plan: &Plan, party: Party) -> u64 {
    let bits: u64 = plan.steps().iter().map(|step| step_bits(plan, step, party)).sum();
    bits.div_ceil(8)
}

/// Bits that `party` keeps for one step.
fn step_bits(plan: &Plan, step: &Step, party: Party) -> u64 {
    let Some(input) = step.inputs.first().map(|&value| plan.fact(value)) else { return 0 };
    let (ring, elements) = (input.ring, step.op.count(input.shape) as u64);
    match &step.op {
        StepOp::Linear(linear_step) => {
            let masks = plan.mask_source(step.id) == step.id;
            linear(&linear_step.geometry, (input.shape, masks), ring, party)
        }
        StepOp::Truncate { shift, method } => truncate(ring, *shift, elements, *method, party),
        StepOp::Extend { ring: wider, method } => extend(ring, *wider, elements, *method, party),
        StepOp::Activation { function, comparison, .. } => {
            activation(*function, ring, elements, comparison, party)
        }
        StepOp::MaxPool { window, comparison } => {
            max_pool(*window, input.shape, ring, comparison, party)
        }
        StepOp::ArgMax { comparison } => argmax(ring, input.shape.elements(), comparison, party),
        StepOp::Input | StepOp::Add | StepOp::SumPool | StepOp::Reduce { .. } | StepOp::Reveal => 0,
    }
}

/// Bits of a linear step's correlation: `S` at the server, `T` at the client, and `R` where the step has a mask of its own.
#[must_use]
pub fn linear(
    geometry: &ConvGeometry,
    (input, masks): (Shape, bool),
    ring: Ring,
    party: Party,
) -> u64 {
    let outputs = geometry.output_shape(input).elements() as u64;
    let elements = match party {
        Party::Server => outputs,
        Party::Client if masks => input.elements() as u64 + outputs,
        Party::Client => outputs,
    };
    elements * u64::from(ring.bits())
}

/// Bits of a truncation of `count` elements.
#[must_use]
pub fn truncate(ring: Ring, shift: u32, count: u64, how: TruncateMethod, party: Party) -> u64 {
    truncation_wraps(ring, shift, how).iter().map(|w| wrap(w, count, party)).sum()
}

/// Bits of an extension of `count` elements.
#[must_use]
pub fn extend(from: Ring, to: Ring, count: u64, how: ExtendMethod, party: Party) -> u64 {
    extension_wrap(from, to, how).map_or(0, |w| wrap(&w, count, party))
}

/// Bits of the wraps of `count` elements.
fn wrap(wrap: &Wrap, count: u64, party: Party) -> u64 {
    let compared = match &wrap.method {
        WrapMethod::Compare(how) => {
            comparison(&ComparisonLayout::new(wrap.bits, how), count, party)
        }
        WrapMethod::KnownSign(_) => 0,
    };
    compared + bit_product(wrap.product_bits(), count)
}

/// Bits of an activation on `count` elements.
#[must_use]
pub fn activation(
    function: Activation,
    ring: Ring,
    count: u64,
    how: &Comparison,
    party: Party,
) -> u64 {
    let count = match function {
        Activation::Relu => count,
        Activation::Relu6 => 2 * count,
    };
    let layout = ComparisonLayout::new(ring.bits() - 1, how);
    comparison(&layout, count, party) + multiplexer(ring, count)
}

/// Bits of the ReLUs of max pooling.
#[must_use]
pub fn max_pool(
    window: PoolWindow,
    input: Shape,
    ring: Ring,
    how: &Comparison,
    party: Party,
) -> u64 {
    let sides = window.sides(input);
    let rounds = sides.iter().flat_map(SidePool::matches);
    rounds.map(|n| activation(Activation::Relu, ring, n as u64, how, party)).sum()
}

/// Bits of the comparisons and selections behind an argmax of `count` elements.
#[must_use]
pub fn argmax(ring: Ring, count: usize, how: &Comparison, party: Party) -> u64 {
    let layout = ComparisonLayout::new(ring.bits() - 1, how);
    let round = |round: ArgMaxRound| {
        let matches = round.matches as u64;
        let bits = round.value_bits + round.index_bits;
        comparison(&layout, matches, party) + selection(bits, matches)
    };
    ArgMaxRound::all(ring, count).into_iter().map(round).sum()
}

/// Bits of `count` comparisons: leaf tables' pads at the server, choices and their pads at the client, or
/// one-time truth tables and what moves them at both; triples at both.
#[must_use]
pub fn comparison(layout: &ComparisonLayout, count: u64, party: Party) -> u64 {
    let digits = layout.digits().iter().enumerate();
    let entries = digits.map(|(index, &w)| (w, u64::from(ComparisonLayout::entry_bits(index, w))));
    let leaves: u64 = match party {
        _ if layout.tables() => {
            let table = |&width: &u32| if width == 1 { 4 } else { 2 << (2 * width) };
            u64::from(layout.bits()) + layout.digits().iter().map(table).sum::<u64>()
        }
        Party::Server => entries.map(|(width, bits)| bits << width).sum(),
        Party::Client => u64::from(layout.bits()) + entries.map(|(_, bits)| bits).sum::<u64>(),
    };
    let triples = singles(count * layout.singles() as u64) + pairs(count * layout.pairs() as u64);
    count * leaves + triples
}

/// Bits of single triples: three shares each.
#[must_use]
pub const fn singles(count: u64) -> u64 {
    3 * count
}

/// Bits of pairs of triples: five shares each.
#[must_use]
pub const fn pairs(count: u64) -> u64 {
    5 * count
}

/// Bits of `count` products of a bit and a number: a choice and its pad, and both pads of the peer's.
#[must_use]
pub fn multiplexer(ring: Ring, count: u64) -> u64 {
    count * (1 + 3 * u64::from(ring.bits()))
}

/// Bits of `count` selections among numbers of `bits` bits together.
#[must_use]
pub const fn selection(bits: u32, count: u64) -> u64 {
    if bits == 0 { 0 } else { count * (1 + 3 * bits as u64) }
}

/// Bits of `count` products of one bit of each party, shared in `bits` bits: a factor and a share of a product.
#[must_use]
pub const fn bit_product(bits: u32, count: u64) -> u64 {
    if bits == 0 { 0 } else { count * (1 + bits as u64) }
}
