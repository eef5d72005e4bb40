//! The server's side: its shares from what the client sent.

use super::factors::{self, Factors};
use super::layout::{Cell, Tile};
use super::ntt::{Sum, Transform};
use super::parameters::LatticeSet;
use super::residue;
use super::step::{LatticeStep, Shared};
use super::stream::{Purpose, SecretSeed};
use super::ternary::Ternary;
use crate::lowering::mat_mul;
use crate::packing::Unpacker;
use crate::{ConvGeometry, MatMulShape, Ring};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// Words of what is secret, and residues.
type Words = Zeroizing<Vec<u64>>;
pub(super) type Residues = Zeroizing<Vec<u128>>;

/// What a secret's carrier says: for outputs that stand close together, and for others.
pub struct Carrier {
    near: Factors,
    far: Vec<Transform>,
}

impl Carrier {
    /// Reads a carrier; zeros where the message ends early.
    #[must_use]
    pub fn read(shared: Shared, message: &mut Unpacker<'_>) -> Self {
        let Shared { set, carrier_rounding, .. } = shared;
        let bits = set.modulus_bits() - carrier_rounding;
        let mut next = || residue::next(message, bits) << carrier_rounding;
        let residues: Vec<u128> = (0..set.dimension()).map(|_| next()).collect();
        let near = Factors::new(set, residues.iter().copied(), 0);
        Self { near, far: factors::transforms(set, &residues) }
    }

    /// Coefficients of its product with `u`.
    fn product(&self, set: LatticeSet, u: &Ternary, first: usize, count: usize) -> Residues {
        if count > factors::FEW {
            factors::sum(set, u, &self.far, first, count)
        } else {
            self.near.product(set, u, first, count)
        }
    }
}

/// What the client sent for the inputs of a step: its polynomials as words, by tile and chunk; what was not sent is zero.
pub struct Upload(pub(super) Vec<Vec<Vec<[u64; 2]>>>);

/// The server's share `S` of a step, NCHW, from its upload. `carriers` are those of the secrets that the step uses, by
/// number.
///
/// # Panics
/// Where `weights` has another length than the geometry says, or a carrier is missing.
#[must_use]
pub fn server_share(
    step: &LatticeStep,
    weights: &[i64],
    seed: &SecretSeed,
    carriers: &[Option<Carrier>],
    upload: &Upload,
) -> Zeroizing<Vec<u64>> {
    let (gap, ring) = (step.gap_bits(), step.ring);
    let round = |z: u128| ring.reduce((z >> gap) as u64);
    evaluate(step, weights, seed, (carriers, upload), round)
}

/// `W b + u b0` at every output, as `finish` leaves it.
pub(super) fn evaluate(
    step: &LatticeStep,
    weights: &[i64],
    seed: &SecretSeed,
    (carriers, upload): (&[Option<Carrier>], &Upload),
    finish: impl Fn(u128) -> u64 + Sync,
) -> Zeroizing<Vec<u64>> {
    let layout = &step.layout;
    let output = layout.geometry().output_shape(layout.input());
    let products = Products::new(step, weights, &upload.0);
    let (area, slots) = (output.area(), layout.slots());
    let mut share = Zeroizing::new(vec![0; output.elements()]);
    share.par_chunks_mut(area * slots).enumerate().for_each(|(polynomial, share)| {
        let mask = mask(step.set, seed, step, polynomial);
        for (number, tile) in layout.tiles().iter().enumerate() {
            let carrier = carriers[step.secret_of(number)].as_ref();
            let carrier = carrier.expect("carriers come before the uploads that need them");
            let z = products.sum(number, polynomial, (carrier, &mask));
            let places = layout.offsets(tile).zip(layout.positions(tile));
            for (slot, share) in share.chunks_mut(area).enumerate() {
                let z = &z[layout.first_output(slot) - layout.first_output(0)..];
                places.clone().for_each(|(at, position)| share[position] = finish(z[at]));
            }
        }
    });
    share
}

/// The products of a step's weights with its upload.
struct Products<'a> {
    step: &'a LatticeStep,
    weights: &'a [i64],
    form: Form,
}

enum Form {
    /// One output channel to a product: all outputs, by tile and word, from plain convolutions.
    Plain(Vec<Vec<Words>>),
    /// Several: the upload's chunks, to be multiplied with whole kernel polynomials, for each kernel meets what was sent for
    /// the zeros of the others.
    Shared(Vec<Transform>),
}

