//! The client's side: its secret, what it sends, and its share from the reply.

use super::super::client::ClientSecrets;
use super::super::factors::Factors;
use super::super::parameters::LatticeSet;
use super::super::public::Matrix;
use super::super::residue;
use super::super::server::Residues;
use super::super::step::Shared;
use super::super::stream::{PublicSeed, SecretSeed};
#[cfg(test)]
use super::super::ternary::Ternary;
use super::{NOUGHT_BITS, ReplyStep};
use crate::packing::{Packer, Unpacker};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// The client's secret of one inference, for all its steps with a reply: each of their chunks and tiles has a public polynomial of its own.
///
/// Made from a seed that is moved in and cannot be cloned, as [`ClientSecrets`] are.
pub struct ReplySecret {
    secrets: ClientSecrets,
    shared: Shared,
}

impl ReplySecret {
    /// From a seed that is drawn for this inference alone.
    #[must_use]
    pub fn new(seed: SecretSeed, carrier_rounding: u32) -> Self {
        let shared = Shared { set: LatticeSet::REPLY, secrets: 1, carrier_rounding };
        Self { secrets: ClientSecrets::undrawn(seed, shared), shared }
    }

    /// Appends the carrier, which the first upload begins with.
    pub fn carrier(&self, seed: &PublicSeed, message: &mut Packer) {
        self.secrets.carrier(0, self.shared, &Matrix::new(self.shared.set, seed), message);
    }

    /// Appends the upload of a step and returns its mask `R`, NCHW.
    pub fn upload(
        &self,
        step: &ReplyStep,
        seed: &PublicSeed,
        message: &mut Packer,
    ) -> Zeroizing<Vec<u64>> {
        self.secrets.upload(&step.step, seed, message)
    }

    /// The client's share `T = round((c0 - <c1, s>) 2^l / q)` of a step, NCHW, from the reply to its upload; some numbers where that
    /// ends early.
    #[must_use]
    pub fn share(&self, step: &ReplyStep, reply: &[u8]) -> Zeroizing<Vec<u64>> {
        let (set, ring, gap) = (step.step.set, step.ring(), step.step.gap_bits());
        let phases = self.phases(step, reply);
        let round = |&phase| ring.reduce((set.round(phase, gap) >> gap) as u64);
        Zeroizing::new(phases.iter().map(round).collect())
    }

    /// `c0 - <c1, s>` of all outputs.
    pub(super) fn phases(&self, step: &ReplyStep, reply: &[u8]) -> Residues {
        let layout = step.layout();
        let output = layout.geometry().output_shape(layout.input());
        let mut phases = Zeroizing::new(vec![0; output.elements()]);
        let starts = (0..layout.polynomials()).scan(0, |next, number| {
            let start = *next;
            *next += step.product_bytes(number);
            Some(start)
        });
        let starts: Vec<usize> = starts.collect();
        let products = phases.par_chunks_mut(output.area() * layout.slots()).zip(starts);
        products.for_each(|(phases, start)| {
            let part = Unpacker::new(reply.get(start..).unwrap_or_default());
            self.product(step, part, output.area(), phases);
        });
        phases
    }

    /// Those of one product.
    fn product(&self, step: &ReplyStep, mut part: Unpacker<'_>, area: usize, phases: &mut [u128]) {
        let (set, layout) = (step.step.set, step.layout());
        let roundings = [step.step.layer.hint_rounding, step.step.gap_bits() - NOUGHT_BITS];
        for tile in layout.tiles() {
            let next = |_| residue::next(&mut part, step.first_bits()) << roundings[0];
            let c1: Vec<u128> = (0..set.degree()).map(next).collect();
            let (first, reach) = (layout.first_output(0), layout.reach(tile));
            let factors = Factors::new(set, c1.into_iter(), reach);
            let g = factors.product(set, self.secrets.ternary(0), first, reach);
            for (slot, phases) in phases.chunks_mut(area).enumerate() {
                let g = &g[layout.first_output(slot) - first..];
                for (at, position) in layout.offsets(tile).zip(layout.positions(tile)) {
                    let c0 = residue::next(&mut part, step.nought_bits()) << roundings[1];
                    phases[position] = c0.wrapping_sub(g[at]) & set.mask();
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn ternary(&self) -> &Ternary {
        self.secrets.ternary(0)
    }
}
