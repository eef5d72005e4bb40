//! The public choice of parameters: the fewest bytes whose expected number of draws is small.

use super::hint::Hint;
use super::layout::{Bits, Layout};
use super::noise::LatticeLayer;
use super::parameters::LatticeSet;
use super::step::{LatticeStep, Shared};
use super::window::{Window, grouped};
use crate::{ConvGeometry, Ring, Shape, StepId, ValueId};
use std::sync::Arc;

/// Expected number of outputs at risk under one secret: about `e` to this power draws.
const MOST_RISK: f64 = 1.0;

/// How much noise the rounding of the hint may make, in parts of what the inputs' noise makes: the more, the smaller the hint,
/// and the larger uploads.
const HINT_NOISE: [f64; 3] = [0.5, 1.0, 2.0];

/// Most secrets of one inference.
pub(crate) const MOST_SECRETS: u32 = 1024;

/// A linear step that is to have a lattice correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The step.
    pub step: StepId,
    /// The value that it reads: steps that read one value share its upload where they can.
    pub reads: ValueId,
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
    let laid = |group: Group| {
        let layouts = cheapest_layouts(&group, LatticeSet::R512x5, inferences)?;
        Some((group, layouts))
    };
    let groups = Group::all(candidates).into_iter().map(laid).collect::<Option<Vec<_>>>();
    let Some(groups) = groups else { return Err(unfit(candidates)) };
    let tiles = groups.iter().map(|(_, layouts)| layouts[0].tiles().len()).max().unwrap_or(1);
    let least = u32::try_from(tiles).unwrap_or(u32::MAX);
    let mut best: Option<(u64, Choice)> = None;
    for set in LatticeSet::HINTS {
        let counts = std::iter::successors(Some(least), |count| count.checked_mul(2));
        let most = MOST_SECRETS.min(least.saturating_mul(2).max(64));
        for secrets in counts.take_while(|count| *count <= most) {
            let searches = HINT_NOISE
                .iter()
                .filter_map(|&part| Search::new(set, secrets, part, &groups).map(Search::finish));
            for choice in searches {
                let price = choice.upload + choice.hint / inferences.max(1);
                if best.as_ref().is_none_or(|(least, _)| price < *least) {
                    best = Some((price, choice));
                }
            }
        }
    }
    best.map(|(_, choice)| choice).ok_or_else(|| unfit(candidates))
}

/// Candidates that share an upload.
pub(super) struct Group {
    pub(super) candidates: Vec<Candidate>,
    pub(super) window: Window,
}

impl Group {
    /// All of them.
    pub(super) fn all(candidates: &[Candidate]) -> Vec<Self> {
        let window = |group: &[Candidate]| {
            let first = group.first()?;
            let alike = group.iter().all(|c| (c.reads, c.ring) == (first.reads, first.ring));
            let geometries = group.iter().map(|c| c.geometry);
            Window::around(first.step, geometries, first.input).filter(|_| alike)
        };
        let groups = grouped(candidates.iter().copied(), |group| window(group).is_some());
        let all = groups
            .into_iter()
            .filter_map(|candidates| window(&candidates).map(|window| Self { window, candidates }));
        all.collect()
    }
}

