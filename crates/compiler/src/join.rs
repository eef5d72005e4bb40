//! Pass: branches that meet are added before they are truncated, where that is cheaper.

use crate::context::Context;
use crate::draft::Draft;
use crate::ranges::check_ranges;
use crate::{Calibration, CompileError};
use copriv_ir::{LinearStep, PlanError, Step, StepId, StepOp, ValueId};

/// Where both operands of a sum are truncations of linear steps' results, adds those results and truncates once. The
/// coarser one gets finer weights, so that both have one scale.
pub(crate) fn join(
    mut draft: Draft,
    calibration: &Calibration,
    context: &Context<'_>,
) -> Result<Draft, CompileError> {
    let sums = draft.plan().steps().iter().filter(|step| step.op == StepOp::Add);
    // Later sums first: what is joined keeps the places before it.
    for sum in sums.map(|step| step.id).collect::<Vec<_>>().into_iter().rev() {
        let Some(joined) = joined(&draft, sum, context)? else { continue };
        let is_cheaper = context.pricing.plan(&joined, context.lattice)
            < context.pricing.plan(&draft, context.lattice);
        // The sum is coarser once it is truncated: before that it needs room.
        if is_cheaper && check_ranges(&joined, calibration, context.config).is_ok() {
            draft = joined;
        }
    }
    Ok(draft)
}

/// The draft with the truncations before a sum moved behind it; `None` where its operands are no such.
fn joined(draft: &Draft, sum: StepId, context: &Context<'_>) -> Result<Option<Draft>, PlanError> {
    let plan = draft.plan();
    let add = &plan.steps()[sum.0];
    let branch = |value: ValueId| {
        let truncate = &plan.steps()[value.0];
        let StepOp::Truncate { .. } = truncate.op else { return None };
        let linear = &plan.steps()[truncate.inputs[0].0];
        let StepOp::Linear(step) = linear.op else { return None };
        let alone = draft.uses(truncate.output) == 1 && draft.uses(linear.output) == 1;
        alone.then_some((truncate, linear, step))
    };
    let [Some(a), Some(b)] = [0, 1].map(|side| branch(add.inputs[side])) else { return Ok(None) };
    let [x, y] = [a, b].map(|(_, linear, _)| plan.fact(linear.output));
    if x.ring != y.ring || add.inputs[0] == add.inputs[1] {
        return Ok(None);
    }
    let scale = x.scale.max(y.scale);
    let mut steps: Vec<_> = draft.steps();
    for (branch, fact) in [(a, x), (b, y)] {
        let (_, linear, step) = branch;
        let Some(finer) = finer(step, scale - fact.scale, fact.ring.bits()) else {
            return Ok(None);
        };
        if finer != step && context.lattice.contains(&draft.layer(linear.id)) {
            return Ok(None);
        }
        steps[linear.id.0].0.op = StepOp::Linear(finer);
    }
    let StepOp::Truncate { method, .. } = a.0.op else { return Ok(None) };
    let shift = scale - plan.fact(add.output).scale;
    // The sum takes the place of the later truncation, the truncation that of the sum.
    let [earlier, later] = if a.0.id < b.0.id { [a.0, b.0] } else { [b.0, a.0] };
    let operands = vec![a.1.output, b.1.output];
    let layer = draft.layer(sum);
    steps[later.id.0] = (Step { op: StepOp::Add, inputs: operands, ..later.clone() }, layer);
    steps[later.id.0].0.name.clone_from(&add.name);
    let truncate = StepOp::Truncate { shift, method };
    steps[sum.0].0 = Step { op: truncate, inputs: vec![later.output], ..add.clone() };
    steps.remove(earlier.id.0);
    draft.with_steps(steps).map(Some)
}

/// The step with weights of so many more fractional bits; `None` where they may not fit.
fn finer(step: LinearStep, bits: u32, ring: u32) -> Option<LinearStep> {
    let fits = bits == 0 || step.weight_bits == ring;
    fits.then_some(LinearStep { weight_scale: step.weight_scale + bits, ..step })
}
