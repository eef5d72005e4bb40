//! Which linear steps get lattice correlations, and their parameters and hint.

use crate::context::Context;
use crate::draft::Draft;
use crate::lower::fitting;
use crate::pricing::{Price, Pricing};
use crate::quantise::quantise_layers;
use crate::{CompileConfig, CompileError, CorrelationRule, LatticeRule};
use copriv_ir::cost::Flights;
use copriv_ir::lattice::{
    self, Candidate, Hint, LatticeError, NoParameters, PublicSeed, SecretSeed,
};
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

/// A kind of lattice correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With a hint that every client downloads once.
    Hint,
    /// With a reply to every client.
    Reply,
}

/// The layers that get lattice correlations, and which.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatticeLayers(BTreeMap<LayerId, Kind>);

impl LatticeLayers {
    /// All layers of a model.
    pub(crate) fn everywhere(model: &FusedModel) -> Self {
        Self((0..model.layers().len()).map(|layer| (LayerId(layer), Kind::Hint)).collect())
    }

    /// Whether a layer gets one.
    pub(crate) fn contains(&self, layer: &LayerId) -> bool {
        self.0.contains_key(layer)
    }

    /// The linear steps that get one of a kind.
    pub(crate) fn steps(&self, draft: &Draft, kind: Kind) -> BTreeSet<StepId> {
        let steps = draft.linear_steps().into_iter().map(|(id, ..)| id);
        steps.filter(|id| self.0.get(&draft.layer(*id)) == Some(&kind)).collect()
    }
}

/// The layers that get lattice correlations: all, none, or those where they are cheaper. In `draft` every layer that may
/// get one is multiplied directly.
pub(crate) fn select(
    model: &FusedModel,
    draft: &Draft,
    context: &Context<'_>,
    seeds: Option<&LatticeSeeds>,
) -> Result<LatticeLayers, CompileError> {
    let (correlation, rule) = (context.config.correlation, context.config.lattice);
    let all = |kind| {
        let steps = draft.linear_steps().into_iter();
        LatticeLayers(steps.map(|(id, ..)| (draft.layer(id), kind)).collect())
    };
    match (correlation, seeds, rule) {
        (CorrelationRule::Ot, ..) | (CorrelationRule::Auto, None, _) => {
            return Ok(LatticeLayers::default());
        }
        (CorrelationRule::Lattice, None, _) => return Err(CompileError::NoLatticeSeeds),
        (CorrelationRule::Lattice, _, LatticeRule::Hint) => return Ok(all(Kind::Hint)),
        (CorrelationRule::Lattice, _, LatticeRule::Reply) => return Ok(all(Kind::Reply)),
        _ => {}
    }
    let weighing = Weighing::new(model, draft, context)?;
    // Carriers are shared: each set of kinds is weighed as a whole.
    let sets: &[&[Kind]] = match rule {
        LatticeRule::Auto => &[&[], &[Kind::Hint], &[Kind::Reply], &[Kind::Hint, Kind::Reply]],
        LatticeRule::Hint => &[&[], &[Kind::Hint]],
        LatticeRule::Reply => &[&[], &[Kind::Reply]],
    };
    let choices = sets.iter().filter_map(|kinds| weighing.choose(kinds));
    let none = || match correlation {
        // With an error that names the layer that does not fit.
        CorrelationRule::Lattice => all(Kind::Hint),
        _ => LatticeLayers::default(),
    };
    Ok(choices.min_by_key(|(price, _)| *price).map_or_else(none, |(_, layers)| layers))
}

/// What the ways to make each correlation cost.
struct Weighing<'a> {
    draft: &'a Draft,
    pricing: Pricing<'a>,
    inferences: u64,
    candidates: Vec<Candidate>,
    /// The cheapest transfers of each linear step, where there may be any.
    transfers: BTreeMap<StepId, Option<Price>>,
    /// Each candidate with a reply, without the carrier.
    replies: BTreeMap<StepId, Price>,
}

impl<'a> Weighing<'a> {
    fn new(
        model: &FusedModel,
        draft: &'a Draft,
        context: &Context<'a>,
    ) -> Result<Self, CompileError> {
        let weights = quantise_layers(model, draft)?;
        let (plan, pricing) = (draft.plan(), context.pricing);
        let candidate =
            |step: &Step| lattice::candidate(plan, step, &weights.get(&step.id)?.weight);
        let candidates: Vec<Candidate> = plan.steps().iter().filter_map(candidate).collect();
        let may = context.config.correlation == CorrelationRule::Auto;
        let transfers = draft
            .linear_steps()
            .into_iter()
            .map(|(id, linear, _)| (id, may.then(|| transfers(draft, id, linear, context))));
        let reply = |c: &Candidate| {
            let choice = lattice::choose_reply(&[*c]).ok()?;
            Some((c.step, pricing.reply(choice.steps.first()?, false)))
        };
        let replies = candidates.iter().filter_map(reply).collect();
        let (transfers, inferences) = (transfers.collect(), context.config.inferences);
        Ok(Self { draft, pricing, inferences, candidates, transfers, replies })
    }

