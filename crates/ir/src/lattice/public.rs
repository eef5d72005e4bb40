//! The public polynomials of a plan, all from one seed.

use super::factors::transforms;
use super::ntt::Transform;
use super::parameters::LatticeSet;
use super::step::LatticeStep;
use super::stream::{PublicSeed, Purpose, Stream};

/// `a` of one part of the input ([`LatticeStep::public_part`]): the residues of `rank` polynomials, one after the other.
pub(super) fn chunk(step: &LatticeStep, seed: &PublicSeed, part: usize) -> Vec<u128> {
    let mut stream = seed.stream(Purpose::Chunk, step.public_index(part));
    (0..step.set.rank()).flat_map(|_| uniform(step.set, &mut stream)).collect()
}

/// `a0`: `rank x rank` polynomials that hide the weights in the hint and carry the hiding back.
pub struct Matrix {
    rank: usize,
    /// Row by row.
    entries: Vec<Transform>,
}

impl Matrix {
    /// The matrix of a plan.
    #[must_use]
    pub fn new(set: LatticeSet, seed: &PublicSeed) -> Self {
        let mut stream = seed.stream(Purpose::Matrix, u64::from(set == LatticeSet::REPLY));
        let rank = set.rank();
        let entries: Vec<_> = (0..rank * rank).flat_map(|_| uniform(set, &mut stream)).collect();
        Self { rank, entries: transforms(set, &entries) }
    }

    /// A row.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = &Transform> {
        self.entries.iter().skip(row * self.rank).take(self.rank)
    }

    /// A column.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = &Transform> {
        self.entries.iter().skip(column).step_by(self.rank)
    }
}

/// The residues of a uniform polynomial: all low words, then all high ones.
fn uniform(set: LatticeSet, stream: &mut Stream) -> Vec<u128> {
    let bits = set.word_bits();
    let mut residues: Vec<_> = (0..set.degree()).map(|_| u128::from(stream.word(bits))).collect();
    if set.words() > 1 {
        residues.iter_mut().for_each(|residue| *residue |= u128::from(stream.word(bits)) << bits);
    }
    residues
}
