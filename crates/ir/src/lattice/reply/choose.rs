//! The public choice of parameters: the fewest bytes that the flood allows.

use super::super::choose::{Candidate, Group, NoParameters, cheapest_layouts};
use super::super::layout::Layout;
use super::super::noise::ternary_rounding;
use super::super::parameters::LatticeSet;
use super::{FLOOD_BITS, FLOODED_DEVIATIONS, NOUGHT_BITS, ReplyLayer, ReplyStep};
use crate::Ring;
use std::sync::Arc;

/// The parameters of all candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyChoice {
    /// Low bits that the client leaves out of its carrier.
    pub carrier_rounding: u32,
    /// The steps, in the order of the candidates. The carrier travels with the first.
    pub steps: Vec<ReplyStep>,
}

/// The cheapest parameters.
///
/// # Errors
/// [`NoParameters`] names the first step whose ring or kernel is too wide.
pub fn choose_reply(candidates: &[Candidate]) -> Result<ReplyChoice, NoParameters> {
    // The carrier may make half of the noise that the most sensitive step bears.
    let rounding = |c: &Candidate| ternary_rounding(LatticeSet::REPLY, bearable(c.ring) / 2.0);
    let carrier_rounding = candidates.iter().map(rounding).min().unwrap_or(0);
    let mut steps = Vec::with_capacity(candidates.len());
    for group in Group::all(candidates) {
        let layouts = cheapest_layouts(&group, LatticeSet::REPLY, 1);
        let layouts = layouts.ok_or_else(|| unfit(&group.candidates[0]))?;
        // What is read in common is rounded as its most sensitive reader bears.
        let mut rounding = u32::MAX;
        for (candidate, layout) in group.candidates.iter().zip(&layouts) {
            let most = bearable(candidate.ring).max(1.0).log2() as u32 + 2;
            let mut below = (0..=most.min(rounding)).rev();
            let fits = |r: &u32| step(candidate, (&group, layout), *r, carrier_rounding).is_some();
            rounding = below.find(fits).ok_or_else(|| unfit(candidate))?;
        }
        let all = group.candidates.iter().zip(&layouts);
        steps.extend(
            all.filter_map(|(c, layout)| step(c, (&group, layout), rounding, carrier_rounding)),
        );
    }
    steps.sort_by_key(ReplyStep::id);
    Ok(ReplyChoice { carrier_rounding, steps })
}

/// The step with inputs rounded so far; `None` where it cannot be flooded.
fn step(
    candidate: &Candidate,
    (group, layout): (&Group, &Arc<Layout>),
    input_rounding: u32,
    carrier_rounding: u32,
) -> Option<ReplyStep> {
    let Candidate { step, ref geometry, ring, log_norm, .. } = *candidate;
    let slots = layout.slots() as u32;
    let log_norm = log_norm + slots.next_power_of_two().ilog2();
    let layer = ReplyLayer { input_rounding, log_norm, slots };
    let (ids, of) = ((step, group.window.source), (geometry, Arc::clone(layout), ring));
    ReplyStep::with_layout(ids, layer, carrier_rounding, of).ok()
}

/// Largest deviation of an output's noise that the flood hides.
fn bearable(ring: Ring) -> f64 {
    let bits = LatticeSet::REPLY.modulus_bits() - ring.bits();
    (f64::from(bits) - f64::from(NOUGHT_BITS + FLOOD_BITS)).exp2() / FLOODED_DEVIATIONS
}

fn unfit(candidate: &Candidate) -> NoParameters {
    let Candidate { step, ring, log_norm, .. } = *candidate;
    // Fresh noise alone: 2 bits for the inputs' and 3 for six deviations, and at least what the carrier makes.
    let noise = log_norm.max(12) / 2 + 6 + NOUGHT_BITS + FLOOD_BITS;
    let fits = LatticeSet::REPLY.modulus_bits().saturating_sub(noise);
    NoParameters { step, ring, fits }
}
