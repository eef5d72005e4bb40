//! Pass 3: whose bits are the OT choices of each linear step (CoPriv's adaptive convolution).

use crate::CompileError;
use crate::context::Context;
use crate::draft::Draft;
use copriv_ir::{Correlation, LinearStep};

/// Gives every linear step its cheapest chooser, but for those that are to have lattice correlations.
pub(crate) fn choose(mut draft: Draft, context: &Context<'_>) -> Result<Draft, CompileError> {
    for (id, linear, _) in draft.linear_steps() {
        if context.lattice.contains(&draft.layer(id)) {
            continue;
        }
        let options = context.choosers().map(|chooser| LinearStep {
            correlation: Correlation::Ot { kind: context.ot, chooser },
            ..linear
        });
        if let Some(cheapest) = draft.cheapest(id, options, context)? {
            draft = draft.with_linear(id, cheapest)?;
        }
    }
    Ok(draft)
}