/// The layouts of a group with the fewest bytes, roughly, where what comes back of a product serves so many inferences.
pub(super) fn cheapest_layouts(
    group: &Group,
    set: LatticeSet,
    inferences: u64,
) -> Option<Vec<Arc<Layout>>> {
    let bits = Bits::of(set);
    let price = |layouts: &[Arc<Layout>]| {
        let (own, full) = layouts[0].sent();
        let products: usize = layouts.iter().map(|layout| layout.polynomials()).sum();
        own * bits.own + full * bits.full + products as u64 * bits.product / inferences.max(1)
    };
    let with = |slots| -> Option<Vec<_>> {
        let layout =
            |c: &Candidate| Layout::new(&group.window.geometry(&c.geometry), c.input, set, slots);
        group.candidates.iter().map(|c| layout(c).map(Arc::new)).collect()
    };
    let mut best = with(1)?;
    for layouts in (2..).map_while(with) {
        if price(&layouts) < price(&best) {
            best = layouts;
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

/// The search for roundings with one parameter set and number of secrets: from the finest, the group that saves
/// most bytes for the risk goes first.
struct Search {
    shared: Shared,
    /// One of [`HINT_NOISE`].
    part: f64,
    /// The steps of each group.
    groups: Vec<Vec<LatticeStep>>,
    /// Risk of each secret.
    risks: Vec<f64>,
}

impl Search {
    fn new(
        set: LatticeSet,
        secrets: u32,
        part: f64,
        groups: &[(Group, Vec<Arc<Layout>>)],
    ) -> Option<Self> {
        let fine = Shared { set, secrets, carrier_rounding: 0 };
        let first = Self::with(fine, part, groups)?;
        let steps = first.groups.iter().flatten();
        let roundings = steps.map(|step| step.layer.rounding_within(set, 0.25));
        let carrier_rounding = roundings.min().unwrap_or(0);
        Self::with(Shared { carrier_rounding, ..fine }, part, groups)
    }

    fn with(shared: Shared, part: f64, groups: &[(Group, Vec<Arc<Layout>>)]) -> Option<Self> {
        let widest = groups.iter().map(|(group, _)| group.candidates[0].ring.bits()).max();
        if widest.unwrap_or(0) + 1 >= shared.set.modulus_bits() {
            return None;
        }
        let step = |group: &Group, candidate: &Candidate, layout: &Arc<Layout>| {
            let Candidate { step, ref geometry, log_norm, ring, .. } = *candidate;
            let slots = layout.slots() as u32;
            let layer = LatticeLayer {
                input_rounding: 0,
                hint_rounding: 0,
                log_norm: log_norm + slots.next_power_of_two().ilog2(),
                first_secret: 0,
                slots,
            };
            let hint_rounding = layer.rounding_within(shared.set, part);
            let layer = LatticeLayer { hint_rounding, ..layer };
            let (ids, of) = ((step, group.window.source), (geometry, Arc::clone(layout), ring));
            LatticeStep::with_layout(ids, layer, shared, of)
        };
        let steps = |(group, layouts): &(Group, Vec<Arc<Layout>>)| {
            let all = group.candidates.iter().zip(layouts);
            all.map(|(candidate, layout)| step(group, candidate, layout)).collect()
        };
        let groups = groups.iter().map(steps).collect();
        let risks = vec![0.0; shared.secrets as usize];
        let mut search = Self { shared, part, groups, risks };
        search.spread();
        search.roughen().then_some(search)
    }

    /// Gives each group the secrets that bear least so far, the riskiest first.
    fn spread(&mut self) {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by(|&a, &b| risk(&self.groups[b]).total_cmp(&risk(&self.groups[a])));
        for number in order {
            let tiles = self.groups[number][0].layout.tiles().len();
            let secrets = self.risks.len();
            let worst = |first: &usize| {
                let used = (0..tiles).map(|tile| self.risks[(first + tile) % secrets]);
                used.fold(0.0, f64::max)
            };
            let first = (0..secrets).min_by(|a, b| worst(a).total_cmp(&worst(b))).unwrap_or(0);
            for step in &mut self.groups[number] {
                step.layer.first_secret = first as u32;
            }
            self.bear(number, 1.0);
        }
    }

    fn bear(&mut self, number: usize, sign: f64) {
        let Self { groups, risks, .. } = self;
        let all = groups[number].iter().flat_map(LatticeStep::risks);
        all.for_each(|(secret, risk)| risks[secret] += sign * risk);
    }

    /// Rounds as roughly as the risk allows; false where it is too large from the start.
    fn roughen(&mut self) -> bool {
        if self.risks.iter().any(|risk| *risk > MOST_RISK) {
            return false;
        }
        let (set, part) = (self.shared.set, self.part);
        let mut open: Vec<usize> = (0..self.groups.len()).collect();
        while let Some(number) = self.cheapest(&open) {
            let finer = self.groups[number].clone();
            let mut rougher = finer.clone();
            for step in &mut rougher {
                step.layer.input_rounding += 1;
                step.layer.hint_rounding = step.layer.rounding_within(set, part);
            }
            let has_bits = rougher.iter().all(|step| {
                let most = (step.gap_bits() - 1).min(LatticeLayer::MOST_ROUNDING);
                step.layer.input_rounding <= most
            });
            self.change(number, rougher);
            if !has_bits || self.risks.iter().any(|risk| *risk > MOST_RISK) {
                self.change(number, finer);
                open.retain(|other| *other != number);
            }
        }
        true
    }

    fn change(&mut self, number: usize, steps: Vec<LatticeStep>) {
        self.bear(number, -1.0);
        self.groups[number] = steps;
        self.bear(number, 1.0);
    }

    /// The open group that saves most for the risk it adds.
    fn cheapest(&self, open: &[usize]) -> Option<usize> {
        let worth = |&number: &usize| {
            let group = &self.groups[number];
            let (own, full) = group[0].layout.sent();
            (own + full) as f64 / risk(group)
        };
        open.iter().copied().max_by(|a, b| worth(a).total_cmp(&worth(b)))
    }

    fn finish(self) -> Choice {
        let mut steps: Vec<LatticeStep> = self.groups.into_iter().flatten().collect();
        steps.sort_by_key(LatticeStep::id);
        let carriers = steps.first().map_or(0, LatticeStep::carrier_bits);
        let carriers = carriers.div_ceil(8) * u64::from(self.shared.secrets);
        let price = |step: &LatticeStep| (step.message_bytes(0), step.hint_bytes());
        let prices: Vec<_> = steps.iter().map(price).collect();
        let uploads: u64 = prices.iter().map(|(upload, _)| upload).sum();
        let layers = steps.iter().map(|step| step.layer).collect();
        let hint = Hint::predicted_size(&steps);
        Choice { shared: self.shared, layers, prices, upload: uploads + carriers, hint }
    }
}

/// The expected number of a group's outputs at risk.
fn risk(group: &[LatticeStep]) -> f64 {
    group.iter().flat_map(LatticeStep::risks).map(|(_, risk)| risk).sum()
}
