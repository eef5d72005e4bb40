//! Exact products of polynomials modulo `X^d + 1` through number-theoretic transforms.
//!
//! A product of residues with small numbers is an integer below half the product of two or three primes of 50
//! bits: the product modulo each of them gives it back whole, and so modulo any `q`.

mod field;
mod lanes;

use super::parameters::LatticeSet;
use field::{Factor, Field, fields, is_negative};
use lanes::{LOW, Lanes, Portable};
use std::sync::LazyLock;
use zeroize::{Zeroize as _, Zeroizing};

/// Products that a [`Sum`] takes between two reductions.
const MOST_TERMS: u32 = 15;

/// One number for each coefficient or root.
type Values = Zeroizing<Box<[[u64; 8]]>>;

/// A polynomial as its values at the roots of `X^d + 1`, modulo each prime.
pub(super) struct Transform(Vec<Values>);

/// A sum of products of polynomials, at the roots.
pub(super) struct Sum {
    low: Vec<Values>,
    high: Vec<Values>,
    terms: u32,
}

/// The coefficients of a sum of products, modulo each prime.
pub(super) struct Product(Vec<Values>);

impl LatticeSet {
    /// Primes whose product is more than twice any sum of products of its residues with weights and secrets.
    const fn primes(self) -> usize {
        match self {
            Self::R512x5 => 2,
            Self::R512x6 | Self::R4096x1 => 3,
        }
    }
}

impl Transform {
    /// Of residues.
    pub(super) fn of_residues(set: LatticeSet, residues: impl Iterator<Item = u128>) -> Self {
        let (mut low, mut high) = (zeros(set), zeros(set));
        for (at, residue) in residues.take(set.degree()).enumerate() {
            low[at / 8][at % 8] = residue as u64 & LOW;
            high[at / 8][at % 8] = (residue >> 52) as u64;
        }
        let field = |field: usize| {
            let mut values = low.clone();
            forward(field, &mut values, Some(&high));
            values
        };
        Self((0..set.primes()).map(field).collect())
    }

    /// Of small numbers at these places; zeros elsewhere. The same for all numbers.
    pub(super) fn of_small(
        set: LatticeSet,
        numbers: impl Iterator<Item = (usize, i64)> + Clone,
    ) -> Self {
        let field = |field: usize| {
            let (mut values, prime) = (zeros(set), fields(set.degree())[field].prime);
            for (at, number) in numbers.clone() {
                let wrap = (number >> 63).cast_unsigned() & prime;
                values[at / 8][at % 8] = number.cast_unsigned().wrapping_add(wrap);
            }
            forward(field, &mut values, None);
            values
        };
        Self((0..set.primes()).map(field).collect())
    }
}

impl Sum {
    /// Nothing yet.
    pub(super) fn new(set: LatticeSet) -> Self {
        let zeros = || (0..set.primes()).map(|_| zeros(set)).collect();
        Self { low: zeros(), high: zeros(), terms: 0 }
    }

    /// Adds a product.
    pub(super) fn add(&mut self, a: &Transform, b: &Transform) {
        if self.terms == MOST_TERMS {
            self.settle();
            self.terms = 1;
        }
        self.terms += 1;
        let sums = self.low.iter_mut().zip(&mut self.high);
        for ((low, high), (a, b)) in sums.zip(a.0.iter().zip(&b.0)) {
            accumulate((low, high), (a, b));
        }
    }

    /// The coefficients.
    pub(super) fn finish(mut self) -> Product {
        self.settle();
        for (field, values) in self.low.iter_mut().enumerate() {
            backward(field, values);
        }
        Product(self.low)
    }

    fn settle(&mut self) {
        for (field, (low, high)) in self.low.iter_mut().zip(&mut self.high).enumerate() {
            settle(field, low, high);
            high.zeroize();
        }
    }
}

