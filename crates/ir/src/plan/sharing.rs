//! Linear steps that read one value share its mask: it is opened once, and lattice correlations of one kind take one upload.

use super::{Correlation, Fact, LinearStep, Plan, Step, StepId, StepOp};
use crate::lattice::{Window, grouped};

impl Plan {
    /// The step whose mask, and opening, a linear step uses: an earlier one that reads the same value, or itself.
    ///
    /// Transfers take any mask. A lattice correlation's mask is part of its upload: it shares that of the first step of its
    /// kind and parameters that reads the value, where one window holds both kernels.
    #[must_use]
    pub fn mask_source(&self, id: StepId) -> StepId {
        let Some((step, linear)) = linear(self.steps(), id) else { return id };
        match linear.correlation {
            Correlation::Ot { .. } => readers(self.steps(), step).map(|(step, _)| step.id).next(),
            _ => window(self.steps(), self.values(), id).map(|window| window.source),
        }
        .unwrap_or(id)
    }
}

/// What a step with a lattice correlation shares with others of its kind that read the same value; none for other steps.
pub(super) fn window(steps: &[Step], values: &[Fact], id: StepId) -> Option<Window> {
    let (step, linear) = linear(steps, id)?;
    let input = values.get(step.inputs.first()?.0)?.shape;
    let of_kind = readers(steps, step).filter(|(_, one)| agree(one, linear));
    let window = |group: &[(&Step, &LinearStep)]| {
        let geometries = group.iter().map(|(_, linear)| linear.geometry);
        Window::around(group.first()?.0.id, geometries, input)
    };
    let groups = grouped(of_kind, |group| window(group).is_some());
    groups.iter().find(|group| group.iter().any(|(step, _)| step.id == id)).and_then(|g| window(g))
}

/// The linear steps that read what this one reads, in order.
fn readers<'a>(
    steps: &'a [Step],
    of: &'a Step,
) -> impl Iterator<Item = (&'a Step, &'a LinearStep)> {
    let same = steps.iter().filter(|step| step.inputs == of.inputs);
    same.filter_map(|step| linear(steps, step.id))
}

fn linear(steps: &[Step], id: StepId) -> Option<(&Step, &LinearStep)> {
    let step = steps.get(id.0)?;
    let StepOp::Linear(linear) = &step.op else { return None };
    Some((step, linear))
}

/// Whether one upload can serve both.
fn agree(a: &LinearStep, b: &LinearStep) -> bool {
    match (a.correlation, b.correlation) {
        (Correlation::Lattice(a), Correlation::Lattice(b)) => {
            let shared =
                |x: crate::lattice::LatticeLayer| (x.input_rounding, x.first_secret, x.slots);
            shared(a) == shared(b)
        }
        (Correlation::Reply(a), Correlation::Reply(b)) => {
            (a.input_rounding, a.slots) == (b.input_rounding, b.slots)
        }
        _ => false,
    }
}
