//! From fine to coarse, one bit after the other.

use super::sensitivity::PROBE;
use super::{Knob, Of, Progress, Search};
use crate::CompileError;
use copriv_ir::{FusedModel, FusedOp, LayerId, Widths};
use std::collections::BTreeSet;

/// Fewest bits of a weight or a value.
const FEWEST_BITS: u32 = 3;

/// Widths, each a little coarser and cheaper than the one before.
pub(super) struct Path<'a> {
    finest: Widths,
    /// The knob that loses how many bits.
    moves: Vec<(Knob<'a>, u32)>,
}

impl<'a> Path<'a> {
    /// The whole way down: always the move with the least loss for what it saves. `losses` are those of [`PROBE`] bits less than
    /// `finest` for each knob.
    pub(super) fn new(
        search: &Search<'_>,
        (knobs, losses): (&[Knob<'a>], &[f64]),
        finest: Widths,
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Self, CompileError> {
        let mut widths = finest.clone();
        let mut price = search.price(&widths)?;
        let formats = crate::narrow::format_groups(search.model);
        let touched: Vec<BTreeSet<LayerId>> =
            knobs.iter().map(|knob| touched(search.model, formats.groups(), *knob)).collect();
        let mut gains: Vec<Option<Gain>> = vec![None; knobs.len()];
        let mut stale: Vec<bool> = vec![true; knobs.len()];
        let mut moves = vec![];
        let most: usize =
            knobs.iter().map(|knob| (knob.bits(&widths) - FEWEST_BITS) as usize).sum();
        loop {
            observer(Progress { stage: "bits", done: moves.len().min(most), of: most });
            for (number, knob) in knobs.iter().enumerate().filter(|(number, _)| stale[*number]) {
                let start = knob.bits(&finest);
                gains[number] = gain(search, (*knob, start, losses[number]), &widths, price)?;
            }
            let best =
                gains.iter().enumerate().filter_map(|(number, gain)| Some((number, (*gain)?)));
            let best = best.min_by(|(_, a), (_, b)| a.loss_per_price.total_cmp(&b.loss_per_price));
            let Some((number, gain)) = best else { break };
            widths = fewer(widths, knobs[number], gain.bits);
            price = price.saturating_sub(gain.saved);
            moves.push((knobs[number], gain.bits));
            for (stale, other) in stale.iter_mut().zip(&touched) {
                *stale = !other.is_disjoint(&touched[number]);
            }
        }
        Ok(Self { finest, moves })
    }

    /// Number of places.
    pub(super) fn len(&self) -> usize {
        self.moves.len() + 1
    }

    /// The widths at a place.
    pub(super) fn place(&self, place: usize) -> Widths {
        let moves = self.moves[..place].iter();
        moves.fold(self.finest.clone(), |widths, (knob, bits)| fewer(widths, *knob, *bits))
    }
}

/// The same widths, but for so many bits that a knob loses.
fn fewer(widths: Widths, knob: Knob<'_>, bits: u32) -> Widths {
    knob.with(knob.bits(&widths) - bits, widths)
}

/// A move of one knob.
#[derive(Clone, Copy)]
struct Gain {
    bits: u32,
    saved: u64,
    loss_per_price: f64,
}

/// The best move of a knob that starts with `start` bits and loses `loss` with [`PROBE`] of them fewer: one bit, or two where one saves
/// nothing.
fn gain(
    search: &Search<'_>,
    (knob, start, loss): (Knob<'_>, u32, f64),
    widths: &Widths,
    price: u64,
) -> Result<Option<Gain>, CompileError> {
    // Each bit less means four times the noise.
    let noise = |bits: u32| loss * (2.0 * (f64::from(start - PROBE) - f64::from(bits))).exp2();
    for bits in 1..=2 {
        let before = knob.bits(widths);
        if before < FEWEST_BITS + bits || !loss.is_finite() {
            return Ok(None);
        }
        let after = match search.price(&fewer(widths.clone(), knob, bits)) {
            Ok(after) => after,
            Err(CompileError::CoarseWeights { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if after < price {
            let saved = price - after;
            let loss_per_price = (noise(before - bits) - noise(before)) / saved as f64;
            return Ok(Some(Gain { bits, saved, loss_per_price }));
        }
    }
    Ok(None)
}

/// The convolutions whose costs a knob changes: those that make its values, those that take them.
fn touched(model: &FusedModel, groups: &[usize], knob: Knob<'_>) -> BTreeSet<LayerId> {
    let group = match knob.of {
        Of::Weights => return BTreeSet::from([knob.layer]),
        Of::Activations => groups[knob.layer.0],
    };
    let is_touched = |id: usize| {
        let layer = &model.layers()[id];
        let takes = || groups[crate::narrow::source(model, layer).0.0] == group;
        matches!(layer.op, FusedOp::Conv(_)) && (groups[id] == group || takes())
    };
    (0..model.layers().len()).filter(|&id| is_touched(id)).map(LayerId).collect()
}
