//! The server's side: a reply to what the client sent, and the share that it leaves.

use super::super::factors;
use super::super::hint::{HintError, check};
use super::super::ntt::{Sum, Transform};
use super::super::parameters::LatticeSet;
use super::super::public::{self, Matrix};
use super::super::residue;
use super::super::server::{Residues, Upload, mask};
use super::super::step::Kernel;
use super::super::stream::{PublicSeed, Purpose, SecretSeed, Stream};
use super::{NOUGHT_BITS, ReplyStep};
use crate::packing::{Packer, Unpacker};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// The client's public key for one inference: `b0 = a0 s + e0`, with `a0`.
pub struct ReplyKey {
    matrix: Matrix,
    carrier: Vec<Transform>,
}

impl ReplyKey {
    /// Reads the carrier; zeros where the message ends early.
    #[must_use]
    pub fn read(seed: &PublicSeed, carrier_rounding: u32, message: &mut Unpacker<'_>) -> Self {
        let set = LatticeSet::REPLY;
        let bits = set.modulus_bits() - carrier_rounding;
        let next = |_| residue::next(message, bits) << carrier_rounding;
        let residues: Vec<u128> = (0..set.dimension()).map(next).collect();
        Self { matrix: Matrix::new(set, seed), carrier: factors::transforms(set, &residues) }
    }
}

/// What hides the server's side of one inference: encryptions of zero, floods and shares `S`.
///
/// Made from a seed that is moved in and cannot be cloned. Two replies under one seed would reveal how what they answer differs.
pub struct ReplyMasks(SecretSeed);

impl ReplyMasks {
    /// From a seed that is drawn for this inference alone.
    #[must_use]
    pub const fn new(seed: SecretSeed) -> Self {
        Self(seed)
    }

    /// Appends the reply to the upload of a step; the server's share `S`, NCHW.
    ///
    /// # Errors
    /// [`HintError`] where weights are larger than the flood was chosen for.
    ///
    /// # Panics
    /// Where `weights` has another length than the geometry says.
    pub fn reply(
        &self,
        step: &ReplyStep,
        weights: &[i64],
        (seed, key): (&PublicSeed, &ReplyKey),
        (upload, reply): (&Upload, &mut Vec<u8>),
    ) -> Result<Zeroizing<Vec<u64>>, HintError> {
        check(&step.step, weights)?;
        let layout = step.layout();
        let output = layout.geometry().output_shape(layout.input());
        let chunks = uploaded(step, seed, upload);
        let mut share = Zeroizing::new(vec![0; output.elements()]);
        let products = share.par_chunks_mut(output.area() * layout.slots()).enumerate();
        let parts: Vec<Vec<u8>> = products
            .map(|(number, share)| self.product(step, (weights, number), (key, &chunks), share))
            .collect();
        parts.iter().for_each(|part| reply.extend(part));
        Ok(share)
    }

    /// The part of one product.
    fn product(
        &self,
        step: &ReplyStep,
        (weights, number): (&[i64], usize),
        (key, chunks): (&ReplyKey, &[Vec<[Transform; 2]>]),
        share: &mut [u64],
    ) -> Vec<u8> {
        let (set, layout) = (step.step.set, step.layout());
        let area = layout.geometry().output_shape(layout.input()).area();
        let kernels = kernels(step, weights, number);
        let mut packer = Packer::with_capacity(step.product_bytes(number));
        let rounding = step.step.layer.hint_rounding;
        for (tile, chunks) in chunks.iter().enumerate() {
            let part = step.step.public_part(tile, number);
            let (c1, c0) = self.encrypt(step, (tile, part), (key, chunks), &kernels);
            for &c1 in &*c1 {
                let sent = set.round(c1, rounding) >> rounding;
                residue::push(&mut packer, sent, step.first_bits());
            }
            let mut stream = self.0.stream(Purpose::Flood, step.step.index(part));
            let tile = &layout.tiles()[tile];
            for (slot, share) in share.chunks_mut(area).enumerate() {
                let c0 = &c0[layout.first_output(slot) - layout.first_output(0)..];
                for (at, position) in layout.offsets(tile).zip(layout.positions(tile)) {
                    share[position] = step.ring().reduce(stream.next_u64());
                    let sent = flood(step, c0[at], share[position], &mut stream);
                    residue::push(&mut packer, sent, step.nought_bits());
                }
            }
        }
        packer.finish()
    }