    /// The layers for which lattice correlations of some kinds are cheaper, and what all linear steps cost then; none where a
    /// step has no way.
    fn choose(&self, kinds: &[Kind]) -> Option<(Price, LatticeLayers)> {
        let hinted = if kinds.contains(&Kind::Hint) { self.hinted(kinds) } else { vec![] };
        let is_hinted = |id: StepId| hinted.iter().any(|c| c.step == id);
        let replied: Vec<Candidate> = if kinds.contains(&Kind::Reply) {
            let others = self.candidates.iter().filter(|c| !is_hinted(c.step));
            others.filter(|c| self.reply(c.step, kinds).is_some()).copied().collect()
        } else {
            vec![]
        };
        let mut total = group(&self.pricing, (&hinted, &replied), self.inferences).ok()?;
        let mut layers = LatticeLayers::default();
        for (&id, transfers) in &self.transfers {
            let layer = self.draft.layer(id);
            if is_hinted(id) {
                layers.0.insert(layer, Kind::Hint);
            } else if replied.iter().any(|c| c.step == id) {
                layers.0.insert(layer, Kind::Reply);
            } else {
                total = sum(total, (*transfers)?);
            }
        }
        Some((total, layers))
    }

    /// The price of a step with a reply where it may have one and no transfers are cheaper.
    fn reply(&self, id: StepId, kinds: &[Kind]) -> Option<Price> {
        let price = self.replies.get(&id).filter(|_| kinds.contains(&Kind::Reply))?;
        let transfers = self.transfers.get(&id).copied().flatten();
        transfers.is_none_or(|transfers| *price < transfers).then_some(*price)
    }

    /// The candidates whose upload and part of the hint cost less than any other way.
    fn hinted(&self, kinds: &[Kind]) -> Vec<Candidate> {
        // One that fits alone may still not fit beside others: those are weighed below.
        let fits = |c: &&Candidate| lattice::choose(&[**c], self.inferences).is_ok();
        let mut candidates: Vec<Candidate> = self.candidates.iter().filter(fits).copied().collect();
        let other = |id: StepId| {
            let transfers = self.transfers.get(&id).copied().flatten();
            self.reply(id, kinds).or(transfers)
        };
        loop {
            let Ok(choice) = lattice::choose(&candidates, self.inferences) else {
                // The step that fits least goes another way.
                let least = candidates.iter().max_by_key(|c| 2 * c.ring.bits() + c.log_norm);
                let Some(least) = least.map(|c| c.step) else { return vec![] };
                candidates.retain(|c| c.step != least);
                continue;
            };
            let before = candidates.len();
            let mut prices = choice.prices.iter().map(|&price| self.pricing.lattice(price));
            candidates.retain(|c| {
                let price = prices.next();
                other(c.step).is_none_or(|other| price.is_some_and(|price| price < other))
            });
            if candidates.len() == before {
                return candidates;
            }
        }
    }
}

/// What the lattice correlations of some steps take, carriers and hint included.
fn group(
    pricing: &Pricing<'_>,
    (hinted, replied): (&[Candidate], &[Candidate]),
    inferences: u64,
) -> Result<Price, NoParameters> {
    let mut total = (0, 0);
    if !hinted.is_empty() {
        let choice = lattice::choose(hinted, inferences)?;
        total = pricing.lattice((choice.upload, choice.hint));
    }
    let steps = lattice::choose_reply(replied)?.steps;
    let replies = steps.iter().enumerate().map(|(number, step)| pricing.reply(step, number == 0));
    Ok(replies.fold(total, sum))
}

fn sum(a: Price, b: Price) -> Price {
    (a.0.saturating_add(b.0), a.1.saturating_add(b.1))
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

/// What the lattice correlations of these layers take.
pub(crate) fn price(
    model: &FusedModel,
    draft: &Draft,
    layers: &LatticeLayers,
    (pricing, inferences): (&Pricing<'_>, u64),
) -> Result<Price, CompileError> {
    let weights = quantise_layers(model, draft)?;
    let plan = draft.plan();
    let candidates = |kind| -> Vec<Candidate> {
        let steps = layers.steps(draft, kind).into_iter().map(|id| &plan.steps()[id.0]);
        let candidate =
            |step: &Step| lattice::candidate(plan, step, &weights.get(&step.id)?.weight);
        steps.filter_map(candidate).collect()
    };
    let both = (&*candidates(Kind::Hint), &*candidates(Kind::Reply));
    group(pricing, both, inferences).map_err(|fault| CompileError::Lattice {
        layer: plan.steps()[fault.step.0].name.clone(),
        fault: LatticeError::Parameters(fault),
    })
}

/// The plan with lattice correlations for the steps chosen, and its hint, where one of them has a hint.
pub(crate) fn attach(
    plan: Plan,
    [hinted, replied]: &[BTreeSet<StepId>; 2],
    weights: &BTreeMap<StepId, LinearWeights>,
    config: &CompileConfig,
    seeds: Option<&LatticeSeeds>,
) -> Result<(Plan, Option<Hint>), CompileError> {
    let Some(seeds) = seeds else { return Ok((plan, None)) };
    let names: Vec<String> = plan.steps().iter().map(|step| step.name.clone()).collect();
    let named = |fault: LatticeError| {
        let step = match &fault {
            LatticeError::Parameters(fault) => fault.step,
            LatticeError::Weights(fault) => fault.step,
            LatticeError::Plan(fault) => fault.step,
        };
        CompileError::Lattice { layer: names[step.0].clone(), fault }
    };
    let mut plan = plan;
    if !replied.is_empty() {
        let wanted = |id: StepId| replied.contains(&id);
        plan = lattice::attach_reply(plan, wanted, weights, seeds.public).map_err(named)?;
    }
    if hinted.is_empty() {
        return Ok((plan, None));
    }
    let (randomness, wanted) = ((seeds.public, &seeds.secret), |id: StepId| hinted.contains(&id));
    let attached = lattice::attach(plan, wanted, weights, config.inferences, randomness);
    let (plan, hint) = attached.map_err(named)?;
    Ok((plan, Some(hint)))
}
