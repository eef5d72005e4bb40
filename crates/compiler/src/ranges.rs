//! Pass: does every value fit its ring?

use crate::draft::Draft;
use crate::{Calibration, CompileConfig, CompileError, Range};
use copriv_ir::fixed_point::signed_bits;
use copriv_ir::{Activation, Answer, StepOp};

/// ReLU6 subtracts its cap before it looks at the sign.
pub(crate) const RELU6_CAP: f64 = 6.0;

/// Checks that `head_room` times the largest calibrated value of each layer fits the ring at the scale
/// of each of its steps. Only values that a protocol interprets matter: sums inside a linear step may
/// wrap, since only their total is read.
pub(crate) fn check_ranges(
    draft: &Draft,
    calibration: &Calibration,
    config: &CompileConfig,
) -> Result<Vec<Range>, CompileError> {
    let plan = draft.plan();
    let mut ranges = Vec::with_capacity(plan.steps().len());
    for step in plan.steps() {
        let largest = calibration.largest()[draft.layer(step.id).0];
        let bound = f64::from(largest) * f64::from(config.head_room);
        let bound = match step.op {
            // Its input is bounded where it is made, but not with the cap taken off.
            StepOp::Activation { function: Activation::Relu6, .. } => {
                let input = draft.layer(plan.steps()[step.inputs[0].0].id);
                let input = f64::from(calibration.largest()[input.0]);
                input * f64::from(config.head_room) + RELU6_CAP
            }
            _ => bound,
        };
        // A product's input may wrap: see `narrow.rs`. A class always fits its digits.
        let of_class = matches!(plan.answer(), Answer::Class { .. }) && step.op == StepOp::Reveal;
        if matches!(step.op, StepOp::Reduce { .. }) || of_class {
            continue;
        }
        // Differences of what is compared must fit the ring that it is in.
        let (fact, bound) = match step.op {
            StepOp::ArgMax { .. } => (plan.fact(step.inputs[0]), 2.0 * bound),
            _ => (plan.fact(step.output), bound),
        };
        let needed = signed_bits(bound * f64::from(fact.scale).exp2());
        if needed > fact.ring.bits() {
            return Err(CompileError::Overflow {
                layer: step.name.clone(),
                needed,
                ring: fact.ring,
                largest,
                head_room: config.head_room,
                scale: fact.scale,
            });
        }
        ranges.push(Range { step: step.id, layer: step.name.clone(), needed, ring: fact.ring });
    }
    Ok(ranges)
}
