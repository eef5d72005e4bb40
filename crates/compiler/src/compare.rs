//! Pass: how comparisons are made, step by step, and the extension behind all that is not linear.

use crate::context::Context;
use crate::draft::Draft;
use copriv_ir::{Comparison, ExtendMethod, OtKind, PlanError, Step, StepOp, TruncateMethod, cost};

/// Gives every step that compares its cheapest digits among those that the settings allow, and every step that is
/// not linear transfers of `kind`.
pub(crate) fn compare(
    draft: &Draft,
    kind: OtKind,
    context: &Context<'_>,
) -> Result<Draft, PlanError> {
    let plan = draft.plan();
    let cheapest = |step: &Step| {
        let options = comparisons(kind, context).filter_map(|comparison| {
            let op = with_comparison(&step.op, comparison)?;
            let (offline, online) = cost::step_cost(plan, &Step { op: op.clone(), ..step.clone() });
            let work = cost::offline_work(&offline);
            Some((context.pricing.part((&offline, &work), &online), op))
        });
        // The first of equals.
        options.reduce(|best, next| if next.0 < best.0 { next } else { best }).map(|(_, op)| op)
    };
    draft.with_ops(cheapest)
}

/// The comparisons that the settings allow, CrypTFlow2's digits first.
fn comparisons(kind: OtKind, context: &Context<'_>) -> impl Iterator<Item = Comparison> {
    let config = context.config;
    config.tables.allowed(&[false, true]).flat_map(move |tables| {
        let digits = config.leaf_bits.allowed(&[4, 3, 2, 1]);
        digits.map(move |leaf_bits| Comparison { ot: kind, leaf_bits, tables })
    })
}

/// The operation with this comparison, or with its transfers where it takes nothing else of it; `None` where it takes
/// neither.
fn with_comparison(op: &StepOp, comparison: Comparison) -> Option<StepOp> {
    let ot = comparison.ot;
    Some(match op {
        StepOp::Activation { function, mask, .. } => {
            StepOp::Activation { function: *function, comparison, mask: mask.clone() }
        }
        StepOp::MaxPool { window, .. } => StepOp::MaxPool { window: *window, comparison },
        StepOp::ArgMax { .. } => StepOp::ArgMax { comparison },
        StepOp::Truncate { shift, method } => {
            let method = match method {
                TruncateMethod::Faithful(_) => TruncateMethod::Faithful(comparison),
                TruncateMethod::OneOff(_) => TruncateMethod::OneOff(comparison),
                TruncateMethod::KnownSign(_) => TruncateMethod::KnownSign(ot),
                TruncateMethod::Reduce => return None,
            };
            StepOp::Truncate { shift: *shift, method }
        }
        StepOp::Extend { ring, method } => {
            let method = match method {
                ExtendMethod::Compare(_) => ExtendMethod::Compare(comparison),
                ExtendMethod::KnownSign(_) => ExtendMethod::KnownSign(ot),
                ExtendMethod::Offset(_) => ExtendMethod::Offset(ot),
                ExtendMethod::Local => return None,
            };
            StepOp::Extend { ring: *ring, method }
        }
        StepOp::Input
        | StepOp::Linear(_)
        | StepOp::Add
        | StepOp::SumPool
        | StepOp::Reduce { .. }
        | StepOp::Reveal => return None,
    })
}
