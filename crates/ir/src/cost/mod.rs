//! What a plan costs: exact bytes and rounds of our protocols, as `docs/protocols.md` sets them down.

mod comparison;
mod lattice;
mod linear;
mod nonlinear;
pub mod oracle;
pub mod ot;
pub mod stored;

pub use comparison::ComparisonLayout;
pub use linear::{OtProduct, linear};
pub use nonlinear::{activation, drelu, multiplexer, reveal, truncate};

use crate::{CommTable, Phase, Plan, Step, StepId, StepOp, Traffic, TruncateMethod};

/// Bytes of `count` values of `bits` bits, packed without gaps.
#[must_use]
pub const fn packed(count: u64, bits: u64) -> u64 {
    (count * bits).div_ceil(8)
}

/// The handshake and both directions' base OTs, once a session; booked on step 0.
#[must_use]
pub const fn setup() -> Traffic {
    const HANDSHAKE: u64 = 48;
    const BASE_OT: u64 = 32 + 240 * 32;
    let each_way = HANDSHAKE + BASE_OT;
    Traffic { server_to_client: each_way, client_to_server: each_way, rounds: 3 }
}

/// Traffic of one inference in a fresh session, by step and phase, to the byte.
#[must_use]
pub fn plan(plan: &Plan) -> CommTable {
    let mut table = CommTable::new();
    table.book(StepId(0), Phase::Setup, setup());
    lattice::book(plan, &mut table);
    for step in plan.steps() {
        let (offline, online) = step_traffic(plan, step);
        table.book(step.id, Phase::Offline, offline);
        table.book(step.id, Phase::Online, online);
    }
    table
}

/// Offline and online traffic of one step.
fn step_traffic(plan: &Plan, step: &Step) -> (Traffic, Traffic) {
    let Some(input) = step.inputs.first().map(|&value| plan.fact(value)) else {
        return Default::default();
    };
    let elements = input.shape.elements() as u64;
    match &step.op {
        StepOp::Linear(step) => linear(step, input.shape, input.ring),
        StepOp::Truncate { shift, method: TruncateMethod::Faithful, comparison } => {
            truncate(input.ring, *shift, elements, comparison)
        }
        StepOp::Activation { function, comparison } => {
            activation(*function, input.ring, elements, comparison)
        }
        StepOp::Reveal => reveal(input.ring, elements),
        StepOp::Input | StepOp::Add | StepOp::SumPool => Default::default(),
    }
}
