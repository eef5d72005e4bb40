//! The public choice of parameters: the fewest bytes whose expected number of draws is small.

use super::hint::Hint;
use super::layout::{Bits, Layout};
use super::noise::LatticeLayer;
use super::parameters::LatticeSet;
use super::step::{LatticeStep, Shared, UPLOAD_TAG};
use crate::{ConvGeometry, Ring, Shape, StepId};
use std::sync::Arc;

/// Expected number of outputs at risk under one secret: about `e` to this power draws.
const MOST_RISK: f64 = 1.0;

/// Most secrets of one inference.
pub(crate) const MOST_SECRETS: u32 = 1024;

/// A linear step that is to have a lattice correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The step.
    pub step: StepId,
    /// Its convolution.
    pub geometry: ConvGeometry,
    /// Shape of its input.
    pub input: Shape,
    /// Its ring.
    pub ring: Ring,
    /// The squares of each output channel's weights sum to at most two to this power.
    pub log_norm: u32,
}

/// The parameters of all candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What they share.
    pub shared: Shared,
    /// Those of each candidate, in their order.
    pub layers: Vec<LatticeLayer>,
    /// Bytes of each candidate's upload without carriers, and of its part of the hint.
    pub prices: Vec<(u64, u64)>,
    /// Bytes that a client sends for an inference, to a byte for each step.
    pub upload: u64,
    /// Bytes of the hint.
    pub hint: u64,
}

/// No parameter set is wide enough, or a kernel is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "step {} has no lattice correlation in {ring}: its kernel must be at most 22 wide and its ring narrow enough \
     for the noise of its weights (about {fits} bits here); lower ring, scale or weight_scale, or take correlation=ot",
    step.0
)]
pub struct NoParameters {
    /// The step with the widest ring or largest weights.
    pub step: StepId,
    /// Its ring.
    pub ring: Ring,
    /// Bits of a ring that would fit.
    pub fits: u32,
}

/// The cheapest parameters when a client downloads the hint once for `inferences` inferences.
///
/// # Errors
/// [`NoParameters`] names the step that fits least.
pub fn choose(candidates: &[Candidate], inferences: u64) -> Result<Choice, NoParameters> {
    let layout = |c: &Candidate| {
        cheapest_layout(&c.geometry, c.input, LatticeSet::R512x5, inferences).map(Arc::new)
    };
    let layouts = candidates.iter().map(layout).collect::<Option<Vec<_>>>();
    let Some(layouts) = layouts else { return Err(unfit(candidates)) };
    let tiles = layouts.iter().map(|layout| layout.tiles().len()).max().unwrap_or(1);
    let least = u32::try_from(tiles).unwrap_or(u32::MAX);
    let mut best: Option<(u64, Choice)> = None;
    for set in LatticeSet::HINTS {
        let counts = std::iter::successors(Some(least), |count| count.checked_mul(2));
        let most = MOST_SECRETS.min(least.saturating_mul(2).max(64));
        for secrets in counts.take_while(|count| *count <= most) {
            let search = Search::new(set, secrets, candidates, &layouts);
            let Some(choice) = search.map(Search::finish) else { continue };
            let price = choice.upload + choice.hint / inferences.max(1);
            if best.as_ref().is_none_or(|(least, _)| price < *least) {
                best = Some((price, choice));
            }
        }
    }
    best.map(|(_, choice)| choice).ok_or_else(|| unfit(candidates))
}

/// The layout with the fewest bytes, roughly, where what comes back of a product serves so many inferences.
pub(super) fn cheapest_layout(
    geometry: &ConvGeometry,
    input: Shape,
    set: LatticeSet,
    inferences: u64,
) -> Option<Layout> {
    let bits = Bits::of(set);
    let price = |layout: &Layout| {
        let (own, full) = layout.sent();
        let products = layout.polynomials() as u64 * bits.product / inferences.max(1);
        own * bits.own + full * bits.full + products
    };
    let mut best = Layout::new(geometry, input, set, 1)?;
    for slots in 2..=geometry.out_channels {
        let Some(layout) = Layout::new(geometry, input, set, slots) else { break };
        if price(&layout) < price(&best) {
            best = layout;
        }
    }
    Some(best)
}

fn unfit(candidates: &[Candidate]) -> NoParameters {
    let least = candidates.iter().max_by_key(|c| 2 * c.ring.bits() + c.log_norm);
    let (step, ring, norm) = least
        .map_or((StepId(0), Ring::new(64).expect("at most 64"), 0), |c| {
            (c.step, c.ring, c.log_norm)
        });
    // 2^(q - l) >= 13 sigma outputs, for 2^15 outputs a secret.
    let noise = norm / 2 + 2 + 4 + 15;
    let [.., widest] = LatticeSet::HINTS;
    NoParameters { step, ring, fits: widest.modulus_bits().saturating_sub(noise) }
}

/// The search for roundings with one parameter set and number of secrets: from the finest, the step that saves
/// most bytes for the risk goes first.
struct Search {
    shared: Shared,
    steps: Vec<LatticeStep>,
    /// Risk of each secret.
    risks: Vec<f64>,
}

