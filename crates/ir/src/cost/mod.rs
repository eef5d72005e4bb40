//! What a plan costs: exact bytes and rounds of our protocols, as `docs/protocols.md` sets them down.

mod argmax;
mod comparison;
mod flights;
mod lattice;
mod linear;
mod nonlinear;
mod offline;
pub mod oracle;
pub mod ot;
mod session;
mod silent;
pub mod stored;
pub mod streams;
mod work;
mod wrap;

pub use argmax::{ArgMaxRound, argmax, selection};
pub use comparison::ComparisonLayout;
pub use flights::{Clocks, Flights};
pub use linear::{OtProduct, linear};
pub use nonlinear::{activation, drelu, max_pool, multiplexer, reveal};
pub use offline::{Offline, OtUse};
pub use session::{SessionCost, handshake};
pub use silent::{Expansion, Growth, SilentPool, SilentSet};
pub use work::{Work, hint_work, linear_work, offline_work, reply_work, step_work};
pub use wrap::{
    Wrap, WrapMethod, bit_product, extend, extension_wrap, truncate, truncation_wraps, wraps,
};

use crate::{CommTable, Plan, Step, StepOp};

/// Bytes of `count` values of `bits` bits, packed without gaps.
#[must_use]
pub const fn packed(count: u64, bits: u64) -> u64 {
    (count * bits).div_ceil(8)
}

/// Traffic of one inference in a fresh session, by step and phase, to the byte.
#[must_use]
pub fn plan(plan: &Plan) -> CommTable {
    let mut session = SessionCost::new(plan);
    let mut table = session.setup();
    for (step, phase, traffic) in session.inference(plan).entries() {
        table.book(step, phase, traffic);
    }
    table
}

/// What all steps of a plan draw from the session's OT extensions in one inference.
#[must_use]
pub fn ot_use(plan: &Plan) -> OtUse {
    plan.steps().iter().map(|step| step_cost(plan, step).0.ots).sum()
}

/// What one step takes offline and online.
#[must_use]
pub fn step_cost(plan: &Plan, step: &Step) -> (Offline, Flights) {
    let Some(input) = step.inputs.first().map(|&value| plan.fact(value)) else {
        return Default::default();
    };
    let elements = step.op.count(input.shape) as u64;
    match &step.op {
        StepOp::Linear(linear_step) => {
            let (offline, online) = linear(linear_step, input.shape, input.ring);
            // What was opened for an earlier step is not opened again.
            let is_open = plan.mask_source(step.id) != step.id;
            (offline, if is_open { Flights::default() } else { online })
        }
        StepOp::Truncate { shift, method } => truncate(input.ring, *shift, elements, *method),
        StepOp::Extend { ring, method } => extend(input.ring, *ring, elements, *method),
        StepOp::Activation { function, comparison, .. } => {
            activation(*function, input.ring, elements, comparison)
        }
        StepOp::MaxPool { window, comparison } => {
            max_pool(*window, input.shape, input.ring, comparison)
        }
        StepOp::ArgMax { comparison } => argmax(input.ring, input.shape.elements(), comparison),
        StepOp::Reveal => reveal(input.ring, elements),
        StepOp::Input | StepOp::Add | StepOp::SumPool | StepOp::Reduce { .. } => Default::default(),
    }
}
