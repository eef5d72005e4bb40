//! Giving a plan its lattice correlations.

use super::{
    Candidate, Hint, HintError, NoParameters, PublicSeed, ReplyChoice, SecretSeed, choose,
    choose_reply,
};
use crate::{
    Digest, LatticeSection, LinearWeights, Lowering, Plan, PlanError, ReplySection, Step, StepId,
    StepOp,
};
use std::collections::BTreeMap;

/// Why a plan cannot have lattice correlations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum LatticeError {
    #[error(transparent)]
    Parameters(#[from] NoParameters),
    #[error(transparent)]
    Weights(#[from] HintError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The candidate that a linear step of a plan is with these weights; `None` for any other step, and for lowerings
/// other than the direct one.
#[must_use]
pub fn candidate(plan: &Plan, step: &Step, weights: &[i64]) -> Option<Candidate> {
    let StepOp::Linear(linear) = &step.op else { return None };
    let input = plan.fact(step.inputs[0]);
    let geometry = linear.geometry;
    (linear.lowering == Lowering::Direct).then(|| Candidate {
        step: step.id,
        reads: step.inputs[0],
        geometry,
        input: input.shape,
        ring: input.ring,
        log_norm: log_norm(weights, geometry.fan_in()),
    })
}

/// The plan with lattice correlations for its direct linear steps that `wanted` names, and their hint.
///
/// Both seeds must be fresh from the operating system; the server keeps the secret one with its weights.
///
/// # Errors
/// [`LatticeError`] names the step that does not fit.
///
/// # Panics
/// Where a wanted step has no weights or too few.
pub fn attach(
    plan: Plan,
    wanted: impl Fn(StepId) -> bool,
    weights: &BTreeMap<StepId, LinearWeights>,
    inferences: u64,
    (seed, secret): (PublicSeed, &SecretSeed),
) -> Result<(Plan, Hint), LatticeError> {
    let candidates = candidates(&plan, wanted, weights);
    let choice = choose(&candidates, inferences)?;
    let shared = choice.shared;
    let layers = candidates.iter().map(|c| c.step).zip(choice.layers).collect();
    let section = |hint: Digest| LatticeSection {
        set: shared.set,
        secrets: shared.secrets,
        carrier_rounding: shared.carrier_rounding,
        seed,
        hint,
    };
    let plan = plan.with_lattice(section(Digest::of([])), &layers)?;
    let steps = plan.lattice_plan().map(|lattice| lattice.steps).unwrap_or_default();
    let all: Vec<&[i64]> = steps.iter().map(|step| &*weights[&step.id()].weight).collect();
    let hint = Hint::compute(&seed, secret, &steps, &all)?;
    Ok((plan.with_lattice(section(hint.digest()), &layers)?, hint))
}

/// The plan with correlations with a reply for its direct linear steps that `wanted` names.
///
/// # Errors
/// [`LatticeError`] names the step that does not fit.
///
/// # Panics
/// Where a wanted step has no weights or too few.
pub fn attach_reply(
    plan: Plan,
    wanted: impl Fn(StepId) -> bool,
    weights: &BTreeMap<StepId, LinearWeights>,
    seed: PublicSeed,
) -> Result<Plan, LatticeError> {
    let ReplyChoice { carrier_rounding, steps } =
        choose_reply(&candidates(&plan, wanted, weights))?;
    let layers = steps.iter().map(|step| (step.id(), step.layer())).collect();
    Ok(plan.with_reply(ReplySection { carrier_rounding, seed }, &layers)?)
}

fn candidates(
    plan: &Plan,
    wanted: impl Fn(StepId) -> bool,
    weights: &BTreeMap<StepId, LinearWeights>,
) -> Vec<Candidate> {
    let wanted = plan.steps().iter().filter(|step| wanted(step.id));
    wanted.filter_map(|step| candidate(plan, step, &weights.get(&step.id)?.weight)).collect()
}

/// The least `k` such that the squares of each output channel's weights sum to at most `2^k`.
fn log_norm(weights: &[i64], fan_in: usize) -> u32 {
    let squares = |channel: &[i64]| -> u128 {
        channel.iter().map(|w| u128::from(w.unsigned_abs()).pow(2)).sum()
    };
    let most = weights.chunks(fan_in.max(1)).map(squares).max().unwrap_or(1);
    most.max(1).next_power_of_two().ilog2()
}
