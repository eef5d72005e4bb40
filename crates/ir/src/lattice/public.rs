//! The public polynomials of a plan, all from one seed.

use super::parameters::{DEGREE, LatticeSet};
use super::step::LatticeStep;
use super::stream::{PublicSeed, Purpose, Stream};
use super::ternary::Extended;

/// `a` of one input chunk: `rank` polynomials, each as its words.
pub(super) fn chunk(step: &LatticeStep, seed: &PublicSeed, chunk: usize) -> Vec<Extended> {
    let mut stream = seed.stream(Purpose::Chunk, step.index(chunk));
    (0..step.set.rank()).flat_map(|_| uniform(step.set, &mut stream)).collect()
}

/// `a0`: `rank x rank` polynomials that hide the weights in the hint and carry the hiding back.
pub struct Matrix {
    set: LatticeSet,
    /// By row, column, word.
    entries: Vec<Extended>,
}

impl Matrix {
    /// The matrix of a plan.
    #[must_use]
    pub fn new(set: LatticeSet, seed: &PublicSeed) -> Self {
        let mut stream = seed.stream(Purpose::Matrix, 0);
        let count = set.rank() * set.rank();
        let entries = (0..count).flat_map(|_| uniform(set, &mut stream)).collect();
        Self { set, entries }
    }

    /// One word of a row.
    pub(super) fn row(&self, row: usize, word: usize) -> impl Iterator<Item = &Extended> {
        let (rank, words) = (self.set.rank(), self.set.words());
        (0..rank).map(move |column| &self.entries[(row * rank + column) * words + word])
    }

    /// One word of a column.
    pub(super) fn column(&self, column: usize, word: usize) -> impl Iterator<Item = &Extended> {
        let (rank, words) = (self.set.rank(), self.set.words());
        (0..rank).map(move |row| &self.entries[(row * rank + column) * words + word])
    }
}

/// The words of a uniform polynomial.
fn uniform(set: LatticeSet, stream: &mut Stream) -> Vec<Extended> {
    let bits = set.word_bits();
    (0..set.words())
        .map(|_| Extended::new((0..DEGREE).map(|_| stream.word(bits)).collect::<Vec<_>>()))
        .collect()
}