impl Product {
    /// Coefficients `first..first + count` modulo 2^128. They are secret: no division, and no branch on what they are.
    pub(super) fn coefficients(
        &self,
        first: usize,
        count: usize,
    ) -> impl Iterator<Item = u128> + '_ {
        let Radix { fields: [p, q, r], both, second, first_in_third, third } = &*RADIX;
        (first..first + count).map(move |at| {
            // Mixed radix digits, the last one signed. The primes are so close that x < 2q, x < 2r and 4r < 2^52.
            let residue = |field: usize| self.0[field][at / 8][at % 8];
            let x = residue(0);
            let y = q.times(residue(1) + 2 * q.prime - x, *second);
            let sum = u128::from(x) + u128::from(p.prime) * u128::from(y);
            if self.0.len() == 2 {
                return sum.wrapping_sub(both & wide(is_above_half(y, q)));
            }
            let rest = x + r.times(y, *first_in_third);
            let z = r.times(residue(2) + 3 * r.prime - rest, *third);
            let z = z.wrapping_sub(r.prime & is_above_half(z, r));
            sum.wrapping_add(both.wrapping_mul(wide(z)))
        })
    }
}

/// All ones where a residue stands for a negative number, else zero.
fn is_above_half(x: u64, field: &Field) -> u64 {
    is_negative((field.prime / 2).wrapping_sub(x))
}

/// A signed number of 64 bits as one of 128.
fn wide(x: u64) -> u128 {
    i128::from(x.cast_signed()).cast_unsigned()
}

/// What numbers are put together with from their residues modulo the primes, which are the same for all degrees.
struct Radix {
    fields: &'static [Field; 3],
    /// The product of the first two primes.
    both: u128,
    /// The inverse of the first prime modulo the second.
    second: Factor,
    /// The first prime modulo the third.
    first_in_third: Factor,
    /// The inverse of the first two primes modulo the third.
    third: Factor,
}

static RADIX: LazyLock<Radix> = LazyLock::new(|| {
    let fields = fields(512);
    let [p, q, r] = fields.each_ref().map(|field| u128::from(field.prime));
    let [first, second, third] = fields;
    Radix {
        fields,
        both: p * q,
        second: second.inverse_of(first.prime),
        first_in_third: third.factor(first.prime),
        third: third.inverse_of((p * q % r) as u64),
    }
});

fn zeros(set: LatticeSet) -> Values {
    Zeroizing::new(vec![[0; 8]; set.degree() / 8].into())
}

/// The field number `field` of these values.
fn field_of(field: usize, values: &Values) -> &'static Field {
    &fields(8 * values.len())[field]
}

