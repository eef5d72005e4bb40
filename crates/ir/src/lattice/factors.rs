//! Public polynomials, in the form in which products with ternary ones are cheapest.

use super::ntt::{Sum, Transform};
use super::parameters::{DEGREE, LatticeSet};
use super::ternary::{Extended, Ternary};
use zeroize::Zeroizing;

/// Coefficients of a product up to which additions are cheaper than transforms. Measured with AVX-512.
pub(super) const FEW: usize = 48;

/// One polynomial for each of a secret's.
pub(super) enum Factors {
    /// For a few coefficients of the product, by component and word; for degree [`DEGREE`].
    Windows(Vec<Extended>),
    /// For many.
    Values(Vec<Transform>),
}

impl Factors {
    /// For products of which `count` coefficients count; the residues of one component after the other.
    pub(super) fn new(
        set: LatticeSet,
        mut residues: impl Iterator<Item = u128>,
        count: usize,
    ) -> Self {
        let (parts, degree) = (0..set.rank(), set.degree());
        if count > FEW || degree > DEGREE {
            let part = |_| Transform::of_residues(set, residues.by_ref().take(degree));
            return Self::Values(parts.map(part).collect());
        }
        let mut windows = Vec::with_capacity(set.rank() * set.words());
        for _ in parts {
            let first = windows.len();
            windows.extend((0..set.words()).map(|_| Extended::zero()));
            for (at, residue) in residues.by_ref().take(degree).enumerate() {
                let words = set.split(residue);
                windows[first..].iter_mut().zip(words).for_each(|(to, word)| to.set(at, word));
            }
        }
        Self::Windows(windows)
    }

    /// Coefficients `first..first + count` of the sum of products with a secret's components, modulo `q`.
    pub(super) fn product(
        &self,
        set: LatticeSet,
        ternary: &Ternary,
        first: usize,
        count: usize,
    ) -> Zeroizing<Vec<u128>> {
        match self {
            Self::Values(values) => sum(set, ternary, values, first, count),
            Self::Windows(windows) => {
                let mut words = [0, 1].map(|_| Zeroizing::new(vec![0; count]));
                for (word, out) in words.iter_mut().enumerate().take(set.words()) {
                    ternary.product(windows.iter().skip(word).step_by(set.words()), first, out);
                }
                let join = |at: usize| set.join([words[0][at], words[1][at]]);
                Zeroizing::new((0..count).map(join).collect())
            }
        }
    }
}

/// The same for transforms.
pub(super) fn sum<'a>(
    set: LatticeSet,
    ternary: &Ternary,
    factors: impl IntoIterator<Item = &'a Transform>,
    first: usize,
    count: usize,
) -> Zeroizing<Vec<u128>> {
    let mut sum = Sum::new(set);
    for (factor, part) in factors.into_iter().zip(ternary.values(set)) {
        sum.add(factor, part);
    }
    let residues = sum.finish();
    let residues = residues.coefficients(first, count).map(|residue| residue & set.mask());
    Zeroizing::new(residues.collect())
}

/// Polynomials whose residues follow one another.
pub(super) fn transforms(set: LatticeSet, residues: &[u128]) -> Vec<Transform> {
    let parts = residues.chunks(set.degree());
    parts.map(|part| Transform::of_residues(set, part.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Purpose, SecretSeed};
    use super::*;

    #[test]
    fn both_forms_give_the_same_products() {
        for set in LatticeSet::HINTS {
            let seed = SecretSeed::new([9; 32]);
            let ternary = Ternary::sample(set, &mut seed.stream(Purpose::Ternary, 0));
            let mut stream = seed.stream(Purpose::Chunk, 0);
            let mut residue = || {
                (u128::from(stream.next_u64()) << 64 | u128::from(stream.next_u64())) & set.mask()
            };
            let parts: Vec<Vec<u128>> =
                (0..set.rank()).map(|_| (0..DEGREE).map(|_| residue()).collect()).collect();
            let residues = || parts.iter().flatten().copied();
            let forms = [FEW, DEGREE].map(|count| Factors::new(set, residues(), count));
            for (first, count) in [(0, DEGREE), (511, 1), (17, 100)] {
                let [few, many] =
                    forms.each_ref().map(|form| form.product(set, &ternary, first, count));
                assert!(few == many, "{set}: {first}, {count}");
            }
        }
    }
}
