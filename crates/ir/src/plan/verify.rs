//! What must hold of every plan, checked whenever one is made or read.

use super::verify_lattice::LatticeCheck;
use super::{Fact, LatticeSection, ReplySection, Sign, Step, StepId, StepOp, ValueId, Visibility};
use crate::InputSpec;

/// The first step of a plan that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {} ({name}): {fault}", step.0)]
pub struct PlanError {
    /// The step.
    pub step: StepId,
    /// The layer that it belongs to.
    pub name: String,
    /// What is wrong with it.
    pub fault: String,
}

pub(super) fn verify(
    input: &InputSpec,
    values: &[Fact],
    steps: &[Step],
    (lattice, reply): (Option<&LatticeSection>, Option<&ReplySection>),
) -> Result<(), PlanError> {
    let whole = |fault: String| PlanError { step: StepId(0), name: "plan".into(), fault };
    let mut lattice = LatticeCheck::new(lattice, reply).map_err(whole)?;
    for (position, step) in steps.iter().enumerate() {
        let wrong = |fault: String| PlanError { step: step.id, name: step.name.clone(), fault };
        verify_place(steps.len(), position, step, values).map_err(wrong)?;
        let inputs: Vec<&Fact> = step.inputs.iter().map(|value| &values[value.0]).collect();
        verify_fact(input, step, &inputs, &values[step.output.0]).map_err(wrong)?;
        lattice.step((steps, values), step, inputs.first()).map_err(wrong)?;
    }
    if steps.is_empty() || values.len() != steps.len() {
        let fault = format!("{} values for {} steps", values.len(), steps.len());
        return Err(whole(fault));
    }
    lattice.finish().map_err(whole)
}

/// Every step makes one value, from earlier ones; input first, reveal last.
fn verify_place(count: usize, position: usize, step: &Step, values: &[Fact]) -> Result<(), String> {
    if step.id != StepId(position) || step.output != ValueId(position) || position >= values.len() {
        return Err(format!("stands at position {position} but makes value {}", step.output.0));
    }
    if step.inputs.len() != step.op.arity() || step.inputs.iter().any(|v| v.0 >= position) {
        return Err(format!("needs {} earlier values", step.op.arity()));
    }
    if (step.op == StepOp::Input) != (position == 0) {
        return Err("exactly the first step is the input".into());
    }
    if (step.op == StepOp::Reveal) != (position == count - 1) {
        return Err("exactly the last step reveals".into());
    }
    Ok(())
}

fn verify_fact(
    spec: &InputSpec,
    step: &Step,
    inputs: &[&Fact],
    output: &Fact,
) -> Result<(), String> {
    let expected = match step.op {
        StepOp::Input => {
            if !spec.has_usable_statistics() {
                return Err("the mean or deviation of its pixels is not usable".into());
            }
            Fact { shape: spec.shape, sign: Sign::Any, visibility: Visibility::Client, ..*output }
        }
        _ => step.op.output(inputs)?,
    };
    if expected != *output {
        return Err(format!("gives {expected:?}, not {output:?}"));
    }
    if output.scale > 62 {
        return Err(format!("has {} fractional bits; at most 62 fit", output.scale));
    }
    if !output.shape.is_possible() {
        return Err(format!("has an impossible shape {}", output.shape));
    }
    Ok(())
}