impl Search {
    fn new(
        set: LatticeSet,
        secrets: u32,
        candidates: &[Candidate],
        layouts: &[Arc<Layout>],
    ) -> Option<Self> {
        let fine = Shared { set, secrets, carrier_rounding: 0 };
        let first = Self::with(fine, candidates, layouts)?;
        let roundings = first.steps.iter().map(|step| step.layer.rounding_within(set, 0.25));
        let carrier_rounding = roundings.min().unwrap_or(0);
        Self::with(Shared { carrier_rounding, ..fine }, candidates, layouts)
    }

    fn with(shared: Shared, candidates: &[Candidate], layouts: &[Arc<Layout>]) -> Option<Self> {
        if candidates.iter().any(|c| c.ring.bits() + 1 >= shared.set.modulus_bits()) {
            return None;
        }
        let step = |(candidate, layout): (&Candidate, &Arc<Layout>)| {
            let Candidate { step, log_norm, ring, .. } = *candidate;
            let slots = layout.slots() as u32;
            let layer = LatticeLayer {
                input_rounding: 0,
                hint_rounding: 0,
                log_norm: log_norm + slots.next_power_of_two().ilog2(),
                first_secret: 0,
                slots,
            };
            let hint_rounding = layer.fitting_hint_rounding(shared.set);
            let layer = LatticeLayer { hint_rounding, ..layer };
            LatticeStep::with_layout(step, layer, shared, (Arc::clone(layout), ring))
        };
        let steps = candidates.iter().zip(layouts).map(step).collect();
        let risks = vec![0.0; shared.secrets as usize];
        let mut search = Self { shared, steps, risks };
        search.spread();
        search.roughen().then_some(search)
    }

    /// Gives each step the secrets that bear least so far, the riskiest step first.
    fn spread(&mut self) {
        let total = |step: &LatticeStep| step.risks().map(|(_, risk)| risk).sum::<f64>();
        let mut order: Vec<usize> = (0..self.steps.len()).collect();
        order.sort_by(|&a, &b| total(&self.steps[b]).total_cmp(&total(&self.steps[a])));
        for number in order {
            let step = &self.steps[number];
            let (tiles, secrets) = (step.layout.tiles().len(), self.risks.len());
            let worst = |first: &usize| {
                let used = (0..tiles).map(|tile| self.risks[(first + tile) % secrets]);
                used.fold(0.0, f64::max)
            };
            let first = (0..secrets).min_by(|a, b| worst(a).total_cmp(&worst(b))).unwrap_or(0);
            self.steps[number].layer.first_secret = first as u32;
            self.bear(number, 1.0);
        }
    }

    fn bear(&mut self, number: usize, sign: f64) {
        let Self { steps, risks, .. } = self;
        steps[number].risks().for_each(|(secret, risk)| risks[secret] += sign * risk);
    }

    /// Rounds as roughly as the risk allows; false where it is too large from the start.
    fn roughen(&mut self) -> bool {
        if self.risks.iter().any(|risk| *risk > MOST_RISK) {
            return false;
        }
        let mut open: Vec<usize> = (0..self.steps.len()).collect();
        while let Some(number) = self.cheapest(&open) {
            let finer = self.steps[number].layer;
            let mut layer = LatticeLayer { input_rounding: finer.input_rounding + 1, ..finer };
            layer.hint_rounding = layer.fitting_hint_rounding(self.shared.set);
            let has_bits = layer.input_rounding < self.steps[number].gap_bits();
            self.change(number, layer);
            if !has_bits || self.risks.iter().any(|risk| *risk > MOST_RISK) {
                self.change(number, finer);
                open.retain(|other| *other != number);
            }
        }
        true
    }

    fn change(&mut self, number: usize, layer: LatticeLayer) {
        self.bear(number, -1.0);
        self.steps[number].layer = layer;
        self.bear(number, 1.0);
    }

    /// The open step that saves most for the risk it adds.
    fn cheapest(&self, open: &[usize]) -> Option<usize> {
        let worth = |&number: &usize| {
            let step = &self.steps[number];
            let (own, full) = step.layout.sent();
            let risk: f64 = step.risks().map(|(_, risk)| risk).sum();
            (own + full) as f64 / risk
        };
        open.iter().copied().max_by(|a, b| worth(a).total_cmp(&worth(b)))
    }

    fn finish(self) -> Choice {
        let carriers = self.steps.first().map_or(0, LatticeStep::carrier_bits);
        let carriers = carriers.div_ceil(8) * u64::from(self.shared.secrets);
        let price = |step: &LatticeStep| {
            (UPLOAD_TAG as u64 + step.upload_bits().div_ceil(8), step.hint_bytes())
        };
        let prices: Vec<_> = self.steps.iter().map(price).collect();
        let uploads: u64 = prices.iter().map(|(upload, _)| upload).sum();
        let layers = self.steps.iter().map(|step| step.layer).collect();
        let hint = Hint::predicted_size(&self.steps);
        Choice { shared: self.shared, layers, prices, upload: uploads + carriers, hint }
    }
}
