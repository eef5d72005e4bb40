//! Pass: a value that several layers multiply in wide rings is extended once.

use crate::draft::Draft;
use copriv_ir::{ExtendMethod, PlanError, Ring, Step, StepId, StepOp, ValueId};
use std::collections::BTreeMap;

/// Extends every value to the widest ring that it is needed in, where it is first needed; narrower rings are
/// reductions of that, which are local.
pub(crate) fn share(draft: Draft) -> Result<Draft, PlanError> {
    let plan = draft.plan();
    let mut extensions: BTreeMap<ValueId, Vec<(StepId, Ring)>> = BTreeMap::new();
    for step in plan.steps() {
        if let StepOp::Extend { ring, method } = step.op
            && method != ExtendMethod::Local
        {
            extensions.entry(step.inputs[0]).or_default().push((step.id, ring));
        }
    }
    extensions.retain(|_, steps| steps.len() > 1);
    if extensions.is_empty() {
        return Ok(draft);
    }

    let mut steps: Vec<_> = Vec::new();
    // What stands for a value from here on.
    let mut standing: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (mut step, layer) in draft.steps() {
        let shared = step.inputs.first().and_then(|input| extensions.get(input));
        let shared = shared.filter(|all| all.iter().any(|(id, _)| *id == step.id));
        if let (Some(all), &StepOp::Extend { ring, method }) = (shared, &step.op) {
            let widest = all.iter().map(|(_, ring)| *ring).max().unwrap_or(ring);
            // A value of its own, beyond those of the plan.
            let wide = ValueId(plan.values().len() + all[0].0.0);
            if step.id == all[0].0 {
                let op = StepOp::Extend { ring: widest, method };
                steps.push((Step { op, output: wide, ..step.clone() }, layer));
            }
            if ring == widest {
                standing.insert(step.output, wide);
                continue;
            }
            (step.op, step.inputs) = (StepOp::Reduce { ring }, vec![wide]);
        }
        for input in &mut step.inputs {
            *input = standing.get(input).copied().unwrap_or(*input);
        }
        steps.push((step, layer));
    }
    draft.with_steps(steps)
}
