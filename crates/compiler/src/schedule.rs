//! Pass: the order of steps in which the fewest rounds pass.

use crate::draft::Draft;
use copriv_ir::cost::{Clocks, Flights, step_cost};
use copriv_ir::{LayerId, PlanError, Step, ValueId};
use std::collections::BTreeSet;

/// Moves steps forward whose messages go out with those of a step before them: one convolution beside another
/// of the same input, say. The order stays as it is where that saves no round.
pub(crate) fn schedule(draft: Draft) -> Result<Draft, PlanError> {
    let flights = |draft: &Draft| -> Vec<Flights> {
        let plan = draft.plan();
        plan.steps().iter().map(|step| step_cost(plan, step).1).collect()
    };
    let before = flights(&draft);
    let scheduled = draft.with_steps(ordered(draft.steps(), &before))?;
    let is_shorter = rounds(&flights(&scheduled)) < rounds(&before);
    Ok(if is_shorter { scheduled } else { draft })
}

/// The steps in a greedy order: of those whose inputs are there the first that adds no round, else the first.
fn ordered(steps: Vec<(Step, LayerId)>, flights: &[Flights]) -> Vec<(Step, LayerId)> {
    let mut left = steps;
    let mut order = Vec::with_capacity(left.len());
    let (mut made, mut clocks) = (BTreeSet::<ValueId>::new(), Clocks::default());
    while !left.is_empty() {
        let is_ready = |(step, _): &(Step, LayerId)| step.inputs.iter().all(|x| made.contains(x));
        let is_free = |(step, _): &(Step, LayerId)| {
            let mut trial = clocks;
            trial.pass(&flights[step.id.0]).rounds == 0
        };
        let free = left.iter().position(|step| is_ready(step) && is_free(step));
        // Plans are sorted: the first step that is left has all its inputs.
        let (step, layer) = left.remove(free.unwrap_or(0));
        clocks.pass(&flights[step.id.0]);
        made.insert(step.output);
        order.push((step, layer));
    }
    order
}

fn rounds(flights: &[Flights]) -> u32 {
    let mut clocks = Clocks::default();
    flights.iter().map(|flights| clocks.pass(flights).rounds).sum()
}
