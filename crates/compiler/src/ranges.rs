//! Pass: does every value fit its ring?

use crate::draft::Draft;
use crate::{Calibration, CompileConfig, CompileError, Range};
use copriv_ir::fixed_point::signed_bits;
use copriv_ir::{Activation, Answer, Sign, StepOp};

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
        // A product's input may wrap: see `narrow.rs`. A class always fits its digits.
        let of_class = matches!(plan.answer(), Answer::Class { .. }) && step.op == StepOp::Reveal;
        if matches!(step.op, StepOp::Reduce { .. }) || of_class {
            continue;
        }
        // Most values are bounded where they are made; some steps look at more than that.
        let (value, cap, spare) = match (&step.op, step.inputs.first()) {
            (StepOp::Activation { function: Activation::Relu6, .. }, Some(&input)) => {
                (input, RELU6_CAP, 0)
            }
            (StepOp::MaxPool { .. } | StepOp::ArgMax { .. }, Some(&input)) => {
                (input, 0.0, difference_bits(plan.fact(input).sign))
            }
            _ => (step.output, 0.0, 0),
        };
        let fact = plan.fact(value);
        let largest = calibration.largest()[draft.layer(plan.steps()[value.0].id).0];
        let bound = f64::from(largest) * f64::from(config.head_room) + cap;
        let needed = signed_bits(bound * f64::from(fact.scale).exp2()) + spare;
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

/// Bits that the differences of numbers take beyond those of the numbers: what is compared, by a max pool or an argmax, is subtracted.
pub(crate) fn difference_bits(sign: Sign) -> u32 {
    match sign {
        Sign::NonNegative => 0,
        Sign::Any => 1,
    }
}
