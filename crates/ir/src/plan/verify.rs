//! What must hold of every plan, checked whenever one is made or read.

use super::verify_lattice::LatticeCheck;
use super::{
    Comparison, Correlation, Fact, LatticeSection, LinearStep, Sign, Step, StepId, StepOp, ValueId,
    Visibility,
};
use crate::{InputSpec, Shape};

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

/// Most multiplications of a linear step, against hostile plans: predictions of its traffic must fit 64 bits.
const MAX_MULTIPLICATIONS: u128 = 1 << 44;

pub(super) fn verify(
    input: &InputSpec,
    values: &[Fact],
    steps: &[Step],
    lattice: Option<&LatticeSection>,
) -> Result<(), PlanError> {
    let whole = |fault: String| PlanError { step: StepId(0), name: "plan".into(), fault };
    let mut lattice = LatticeCheck::new(lattice).map_err(whole)?;
    for (position, step) in steps.iter().enumerate() {
        let wrong = |fault: String| PlanError { step: step.id, name: step.name.clone(), fault };
        verify_place(steps.len(), position, step, values).map_err(wrong)?;
        let inputs: Vec<&Fact> = step.inputs.iter().map(|value| &values[value.0]).collect();
        verify_fact(input, step, &inputs, &values[step.output.0]).map_err(wrong)?;
        lattice.step(step, inputs.first()).map_err(wrong)?;
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
    let expected = match (&step.op, inputs) {
        (StepOp::Input, []) => {
            if !spec.has_usable_statistics() {
                return Err("the mean or deviation of its pixels is not usable".into());
            }
            Fact { shape: spec.shape, sign: Sign::Any, visibility: Visibility::Client, ..*output }
        }
        (StepOp::Linear(linear), [x]) => linear_output(linear, x)?,
        (StepOp::Add, [x, y]) => {
            if (x.shape, x.ring, x.scale) != (y.shape, y.ring, y.scale) {
                return Err(format!("cannot add {x} and {y}"));
            }
            let both = x.sign == Sign::NonNegative && y.sign == Sign::NonNegative;
            let sign = if both { Sign::NonNegative } else { Sign::Any };
            Fact { sign, visibility: Visibility::Shared, ..**x }
        }
        (StepOp::SumPool, [x]) => Fact {
            shape: Shape::vector(x.shape.channels),
            scale: x.scale + x.shape.area().next_power_of_two().trailing_zeros(),
            ..**x
        },
        (StepOp::Truncate { shift, comparison, .. }, [x]) => {
            check_comparison(comparison)?;
            if *shift == 0 || *shift >= x.ring.bits() || *shift > x.scale {
                return Err(format!("cannot drop {shift} bits of {x}"));
            }
            Fact { scale: x.scale - shift, visibility: Visibility::Shared, ..**x }
        }
        (StepOp::Activation { comparison, .. }, [x]) => {
            check_comparison(comparison)?;
            if x.ring.bits() < 2 {
                return Err(format!("no sign in {x}"));
            }
            Fact { sign: Sign::NonNegative, visibility: Visibility::Shared, ..**x }
        }
        (StepOp::Reveal, [x]) => Fact { visibility: Visibility::Client, ..**x },
        _ => return Err("has the wrong number of inputs".into()),
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

fn linear_output(linear: &LinearStep, x: &Fact) -> Result<Fact, String> {
    let LinearStep { geometry, lowering, correlation, weight_scale, weight_bits } = linear;
    if let Some(fault) = geometry.fault() {
        return Err(fault);
    }
    if geometry.in_channels != x.shape.channels {
        return Err(format!("{geometry} does not take {}", x.shape));
    }
    let output = geometry.output_shape(x.shape);
    let products = [output.channels, output.height, output.width, geometry.fan_in()];
    if products.into_iter().map(|side| side as u128).product::<u128>() > MAX_MULTIPLICATIONS {
        return Err(format!("{geometry} on {} is absurdly large", x.shape));
    }
    if lowering.mat_mul(geometry, x.shape).is_none() {
        return Err(format!("{geometry} has no lowering {lowering}"));
    }
    if !(1..=x.ring.bits()).contains(weight_bits) {
        return Err(format!("weights of {weight_bits} bits in {}", x.ring));
    }
    match correlation {
        Correlation::Ot { .. } | Correlation::Lattice(_) => {}
    }
    Ok(Fact {
        shape: output,
        ring: x.ring,
        scale: x.scale.saturating_add(*weight_scale).saturating_add(lowering.extra_scale()),
        sign: Sign::Any,
        visibility: Visibility::Shared,
    })
}

fn check_comparison(comparison: &Comparison) -> Result<(), String> {
    let leaf_bits = comparison.leaf_bits;
    if comparison.tables {
        return Err("one-time truth tables are not built yet".into());
    }
    if (1..=4).contains(&leaf_bits) {
        Ok(())
    } else {
        Err(format!("comparison digits have 1 to 4 bits, not {leaf_bits}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvGeometry, Lowering, OtKind, Party, Ring};

    #[test]
    fn steps_whose_traffic_overflows_are_refused() {
        let channels = 1 << 20;
        let input = Fact {
            shape: Shape::new(channels, 16, 16),
            ring: Ring::new(41).expect("in range"),
            scale: 12,
            sign: Sign::Any,
            visibility: Visibility::Shared,
        };
        let step = |outputs| LinearStep {
            geometry: ConvGeometry::same(channels, outputs, 1, 1),
            lowering: Lowering::Direct,
            correlation: Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Client },
            weight_scale: 0,
            weight_bits: 41,
        };
        assert!(linear_output(&step(16), &input).is_ok());
        let fault = linear_output(&step(channels), &input).expect_err("absurd");
        assert!(fault.contains("absurdly large"), "{fault}");
    }
}
