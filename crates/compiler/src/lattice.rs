//! Which linear steps get lattice correlations, and their parameters and hint.

use crate::context::Context;
use crate::draft::Draft;
use crate::lower::fitting;
use crate::pricing::Price;
use crate::quantise::quantise_layers;
use crate::{CompileConfig, CompileError, CorrelationRule};
use copriv_ir::cost::Flights;
use copriv_ir::lattice::{self, Candidate, Hint, LatticeError, PublicSeed, SecretSeed};
use copriv_ir::{
    Correlation, FusedModel, LayerId, LinearStep, LinearWeights, OtKind, Plan, Step, StepId, cost,
};
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

/// The layers that get lattice correlations: all, none, or those where they are cheaper. In `draft` every layer that may
/// get one is multiplied directly.
pub(crate) fn select(
    model: &FusedModel,
    draft: &Draft,
    context: &Context<'_>,
    seeds: Option<&LatticeSeeds>,
) -> Result<BTreeSet<LayerId>, CompileError> {
    match (context.config.correlation, seeds) {
        (CorrelationRule::Ot, _) | (CorrelationRule::Auto, None) => Ok(BTreeSet::new()),
        (CorrelationRule::Lattice, None) => Err(CompileError::NoLatticeSeeds),
        (CorrelationRule::Lattice, Some(_)) => {
            Ok(draft.linear_steps().into_iter().map(|(id, ..)| draft.layer(id)).collect())
        }
        (CorrelationRule::Auto, Some(_)) => cheaper(model, draft, context),
    }
}

/// The layers whose upload and part of the hint cost less than any transfers.
fn cheaper(
    model: &FusedModel,
    draft: &Draft,
    context: &Context<'_>,
) -> Result<BTreeSet<LayerId>, CompileError> {
    let (pricing, inferences) = (context.pricing, context.config.inferences);
    let weights = quantise_layers(model, draft)?;
    let plan = draft.plan();
    let candidate = |step: &Step| {
        let candidate = lattice::candidate(plan, step, &weights.get(&step.id)?.weight)?;
        // One that fits alone may still not fit beside others: those are weighed below.
        lattice::choose(&[candidate], inferences).is_ok().then_some(candidate)
    };
    let mut candidates: Vec<Candidate> = plan.steps().iter().filter_map(candidate).collect();
    let transfers: BTreeMap<StepId, Price> = (draft.linear_steps().into_iter())
        .map(|(id, linear, _)| (id, transfers(draft, id, linear, context)))
        .collect();
    loop {
        let Ok(choice) = lattice::choose(&candidates, inferences) else {
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
        let mut prices = choice.prices.iter().map(|&price| pricing.lattice(price));
        candidates.retain(|c| prices.next().is_some_and(|price| price < transfers[&c.step]));
        if candidates.len() == before {
            let all = candidates.iter().map(|c| transfers[&c.step]);
            let all = all.fold((0, 0), |sum: Price, price| (sum.0 + price.0, sum.1 + price.1));
            let pays = pricing.lattice((choice.upload, choice.hint)) < all;
            let chosen = candidates.into_iter().map(|c| draft.layer(c.step)).filter(|_| pays);
            return Ok(chosen.collect());
        }
    }
}

/// What the cheapest transfers for a step cost, offline alone.
fn transfers(draft: &Draft, id: StepId, linear: LinearStep, context: &Context<'_>) -> Price {
    let input = draft.plan().fact(draft.plan().steps()[id.0].inputs[0]);
    let price = |(kind, lowering, chooser)| {
        let correlation = Correlation::Ot { kind, chooser };
        let way = LinearStep { lowering, correlation, ..linear };
        let (offline, _) = cost::linear(&way, input.shape, input.ring);
        let work = cost::linear_work(&way, input.shape, input.ring);
        context.pricing.part((&offline, &work), &Flights::default())
    };
    let ways = context.config.ot.allowed(&OtKind::ALL).flat_map(|kind| {
        fitting(&linear.geometry, input.shape).into_iter().flat_map(move |lowering| {
            context.choosers().map(move |chooser| (kind, lowering, chooser))
        })
    });
    ways.map(price).min().unwrap_or((u64::MAX, u64::MAX))
}

/// What the lattice correlations of these layers take: the upload of an inference, and the hint.
pub(crate) fn transfer(
    model: &FusedModel,
    draft: &Draft,
    layers: &BTreeSet<LayerId>,
    inferences: u64,
) -> Result<(u64, u64), CompileError> {
    if layers.is_empty() {
        return Ok((0, 0));
    }
    let weights = quantise_layers(model, draft)?;
    let plan = draft.plan();
    let steps = plan.steps().iter().filter(|step| layers.contains(&draft.layer(step.id)));
    let candidate = |step: &Step| lattice::candidate(plan, step, &weights.get(&step.id)?.weight);
    let candidates: Vec<Candidate> = steps.filter_map(candidate).collect();
    let choice =
        lattice::choose(&candidates, inferences).map_err(|fault| CompileError::Lattice {
            layer: plan.steps()[fault.step.0].name.clone(),
            fault: LatticeError::Parameters(fault),
        })?;
    Ok((choice.upload, choice.hint))
}

/// The plan with lattice correlations for the steps chosen, and its hint; the plan as it is where there are none.
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