/// Defines a function on one field's values for whichever lanes the processor has.
macro_rules! dispatched {
    ($($(#[$doc:meta])* fn $name:ident($($x:ident: $type:ty),*) = |$lanes:ident| $call:expr;)*) => {$(
        $(#[$doc])*
        fn $name($($x: $type),*) {
            #[cfg(target_arch = "x86_64")]
            if let Some($lanes) = lanes::Wide::detect() {
                #[target_feature(enable = "avx512f,avx512ifma")]
                fn wide($lanes: lanes::Wide, $($x: $type),*) {
                    $call
                }
                // SAFETY: the lanes exist, so the processor has these features.
                return unsafe { wide($lanes, $($x),*) };
            }
            #[cfg(target_arch = "x86_64")]
            if let Some($lanes) = lanes::Fused::detect() {
                #[target_feature(enable = "avx2,fma")]
                fn fused($lanes: lanes::Fused, $($x: $type),*) {
                    $call
                }
                // SAFETY: as above.
                return unsafe { fused($lanes, $($x),*) };
            }
            let $lanes = Portable;
            $call
        }
    )*};
}

dispatched! {
    fn forward(field: usize, values: &mut Values, high: Option<&Values>) =
        |lanes| field_of(field, values).forward(lanes, values, high.map(|high| &***high));
    fn backward(field: usize, values: &mut Values) = |lanes| field_of(field, values).backward(lanes, values);
    fn settle(field: usize, low: &mut Values, high: &Values) =
        |lanes| field_of(field, low).settle(lanes, low, high);
    fn accumulate(sums: (&mut Values, &mut Values), factors: (&Values, &Values)) =
        |lanes| multiply(lanes, sums, factors);
}

/// `low + 2^52 high += a b`.
#[inline(always)]
fn multiply<L: Lanes>(
    lanes: L,
    (low, high): (&mut Values, &mut Values),
    (a, b): (&Values, &Values),
) {
    let sums = low.iter_mut().zip(high.iter_mut());
    for ((low, high), (a, b)) in sums.zip(a.iter().zip(b.iter())) {
        let (a, b) = (lanes.load(a), lanes.load(b));
        lanes.store(lanes.mul_low(lanes.load(low), a, b), low);
        lanes.store(lanes.mul_high(lanes.load(high), a, b), high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};

    /// A negacyclic product by its definition, modulo 2^128.
    fn by_definition(a: &[u128], b: &[i64]) -> Vec<u128> {
        let degree = a.len();
        let mut product = vec![0u128; degree];
        for (i, a) in a.iter().enumerate() {
            for (j, &b) in b.iter().enumerate() {
                let term = a.wrapping_mul(i128::from(b).cast_unsigned());
                let sum = &mut product[(i + j) % degree];
                *sum = if i + j < degree { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
            }
        }
        product
    }

    #[test]
    fn sums_of_products_are_exact() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for set in LatticeSet::ALL {
            let degree = set.degree();
            let most = (set.most_weight() / degree as u64).min(1 << 20).cast_signed();
            let (mut sum, mut expected) = (Sum::new(set), vec![0u128; degree]);
            for number in 0..17_408 / degree {
                let a: Vec<u128> =
                    (0..degree)
                        .map(|_| {
                            if number == 0 { set.mask() } else { rng.random::<u128>() & set.mask() }
                        })
                        .collect();
                let most = if number == 0 { most } else { 1 };
                let b: Vec<i64> = (0..degree)
                    .map(|_| if number == 0 { -most } else { rng.random_range(-most..=most) })
                    .collect();
                let transform = Transform::of_residues(set, a.iter().copied());
                sum.add(&transform, &Transform::of_small(set, b.iter().copied().enumerate()));
                let product = by_definition(&a, &b);
                expected.iter_mut().zip(product).for_each(|(sum, x)| *sum = sum.wrapping_add(x));
            }
            let found: Vec<u128> = sum.finish().coefficients(0, degree).collect();
            assert_eq!(found, expected, "{set}");
        }
    }

    /// The number of which these are the residues, by the Chinese remainder theorem as it is written down.
    fn by_remainders(residues: &[u64]) -> u128 {
        let [p, q, r] = fields(512);
        let [x, second] = [residues[0], residues[1]];
        let y = q.times(second + q.prime - x % q.prime, q.inverse_of(p.prime));
        let (both, sum) = (
            u128::from(p.prime) * u128::from(q.prime),
            u128::from(x) + u128::from(p.prime) * u128::from(y),
        );
        let Some(third) = residues.get(2) else {
            return if y > q.prime / 2 { sum.wrapping_sub(both) } else { sum };
        };
        let rest = (sum % u128::from(r.prime)) as u64;
        let inverse = r.inverse_of((both % u128::from(r.prime)) as u64);
        let z = i128::from(r.times(third + r.prime - rest, inverse));
        let z = if z > i128::from(r.prime / 2) { z - i128::from(r.prime) } else { z };
        sum.wrapping_add(both.wrapping_mul(z.cast_unsigned()))
    }

    proptest! {
        #[test]
        fn residues_make_their_number(
            residues in prop::array::uniform3(prop_oneof![
                0..8_u64,
                any::<u64>(),
                (0..8_u64).prop_map(|x| u64::MAX - x),
                (0..8_u64).prop_map(|x| (u64::MAX - x) / 2),
            ]),
        ) {
            // Near zero, the prime and its half, and anywhere.
            let near = |(x, &Field { prime, .. }): (u64, &Field)| match x {
                0..8 => x,
                x if x > u64::MAX - 8 => prime - 1 - (u64::MAX - x),
                x if x.abs_diff(u64::MAX / 2) < 8 => prime / 2 + 3 - x.abs_diff(u64::MAX / 2),
                x => ((u128::from(x) * u128::from(prime)) >> 64) as u64,
            };
            let all: Vec<u64> = residues.into_iter().zip(fields(512)).map(near).collect();
            for count in [2, 3] {
                let values = all[..count].iter().map(|&x| Zeroizing::new(vec![[x; 8]].into()));
                let product = Product(values.collect());
                let expected = by_remainders(&all[..count]);
                prop_assert!(product.coefficients(3, 2).all(|found| found == expected));
            }
        }
    }

    /// What comes of a transform; and from `values`: of products of most terms, twice, and of a transform back.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn run<L: Lanes>(lanes: L, field: &Field, values: &[Values; 5]) -> [Values; 3] {
        let [mut low, high, a, b, mut back] = values.clone();
        field.forward(lanes, &mut low, Some(&high));
        let (mut sum, mut carry) = (low.clone(), high);
        carry.zeroize();
        for _ in 0..2 {
            (1..MOST_TERMS).for_each(|_| multiply(lanes, (&mut sum, &mut carry), (&a, &b)));
            field.settle(lanes, &mut sum, &carry);
            carry.zeroize();
            assert!(sum.as_flattened().iter().all(|&x| x < 2 * field.prime));
        }
        field.backward(lanes, &mut sum);
        field.backward(lanes, &mut back);
        [low, sum, back]
    }

    /// Low and high parts, factors and values at roots, in ranges that the functions take.
    #[cfg(target_arch = "x86_64")]
    fn samples(set: LatticeSet, field: &Field, number: usize) -> [Values; 5] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(number as u64);
        let prime = field.prime;
        [LOW, LOW, prime - 1, prime - 1, 2 * prime - 1].map(|most| {
            let mut values = zeros(set);
            for x in values.as_flattened_mut() {
                *x = match number {
                    0 => 0,
                    1 => most,
                    2 => [0, 1, prime - 1, most][rng.random_range(0..4)],
                    _ => rng.random_range(0..=most),
                };
            }
            values
        })
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn all_lanes_compute_the_same() {
        #[target_feature(enable = "avx512f,avx512ifma")]
        fn wide(lanes: lanes::Wide, field: &Field, values: &[Values; 5]) -> [Values; 3] {
            run(lanes, field, values)
        }
        #[target_feature(enable = "avx2,fma")]
        fn fused(lanes: lanes::Fused, field: &Field, values: &[Values; 5]) -> [Values; 3] {
            run(lanes, field, values)
        }
        for (set, field, number) in cases() {
            let values = samples(set, field, number);
            let expected = run(Portable, field, &values);
            if let Some(lanes) = lanes::Wide::detect() {
                // SAFETY: the lanes exist, so the processor has these features.
                assert!(unsafe { wide(lanes, field, &values) } == expected, "{set}, {number}");
            }
            if let Some(lanes) = lanes::Fused::detect() {
                // SAFETY: as above.
                assert!(unsafe { fused(lanes, field, &values) } == expected, "{set}, {number}");
            }
        }
    }

    /// All sets and primes, with numbers of samples.
    #[cfg(target_arch = "x86_64")]
    fn cases() -> impl Iterator<Item = (LatticeSet, &'static Field, usize)> {
        let fields = |set: LatticeSet| fields(set.degree()).iter().map(move |field| (set, field));
        let all = LatticeSet::ALL.into_iter().flat_map(fields);
        all.flat_map(|(set, field)| (0..6).map(move |number| (set, field, number)))
    }
}
