//! Which linear steps get lattice correlations, and their parameters and hint.

use crate::choose::choosers;
use crate::draft::Draft;
use crate::lower::fitting;
use crate::quantise::quantise_layers;
use crate::{CompileConfig, CompileError, CorrelationRule};
use copriv_ir::lattice::{self, Candidate, Hint, LatticeError, PublicSeed, SecretSeed};
use copriv_ir::{Correlation, FusedModel, LinearStep, LinearWeights, Plan, Step, StepId, cost};
use std::collections::{BTreeMap, BTreeSet};

/// Fresh randomness for lattice correlations, to be drawn from the operating system for every compilation and used
/// in one alone: two hints under one secret seed would reveal how their weights differ.
#[derive(Debug)]
pub struct LatticeSeeds {
    /// Seed of the public polynomials; it becomes part of the plan.
    pub public: PublicSeed,
    /// What hides the weights in the hint; it becomes part of the server's weights.
    pub secret: SecretSeed,
}

/// The steps that get lattice correlations: all, none, or those where they are cheaper.
pub(crate) fn select(
    model: &FusedModel,
    draft: &Draft,
    config: &CompileConfig,
    seeds: Option<&LatticeSeeds>,
) -> Result<BTreeSet<StepId>, CompileError> {
    match (config.correlation, seeds) {
        (CorrelationRule::Ot, _) | (CorrelationRule::Auto, None) => Ok(BTreeSet::new()),
        (CorrelationRule::Lattice, None) => Err(CompileError::NoLatticeSeeds),
        (CorrelationRule::Lattice, Some(_)) => {
            Ok(draft.linear_steps().into_iter().map(|(id, ..)| id).collect())
        }
        (CorrelationRule::Auto, Some(_)) => cheaper(model, draft, config),
    }
}

/// The steps whose upload and part of the hint are smaller than any transfer.
fn cheaper(
    model: &FusedModel,
    draft: &Draft,
    config: &CompileConfig,
) -> Result<BTreeSet<StepId>, CompileError> {
    let weights = quantise_layers(model, draft)?;
    let plan = draft.plan();
    let candidate = |step: &Step| {
        let candidate = lattice::candidate(plan, step, &weights.get(&step.id)?.weight)?;
        // One that fits alone may still not fit beside others: those are weighed below.
        lattice::choose(&[candidate], config.inferences).is_ok().then_some(candidate)
    };
    let mut candidates: Vec<Candidate> = plan.steps().iter().filter_map(candidate).collect();
    let transfers: BTreeMap<StepId, u64> = (draft.linear_steps().into_iter())
        .map(|(id, linear, _)| (id, transfer(draft, id, linear, config)))
        .collect();
    loop {
        let Ok(choice) = lattice::choose(&candidates, config.inferences) else {
            // The step that fits least goes back to transfers.
            let Some(least) = candidates.iter().max_by_key(|c| 2 * c.ring.bits() + c.log_norm)
            else {
                return Ok(BTreeSet::new());
            };
            let least = least.step;
            candidates.retain(|c| c.step != least);
            continue;
        };
        let before = candidates.len();
        let mut prices =
            choice.prices.iter().map(|(up, hint)| up + hint / config.inferences.max(1));
        candidates.retain(|c| prices.next().is_some_and(|price| price < transfers[&c.step]));
        if candidates.len() == before {
            let all: u64 = candidates.iter().map(|c| transfers[&c.step]).sum();
            let pays = choice.upload + choice.hint / config.inferences.max(1) < all;
            let chosen = candidates.into_iter().map(|c| c.step).filter(|_| pays);
            return Ok(chosen.collect());
        }
    }
}

/// Offline bytes of the cheapest transfers for a step.
fn transfer(draft: &Draft, id: StepId, linear: LinearStep, config: &CompileConfig) -> u64 {
    let input = draft.plan().fact(draft.plan().steps()[id.0].inputs[0]);
    let lowerings = fitting(&linear.geometry, input.shape).into_iter();
    let ways = lowerings.flat_map(|lowering| {
        choosers(config.chooser).map(move |chooser| {
            let correlation = Correlation::Ot { kind: config.ot, chooser };
            LinearStep { lowering, correlation, ..linear }
        })
    });
    let bytes = ways.map(|way| cost::linear(&way, input.shape, input.ring).0.traffic.bytes());
    bytes.min().unwrap_or(u64::MAX)
}

/// The plan with lattice correlations for the chosen steps, and its hint; the plan as it is where there are none.
pub(crate) fn attach(
    plan: Plan,
    chosen: &BTreeSet<StepId>,
    weights: &BTreeMap<StepId, LinearWeights>,
    config: &CompileConfig,
    seeds: Option<&LatticeSeeds>,
) -> Result<(Plan, Option<Hint>), CompileError> {
    let Some(seeds) = seeds.filter(|_| !chosen.is_empty()) else { return Ok((plan, None)) };
    let names: Vec<String> = plan.steps().iter().map(|step| step.name.clone()).collect();
    let randomness = (seeds.public, &seeds.secret);
    let wanted = |id: StepId| chosen.contains(&id);
    let (plan, hint) = lattice::attach(plan, wanted, weights, config.inferences, randomness)
        .map_err(|fault| {
            let step = match &fault {
                LatticeError::Parameters(fault) => fault.step,
                LatticeError::Weights(fault) => fault.step,
                LatticeError::Plan(fault) => fault.step,
            };
            CompileError::Lattice { layer: names[step.0].clone(), fault }
        })?;
    Ok((plan, Some(hint)))
}
