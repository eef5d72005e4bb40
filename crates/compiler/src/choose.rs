//! Pass 3: whose bits are the OT choices of each linear step (CoPriv's adaptive convolution).

use crate::draft::Draft;
use crate::{ChooserRule, CompileConfig, CompileError};
use copriv_ir::{Correlation, LinearStep, Party, StepId};
use std::collections::BTreeSet;

/// Gives every linear step its cheapest chooser, but for those that are to have lattice correlations.
pub(crate) fn choose(
    mut draft: Draft,
    config: &CompileConfig,
    lattice: &BTreeSet<StepId>,
) -> Result<Draft, CompileError> {
    for (id, linear, _) in draft.linear_steps() {
        if lattice.contains(&id) {
            continue;
        }
        let options = choosers(config.chooser).map(|chooser| LinearStep {
            correlation: Correlation::Ot { kind: config.ot, chooser },
            ..linear
        });
        if let Some(cheapest) = draft.cheapest(id, options, config)? {
            draft = draft.with_linear(id, cheapest)?;
        }
    }
    Ok(draft)
}

/// The choosers that the settings allow; CrypTFlow2's first.
pub(crate) fn choosers(rule: ChooserRule) -> impl Iterator<Item = Party> + Clone {
    let allowed = move |party: &Party| match rule {
        ChooserRule::Auto => true,
        ChooserRule::Always(chooser) => *party == chooser,
    };
    [Party::Client, Party::Server].into_iter().filter(allowed)
}