    /// `c1`, and `c0` before share and flood from a tile's first output to its last; not reduced.
    pub(super) fn encrypt(
        &self,
        step: &ReplyStep,
        (tile, part): (usize, usize),
        (key, chunks): (&ReplyKey, &[[Transform; 2]]),
        kernels: &[(usize, Transform)],
    ) -> (Residues, Residues) {
        let (set, layout) = (step.step.set, step.layout());
        let u = mask(set, &self.0, &step.step, part);
        let sum = |zero: &mut dyn Iterator<Item = &Transform>, side: usize| {
            let mut sum = Sum::new(set);
            zero.zip(u.values(set)).for_each(|(zero, u)| sum.add(zero, u));
            kernels.iter().for_each(|(chunk, kernel)| sum.add(&chunks[*chunk][side], kernel));
            sum.finish()
        };
        let mut noise = self.0.stream(Purpose::HintNoise, step.step.index(part));
        let c1 = sum(&mut key.matrix.column(0), 0);
        let c1 = c1.coefficients(0, set.degree()).map(|c1| residue::noisy(set, c1, noise.noise()));
        let c1 = Zeroizing::new(c1.collect());
        let (first, reach) = (layout.first_output(0), layout.reach(&layout.tiles()[tile]));
        let c0 = sum(&mut key.carrier.iter(), 1);
        (c1, Zeroizing::new(c0.coefficients(first, reach).collect()))
    }
}

/// What was uploaded: by tile, each chunk's public polynomial and the low bits under it.
pub(super) fn uploaded(
    step: &ReplyStep,
    seed: &PublicSeed,
    upload: &Upload,
) -> Vec<Vec<[Transform; 2]>> {
    let set = step.step.set;
    let pair = |(tile, (chunk, sent)): (usize, (usize, &Vec<[u64; 2]>))| {
        let a = public::chunk(&step.step, seed, step.step.public_part(tile, chunk));
        let sent = sent.iter().map(|&words| set.join(words));
        [Transform::of_residues(set, a.into_iter()), Transform::of_residues(set, sent)]
    };
    let tiles = upload.0.par_iter().enumerate();
    let tile = |(tile, chunks): (usize, &Vec<Vec<[u64; 2]>>)| {
        chunks.par_iter().enumerate().map(|chunk| pair((tile, chunk))).collect()
    };
    tiles.map(tile).collect()
}

/// The kernels of a product, each with its chunk.
pub(super) fn kernels(step: &ReplyStep, weights: &[i64], number: usize) -> Vec<(usize, Transform)> {
    let kernels = step.step.kernels(weights, number).into_iter().enumerate();
    let kernels = kernels.filter(|(_, kernel)| !kernel.is_empty());
    let transform = |kernel: &Kernel| Transform::of_small(step.step.set, kernel.iter().copied());
    kernels.map(|(chunk, kernel)| (chunk, transform(&kernel))).collect()
}

/// `c0` less the share, flooded and rounded to a quarter of the gap, in these units.
fn flood(step: &ReplyStep, c0: u128, share: u64, stream: &mut Stream) -> u128 {
    let (set, gap, bits) = (step.step.set, step.step.gap_bits(), step.flood_bits());
    let uniform = u128::from(stream.next_u64()) << 64 | u128::from(stream.next_u64());
    let flood = (uniform >> (128 - bits)).wrapping_sub(1 << (bits - 1));
    let masked = c0.wrapping_sub(u128::from(share) << gap).wrapping_add(flood) & set.mask();
    let rounding = gap - NOUGHT_BITS;
    set.round(masked, rounding) >> rounding
}
