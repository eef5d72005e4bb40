//! The client's side: secrets, its shares, what it sends.

use super::factors::{self, Factors};
use super::hint::Hint;
use super::layout::{Cell, Tile};
use super::parameters::LatticeSet;
use super::public::{self, Matrix};
use super::residue;
use super::step::{LatticeStep, Shared};
use super::stream::{PublicSeed, Purpose, SecretSeed};
use super::ternary::Ternary;
use crate::packing::Packer;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// Draws that are made of one secret before giving up. A plan that is fit for use needs 2.7 on average.
const MOST_DRAWS: u64 = 1000;

/// The secrets of one inference, and the client's shares that follow from them.
///
/// Made from a seed that is moved in and cannot be cloned; to be uploaded by value. Two uploads under one seed would
/// reveal differences of inputs.
pub struct ClientSecrets {
    secrets: Vec<ClientSecret>,
    /// `T` of each step, in the order of the steps.
    shares: Vec<Zeroizing<Vec<u64>>>,
    spare: SecretSeed,
    draws: u64,
}

struct ClientSecret {
    ternary: Ternary,
    noise: SecretSeed,
}

/// No draw of a secret was good: the plan's parameters are not those that its rings need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MOST_DRAWS} draws of a lattice secret were all at risk of a wrong result: the plan is unfit for use"
)]
pub struct Unlucky;

impl ClientSecrets {
    /// Draws the secrets for `steps`, each until none of its outputs is at risk. Nothing of a secret that is
    /// drawn again has left this function.
    ///
    /// # Errors
    /// [`Unlucky`].
    pub fn draw(
        seed: SecretSeed,
        shared: Shared,
        steps: &[LatticeStep],
        hint: &Hint,
    ) -> Result<Self, Unlucky> {
        let empty = |step: &LatticeStep| {
            let output = step.layout.geometry().output_shape(step.layout.input());
            Zeroizing::new(vec![0; output.elements()])
        };
        let mut shares: Vec<_> = steps.iter().map(empty).collect();
        let (mut secrets, mut draws) = (Vec::new(), 0);
        for number in 0..shared.secrets as usize {
            let secret = (0..MOST_DRAWS).find_map(|draw| {
                draws += 1;
                let index = (number as u64) << 32 | draw;
                let secret = ClientSecret::new(shared.set, seed.derive(Purpose::Secret, index));
                secret.shares(number, steps, hint, &mut shares).then_some(secret)
            });
            secrets.push(secret.ok_or(Unlucky)?);
        }
        let spare = seed.derive(Purpose::Secret, u64::MAX);
        Ok(Self { secrets, shares, spare, draws })
    }

    /// Secrets that nothing was tested of.
    pub(super) fn undrawn(seed: SecretSeed, shared: Shared) -> Self {
        let derive = |number| seed.derive(Purpose::Secret, number);
        let secrets = (0..u64::from(shared.secrets)).map(derive);
        let secrets = secrets.map(|seed| ClientSecret::new(shared.set, seed)).collect();
        Self { secrets, shares: vec![], spare: seed.derive(Purpose::Secret, u64::MAX), draws: 0 }
    }

    pub(super) fn ternary(&self, number: usize) -> &Ternary {
        &self.secrets[number].ternary
    }

    /// Draws that it took.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Takes the share `T` of step number `number`, NCHW.
    pub fn take_share(&mut self, number: usize) -> Zeroizing<Vec<u64>> {
        std::mem::take(&mut self.shares[number])
    }

    /// Appends the carrier of a secret: `b0 = a0 s + e0`.
    pub fn carrier(&self, number: usize, shared: Shared, matrix: &Matrix, message: &mut Packer) {
        let Shared { set, carrier_rounding, .. } = shared;
        let secret = &self.secrets[number];
        let mut noise = secret.noise.stream(Purpose::CarrierNoise, 0);
        for row in 0..set.rank() {
            let products = factors::sum(set, &secret.ternary, matrix.row(row), 0, set.degree());
            for &product in &*products {
                let residue = residue::noisy(set, product, noise.noise());
                let residue = set.round(residue, carrier_rounding) >> carrier_rounding;
                residue::push(message, residue, set.modulus_bits() - carrier_rounding);
            }
        }
    }

    /// Appends the upload of a step and returns its mask `R`, NCHW.
    pub fn upload(
        &self,
        step: &LatticeStep,
        seed: &PublicSeed,
        message: &mut Packer,
    ) -> Zeroizing<Vec<u64>> {
        let (ring, area) = (step.ring, step.layout.input().area());
        // Inputs that no output meets are masked all the same.
        let mut stream = self.spare.stream(Purpose::Secret, step.index(0));
        let mut mask = Zeroizing::new(vec![0; step.layout.input().elements()]);
        mask.iter_mut().for_each(|r| *r = ring.reduce(stream.next_u64()));
        let size = step.layout.channels(0).len() * area;
        let chunks = mask.par_chunks_mut(size).enumerate();
        let parts = chunks.map(|(chunk, mask)| self.upload_chunk(step, seed, chunk, mask));
        let parts: Vec<(Vec<u8>, usize)> = parts.collect();
        parts.iter().for_each(|(bytes, bits)| message.push_bytes(bytes, *bits));
        mask
    }

