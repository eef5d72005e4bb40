//! The server's side: its shares from what the client sent.

use super::client::product;
use super::layout::{Cell, Tile};
use super::parameters::{DEGREE, LatticeSet};
use super::residue;
use super::step::{LatticeStep, Shared};
use super::stream::{Purpose, SecretSeed};
use super::ternary::{Extended, Ternary};
use crate::lowering::mat_mul;
use crate::packing::Unpacker;
use crate::{ConvGeometry, MatMulShape, Ring};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// What a secret's carrier says.
pub struct Carrier(Vec<Extended>);

impl Carrier {
    /// Reads a carrier; zeros where the message ends early.
    #[must_use]
    pub fn read(shared: Shared, message: &mut Unpacker<'_>) -> Self {
        let Shared { set, carrier_rounding, .. } = shared;
        let bits = set.modulus_bits() - carrier_rounding;
        let mut parts = Vec::with_capacity(set.rank() * set.words());
        for _ in 0..set.rank() {
            let residues: Vec<_> = (0..DEGREE)
                .map(|_| set.split(residue::next(message, bits) << carrier_rounding))
                .collect();
            let word = |word: usize| Extended::new(residues.iter().map(move |words| words[word]));
            parts.extend((0..set.words()).map(word));
        }
        Self(parts)
    }
}

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
    message: &mut Unpacker<'_>,
) -> Zeroizing<Vec<u64>> {
    let (gap, ring) = (step.gap_bits(), step.ring);
    let round = |z: u128| ring.reduce((z >> gap) as u64);
    evaluate(step, weights, seed, (carriers, message), round)
}

/// `W b + u b0` at every output, as `finish` leaves it.
pub(super) fn evaluate(
    step: &LatticeStep,
    weights: &[i64],
    seed: &SecretSeed,
    (carriers, message): (&[Option<Carrier>], &mut Unpacker<'_>),
    finish: impl Fn(u128) -> u64 + Sync,
) -> Zeroizing<Vec<u64>> {
    let (layout, set) = (&step.layout, step.set);
    let output = layout.geometry().output_shape(layout.input());
    let weights: Vec<u64> = weights.iter().map(|weight| weight.cast_unsigned()).collect();
    let weights = Zeroizing::new(weights);
    let uploads = read_upload(step, message);
    // The products of the weights, by tile and word.
    let products: Vec<Vec<Zeroizing<Vec<u64>>>> = (layout.tiles().iter().zip(&uploads))
        .map(|(tile, chunks)| {
            let words = 0..set.words();
            words.map(|word| weigh(step, tile, &weights, chunks, word)).collect()
        })
        .collect();
    let mut share = Zeroizing::new(vec![0; output.elements()]);
    share.par_chunks_mut(output.area()).enumerate().for_each(|(channel, share)| {
        let mask = mask(set, seed, step, channel);
        for (number, (tile, products)) in layout.tiles().iter().zip(&products).enumerate() {
            let carrier = carriers[step.secret_of(number)].as_ref();
            let Carrier(parts) = carrier.expect("carriers come before the uploads that need them");
            let words = product(set, &mask, parts, layout.first_output(), layout.span(tile));
            let places = layout.offsets(tile).zip(layout.positions(tile));
            for (output, (at, position)) in places.enumerate() {
                let place = channel * tile.outputs() + output;
                let word = |word: usize| {
                    let weighed = products.get(word).map_or(0, |products| products[place]);
                    weighed.wrapping_add(words[word][at])
                };
                share[position] = finish(set.join([word(0), word(1)]));
            }
        }
    });
    share
}

/// `u` of an output channel.
pub(super) fn mask(
    set: LatticeSet,
    seed: &SecretSeed,
    step: &LatticeStep,
    channel: usize,
) -> Ternary {
    Ternary::sample(set, &mut seed.stream(Purpose::Mask, step.index(channel)))
}

/// The uploaded polynomials as words, by tile and chunk; what was not sent is zero.
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
    let ConvGeometry { in_channels, out_channels, kernel, groups, .. } = *layout.geometry();
    let mut unfolded = Vec::with_capacity(in_channels * kernel * kernel * tile.outputs());
    for channel in 0..in_channels {
        let chunk = &chunks[layout.chunk_of(channel)];
        for tap in 0..kernel * kernel {
            let first = layout.input_at(channel, tap / kernel, tap % kernel);
            unfolded.extend(layout.offsets(tile).map(|offset| chunk[first + offset][word]));
        }
    }
    let shape = MatMulShape {
        count: groups,
        m: out_channels / groups,
        k: layout.geometry().fan_in(),
        n: tile.outputs(),
    };
    let words = Ring::new(64).expect("at most 64");
    Zeroizing::new(mat_mul(words, shape, weights, &unfolded))
}