impl<'a> Products<'a> {
    fn new(step: &'a LatticeStep, weights: &'a [i64], uploads: &[Vec<Vec<[u64; 2]>>]) -> Self {
        let set = step.set;
        if step.layout.slots() > 1 {
            let chunks = uploads.iter().flatten();
            let residues = |chunk: &'_ Vec<[u64; 2]>| {
                Transform::of_residues(set, chunk.iter().map(|&words| set.join(words)))
            };
            return Self { step, weights, form: Form::Shared(chunks.map(residues).collect()) };
        }
        let words: Vec<u64> = weights.iter().map(|weight| weight.cast_unsigned()).collect();
        let words = Zeroizing::new(words);
        let products = step.layout.tiles().iter().zip(uploads).map(|(tile, chunks)| {
            (0..set.words()).map(|word| weigh(step, tile, &words, chunks, word)).collect()
        });
        let form = Form::Plain(products.collect());
        Self { step, weights, form }
    }

    /// `W b + u b0` from the first output of a polynomial's first slot to the last of its last.
    fn sum(&self, tile: usize, polynomial: usize, (b0, u): (&Carrier, &Ternary)) -> Residues {
        let (set, layout) = (self.step.set, &self.step.layout);
        let number = tile;
        let tile = &layout.tiles()[tile];
        let (first, reach) = (layout.first_output(0), layout.reach(tile));
        match &self.form {
            Form::Plain(products) => {
                let mut z = b0.product(set, u, first, reach);
                for (output, at) in layout.offsets(tile).enumerate() {
                    let place = polynomial * tile.outputs() + output;
                    let word =
                        |word: usize| products[number].get(word).map_or(0, |words| words[place]);
                    z[at] = z[at].wrapping_add(set.join([word(0), word(1)])) & set.mask();
                }
                z
            }
            Form::Shared(chunks) => {
                let mut sum = Sum::new(set);
                b0.far.iter().zip(u.values(set)).for_each(|(b0, u)| sum.add(b0, u));
                let kernels = self.step.kernels(self.weights, polynomial);
                for (kernel, chunk) in kernels.iter().zip(chunks).filter(|(k, _)| !k.is_empty()) {
                    sum.add(chunk, &Transform::of_small(set, kernel.iter().copied()));
                }
                let z = sum.finish();
                Zeroizing::new(z.coefficients(first, reach).map(|z| z & set.mask()).collect())
            }
        }
    }
}

/// `u` of a polynomial of the hint.
pub(super) fn mask(
    set: LatticeSet,
    seed: &SecretSeed,
    step: &LatticeStep,
    polynomial: usize,
) -> Ternary {
    Ternary::sample(set, &mut seed.stream(Purpose::Mask, step.index(polynomial)))
}

impl LatticeStep {
    /// Reads what a message has of its upload; zeros where it ends early.
    #[must_use]
    pub fn read_upload(&self, message: &mut Unpacker<'_>) -> Upload {
        Upload(read_upload(self, message))
    }
}

fn read_upload(step: &LatticeStep, message: &mut Unpacker<'_>) -> Vec<Vec<Vec<[u64; 2]>>> {
    let (layout, rounding) = (&step.layout, step.layer.input_rounding);
    let mut tiles: Vec<Vec<_>> = layout.tiles().iter().map(|_| Vec::new()).collect();
    for chunk in 0..layout.chunks() {
        for (tile, chunks) in layout.tiles().iter().zip(&mut tiles) {
            let read = |(_, cell)| {
                let bits = match cell {
                    Cell::Own(_) => step.own_bits(),
                    Cell::Twin(_) | Cell::Pad => step.full_bits(),
                    Cell::Unused => 0,
                };
                step.set.split(residue::next(message, bits) << rounding)
            };
            chunks.push(layout.cells(tile, chunk).map(read).collect());
        }
    }
    tiles
}

/// One word of the weights' products with a tile: `out_channels x outputs`.
fn weigh(
    step: &LatticeStep,
    tile: &Tile,
    weights: &[u64],
    chunks: &[Vec<[u64; 2]>],
    word: usize,
) -> Zeroizing<Vec<u64>> {
    let layout = &step.layout;
    let ConvGeometry { in_channels, out_channels, kernel, groups, .. } = step.geometry;
    let mut unfolded = Vec::with_capacity(in_channels * kernel * kernel * tile.outputs());
    for channel in 0..in_channels {
        let chunk = &chunks[layout.chunk_of(channel)];
        for tap in 0..kernel * kernel {
            let (row, column) = step.tap(tap);
            let first = layout.input_at(channel, row, column);
            unfolded.extend(layout.offsets(tile).map(|offset| chunk[first + offset][word]));
        }
    }
    let shape = MatMulShape {
        count: groups,
        m: out_channels / groups,
        k: step.geometry.fan_in(),
        n: tile.outputs(),
    };
    let words = Ring::new(64).expect("at most 64");
    Zeroizing::new(mat_mul(words, shape, weights, &unfolded))
}