    /// What is sent of a chunk, as bytes and a number of bits; fills in the mask of its channels.
    fn upload_chunk(
        &self,
        step: &LatticeStep,
        seed: &PublicSeed,
        chunk: usize,
        mask: &mut [u64],
    ) -> (Vec<u8>, usize) {
        let (set, ring, layout) = (step.set, step.ring, &step.layout);
        let (rounding, gap, area) =
            (step.layer.input_rounding, step.gap_bits(), layout.input().area());
        let (touched, first) = (layout.touched(chunk), layout.channels(chunk).start);
        let (mut message, mut bits) = (Packer::default(), 0);
        let mut push = |residue: u128, width: u32| {
            residue::push(&mut message, residue >> rounding, width);
            bits += width as usize;
        };
        let mut last: Option<(usize, Factors)> = None;
        for (number, tile) in layout.tiles().iter().enumerate() {
            let public = step.public_part(number, chunk);
            let (_, factors) = match last.take() {
                Some(same) if same.0 == public => last.insert(same),
                _ => {
                    let residues = public::chunk(step, seed, public).into_iter();
                    last.insert((public, Factors::new(set, residues, touched)))
                }
            };
            let secret = &self.secrets[step.secret_of(number)];
            let part = number << 20 | chunk;
            let mut noise = secret.noise.stream(Purpose::Noise, step.index(part));
            let products = factors.product(set, &secret.ternary, 0, touched);
            for (at, (channel, cell)) in layout.cells(tile, chunk).enumerate() {
                let fresh = residue::noisy(set, products[at], noise.noise());
                let b = set.round(fresh, rounding);
                let place = |input| (channel - first) * area + input;
                match cell {
                    Cell::Own(input) => {
                        mask[place(input)] = ring.neg((b >> gap) as u64);
                        push(b, step.own_bits());
                    }
                    Cell::Twin(input) => {
                        let r = u128::from(mask[place(input)]) << gap;
                        push(b.wrapping_add(r) & set.mask(), step.full_bits());
                    }
                    Cell::Pad => push(b, step.full_bits()),
                    Cell::Unused => {}
                }
            }
        }
        (message.finish(), bits)
    }
}

impl ClientSecret {
    fn new(set: LatticeSet, seed: SecretSeed) -> Self {
        let ternary = Ternary::sample(set, &mut seed.stream(Purpose::Ternary, 0));
        Self { ternary, noise: seed }
    }

    /// Fills in the shares of all tiles that use this secret, number `number`; false where an output is at risk.
    fn shares(
        &self,
        number: usize,
        steps: &[LatticeStep],
        hint: &Hint,
        shares: &mut [Zeroizing<Vec<u64>>],
    ) -> bool {
        // The polynomials with most outputs first: where a secret fails, it then fails soon.
        let outputs = |step: &LatticeStep| step.layout.tiles()[0].outputs() * step.layout.slots();
        let mut steps: Vec<_> = steps.iter().zip(shares).collect();
        steps.sort_by_key(|(step, _)| std::cmp::Reverse(outputs(step)));
        steps.into_iter().all(|(step, share)| {
            let tiles = 0..step.layout.tiles().len();
            let tiles: Vec<usize> = tiles.filter(|&tile| step.secret_of(tile) == number).collect();
            tiles.is_empty() || self.tile_shares(step, hint, &tiles, share)
        })
    }

    /// `T = -floor(<H, s> 2^l / q)` of some tiles.
    fn tile_shares(
        &self,
        step: &LatticeStep,
        hint: &Hint,
        tiles: &[usize],
        share: &mut [u64],
    ) -> bool {
        let (set, layout) = (step.set, &step.layout);
        let area = share.len() / layout.geometry().out_channels;
        let reach = |&tile: &usize| layout.reach(&layout.tiles()[tile]);
        let longest = tiles.iter().map(reach).max().unwrap_or(0);
        let safe = AtomicBool::new(true);
        let polynomials = share.par_chunks_mut(area * layout.slots()).enumerate();
        polynomials.for_each(|(polynomial, share)| {
            if !safe.load(Ordering::Relaxed) {
                return;
            }
            let factors = Factors::new(set, hint.polynomial(step, polynomial), longest);
            for &tile in tiles {
                let tile = &layout.tiles()[tile];
                let first = layout.first_output(0);
                let g = factors.product(set, &self.ternary, first, layout.reach(tile));
                for (slot, share) in share.chunks_mut(area).enumerate() {
                    let g = &g[layout.first_output(slot) - first..];
                    if !round(step, g, tile, share) {
                        safe.store(false, Ordering::Relaxed);
                    }
                }
            }
        });
        safe.into_inner()
    }
}

/// The client's shares of one channel's outputs from `G`, in which `g` begins with the first output; whether none is at
/// risk.
fn round(step: &LatticeStep, g: &[u128], tile: &Tile, share: &mut [u64]) -> bool {
    let (ring, gap, margin) = (step.ring, step.gap_bits(), step.margin());
    let low = (1u128 << gap) - 1;
    let mut near = false;
    for (at, position) in step.layout.offsets(tile).zip(step.layout.positions(tile)) {
        let g = g[at];
        near |= (g & low) < margin || (g & low) > low.saturating_sub(margin);
        share[position] = ring.neg((g >> gap) as u64);
    }
    !near
}
