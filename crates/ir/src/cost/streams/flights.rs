//! The messages of the online phase: bytes from client to server and back that leave together.

use crate::cost::{
    ArgMaxRound, ComparisonLayout, Wrap, WrapMethod, extension_wrap, packed, truncation_wraps,
};
use crate::{Activation, Comparison, Plan, Ring, SidePool, Step, StepOp};

type Flight = [u64; 2];

/// The messages of a step, one after the other.
pub(super) fn step(plan: &Plan, step: &Step) -> Vec<Flight> {
    let Some(fact) = step.inputs.first().map(|&value| plan.fact(value)) else { return vec![] };
    let (ring, count) = (fact.ring, fact.shape.elements() as u64);
    let values = packed(count, ring.bits().into());
    match &step.op {
        StepOp::Linear(_) if plan.mask_source(step.id) != step.id => vec![],
        StepOp::Linear(_) => vec![[values, 0]],
        StepOp::Reveal => vec![[0, values]],
        StepOp::Truncate { shift, method } => {
            wraps(&truncation_wraps(ring, *shift, *method), count)
        }
        StepOp::Extend { ring: wider, method } => {
            wraps(extension_wrap(ring, *wider, *method).as_slice(), count)
        }
        StepOp::Activation { function, comparison } => {
            let count = match function {
                Activation::Relu => count,
                Activation::Relu6 => 2 * count,
            };
            selected(comparison, ring, (count, ring.bits()))
        }
        StepOp::MaxPool { window, comparison } => {
            let sides = window.sides(fact.shape);
            let rounds = sides.iter().flat_map(SidePool::matches);
            rounds.flat_map(|n| selected(comparison, ring, (n as u64, ring.bits()))).collect()
        }
        StepOp::ArgMax { comparison } => {
            let round = |round: ArgMaxRound| {
                let bits = round.value_bits + round.index_bits;
                selected(comparison, ring, (round.matches as u64, bits))
            };
            ArgMaxRound::all(ring, fact.shape.elements()).into_iter().flat_map(round).collect()
        }
        StepOp::Input | StepOp::Add | StepOp::SumPool | StepOp::Reduce { .. } => vec![],
    }
}

/// Signs of `count` elements, then their products with numbers of `bits` bits.
fn selected(comparison: &Comparison, ring: Ring, (count, bits): (u64, u32)) -> Vec<Flight> {
    let mut flights = compared(&ComparisonLayout::new(ring.bits() - 1, comparison), count);
    if bits > 0 {
        flights.extend([packed(count, 1), packed(count, bits.into())].map(|bytes| [bytes; 2]));
    }
    flights
}

fn compared(layout: &ComparisonLayout, count: u64) -> Vec<Flight> {
    let numbers = packed(count, layout.bits().into());
    let mut flights = match layout.tables() {
        true => vec![[numbers; 2]],
        false => vec![[numbers, 0], [0, packed(count, layout.table_bits().into())]],
    };
    let opening =
        |&merges: &usize| [packed(count, ComparisonLayout::opening_bits(merges).into()); 2];
    flights.extend(layout.levels().iter().map(opening));
    flights
}

/// Comparisons side by side, then products of private bits side by side.
fn wraps(wraps: &[Wrap], count: u64) -> Vec<Flight> {
    let (mut flights, mut products) = (Vec::new(), 0);
    for wrap in wraps {
        if let WrapMethod::Compare(how) = &wrap.method {
            flights = beside(flights, compared(&ComparisonLayout::new(wrap.bits, how), count));
        }
        products += if wrap.product_bits() > 0 { packed(count, 1) } else { 0 };
    }
    flights.push([products; 2]);
    flights
}

fn beside(mut flights: Vec<Flight>, others: Vec<Flight>) -> Vec<Flight> {
    flights.resize(flights.len().max(others.len()), [0, 0]);
    for (flight, other) in flights.iter_mut().zip(others) {
        flight.iter_mut().zip(other).for_each(|(bytes, other)| *bytes += other);
    }
    flights
}
