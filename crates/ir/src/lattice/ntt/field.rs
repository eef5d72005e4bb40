//! Number-theoretic transforms of degree 512 and 4096 modulo primes of 50 bits.
//!
//! Butterflies as Harvey's (Journal of Symbolic Computation 60, 2014), values below four times the prime. The last three
//! levels mix neighbours; eight blocks of eight are transposed for them, and left so: the order of the values does not
//! matter to products.

use super::lanes::Lanes;
use std::sync::LazyLock;

/// The primes, one more than a multiple of 8192 each, and numbers that are no squares modulo them.
const PRIMES: [(u64, u64); 3] =
    [(1_125_899_906_826_241, 11), (1_125_899_906_629_633, 5), (1_125_899_906_424_833, 3)];

/// Arithmetic modulo one of the primes, for polynomials of one degree.
pub(super) struct Field {
    pub(super) prime: u64,
    forward: Twiddles,
    inverse: Twiddles,
    /// The inverse of the degree, 1, and 2^52.
    scale: Factor,
    one: Factor,
    fold: Factor,
}

/// A constant factor with its quotient by the prime, in units of 2^-52.
#[derive(Clone, Copy, Default)]
pub(super) struct Factor {
    value: u64,
    quotient: u64,
}

/// Powers of the root: one for each block of all levels but the last three, then of those, as their vectors need
/// them.
struct Twiddles {
    early: Vec<Factor>,
    late: Vec<[[[u64; 8]; 2]; 7]>,
}

/// The fields for degree 512 or 4096.
pub(super) fn fields(degree: usize) -> &'static [Field; 3] {
    static SMALL: LazyLock<[Field; 3]> = LazyLock::new(|| Field::all(512));
    static LARGE: LazyLock<[Field; 3]> = LazyLock::new(|| Field::all(4096));
    if degree > 512 { &LARGE } else { &SMALL }
}

impl Field {
    fn all(degree: u64) -> [Self; 3] {
        PRIMES.map(|prime| Self::new(prime, degree))
    }

    fn new((prime, nonresidue): (u64, u64), degree: u64) -> Self {
        // Its power `degree` is -1.
        let root = power(prime, nonresidue, (prime - 1) / (2 * degree));
        let unroot = power(prime, root, 2 * degree - 1);
        let scale = power(prime, degree, prime - 2);
        let factor = |value| Factor::new(prime, value);
        Self {
            prime,
            forward: Twiddles::new(prime, root, degree as usize),
            inverse: Twiddles::new(prime, unroot, degree as usize),
            scale: factor(scale),
            one: factor(1),
            fold: factor((1 << 52) % prime),
        }
    }

    /// The inverse of a residue that is not zero.
    pub(super) fn inverse_of(&self, x: u64) -> Factor {
        self.factor(power(self.prime, x % self.prime, self.prime - 2))
    }

    /// A residue as a factor of others.
    pub(super) fn factor(&self, x: u64) -> Factor {
        Factor::new(self.prime, x % self.prime)
    }

    /// `x` times a constant, modulo the prime; for `x` below 2^52. In the same time for all `x`.
    pub(super) const fn times(&self, x: u64, factor: Factor) -> u64 {
        let quotient = ((x as u128 * factor.quotient as u128) >> 52) as u64;
        let product = x.wrapping_mul(factor.value).wrapping_sub(quotient.wrapping_mul(self.prime));
        let less = product.wrapping_sub(self.prime);
        less.wrapping_add(self.prime & is_negative(less))
    }

    /// From numbers `low + 2^52 high`, both below 2^52, to values at the roots.
    #[inline(always)]
    pub(super) fn forward<L: Lanes>(
        &self,
        lanes: L,
        low: &mut [[u64; 8]],
        high: Option<&[[u64; 8]]>,
    ) {
        let m = Modulus::new(lanes, self.prime);
        if let Some(high) = high {
            for (low, high) in low.iter_mut().zip(high) {
                let sum = m.fold(self, lanes.load(low), lanes.load(high));
                lanes.store(sum, low);
            }
        }
        let vectors = low.len();
        let mut distance = vectors / 2;
        while distance > 0 {
            let blocks = vectors / 2 / distance;
            for block in 0..blocks {
                let (value, quotient) = m.splat(self.forward.early[blocks + block]);
                let (left, right) =
                    low[2 * block * distance..][..2 * distance].split_at_mut(distance);
                for (left, right) in left.iter_mut().zip(right) {
                    let (x, y) = m.spread(lanes.load(left), lanes.load(right), (value, quotient));
                    lanes.store(x, left);
                    lanes.store(y, right);
                }
            }
            distance /= 2;
        }
        for (group, late) in low.as_chunks_mut::<8>().0.iter_mut().zip(&self.forward.late) {
            let mut x = lanes.transpose(m.rows(group));
            for at in 0..LATE.len() {
                let ((near, far), [value, quotient]) = (LATE[at], &late[TWIDDLE[at]]);
                let twiddle = (lanes.load(value), lanes.load(quotient));
                (x[near], x[far]) = m.spread(x[near], x[far], twiddle);
            }
            for (to, x) in group.iter_mut().zip(x) {
                lanes.store(m.reduce(x), to);
            }
        }
    }

    /// From values below twice the prime to coefficients below it.
    #[inline(always)]
    pub(super) fn backward<L: Lanes>(&self, lanes: L, values: &mut [[u64; 8]]) {
        let m = Modulus::new(lanes, self.prime);
        for (group, late) in values.as_chunks_mut::<8>().0.iter_mut().zip(&self.inverse.late) {
            let mut x = m.rows(group);
            for at in (0..LATE.len()).rev() {
                let ((near, far), [value, quotient]) = (LATE[at], &late[TWIDDLE[at]]);
                let twiddle = (lanes.load(value), lanes.load(quotient));
                (x[near], x[far]) = m.gather(x[near], x[far], twiddle);
            }
            for (to, x) in group.iter_mut().zip(lanes.transpose(x)) {
                lanes.store(x, to);
            }
        }
        let vectors = values.len();
        let mut distance = 1;
        while distance < vectors {
            let blocks = vectors / 2 / distance;
            for block in 0..blocks {
                let twiddle = m.splat(self.inverse.early[blocks + block]);
                let (left, right) =
                    values[2 * block * distance..][..2 * distance].split_at_mut(distance);
                for (left, right) in left.iter_mut().zip(right) {
                    let (x, y) = m.gather(lanes.load(left), lanes.load(right), twiddle);
                    lanes.store(x, left);
                    lanes.store(y, right);
                }
            }
            distance *= 2;
        }
        let scale = m.splat(self.scale);
        for value in values.iter_mut() {
            let x = m.times(lanes.load(value), scale);
            lanes.store(m.below(x, m.prime), value);
        }
    }

    /// `low + 2^52 high` for sums of at most fifteen products of values below the prime, below four times the prime.
    #[inline(always)]
    pub(super) fn settle<L: Lanes>(&self, lanes: L, low: &mut [[u64; 8]], high: &[[u64; 8]]) {
        let m = Modulus::new(lanes, self.prime);
        for (low, high) in low.iter_mut().zip(high) {
            let sum = lanes.load(low);
            let high = lanes.add(lanes.load(high), lanes.high(sum));
            let sum = m.fold(self, lanes.low(sum), high);
            lanes.store(m.below(sum, m.twice), low);
        }
    }
}

/// Pairs of the last three levels within a block of eight, level by level, and which twiddle each takes.
const LATE: [(usize, usize); 12] = [
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
    (0, 2),
    (1, 3),
    (4, 6),
    (5, 7),
    (0, 1),
    (2, 3),
    (4, 5),
    (6, 7),
];
const TWIDDLE: [usize; 12] = [0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6];

/// A prime in all lanes.
struct Modulus<L: Lanes> {
    lanes: L,
    prime: L::Vector,
    twice: L::Vector,
    zero: L::Vector,
}

impl<L: Lanes> Modulus<L> {
    #[inline(always)]
    fn new(lanes: L, prime: u64) -> Self {
        Self {
            lanes,
            prime: lanes.splat(prime),
            twice: lanes.splat(2 * prime),
            zero: lanes.splat(0),
        }
    }

    #[inline(always)]
    fn rows(&self, group: &[[u64; 8]; 8]) -> [L::Vector; 8] {
        let mut rows = [self.zero; 8];
        for (to, row) in rows.iter_mut().zip(group) {
            *to = self.lanes.load(row);
        }
        rows
    }

    #[inline(always)]
    fn splat(&self, factor: Factor) -> (L::Vector, L::Vector) {
        (self.lanes.splat(factor.value), self.lanes.splat(factor.quotient))
    }

    /// `x` times a constant, below twice the prime, for any `x` below 2^52.
    #[inline(always)]
    fn times(&self, x: L::Vector, factor: (L::Vector, L::Vector)) -> L::Vector {
        self.lanes.times(x, factor, self.prime)
    }

    /// `x`, less `bound` where it is not below it.
    #[inline(always)]
    fn below(&self, x: L::Vector, bound: L::Vector) -> L::Vector {
        self.lanes.below(x, bound)
    }

    #[inline(always)]
    fn reduce(&self, x: L::Vector) -> L::Vector {
        self.below(self.below(x, self.twice), self.prime)
    }

    /// `low + 2^52 high`, below four times the prime.
    #[inline(always)]
    fn fold(&self, field: &Field, low: L::Vector, high: L::Vector) -> L::Vector {
        let low = self.times(low, self.splat(field.one));
        self.lanes.add(low, self.times(high, self.splat(field.fold)))
    }

    /// The forward butterfly: `x + w y` and `x - w y`.
    #[inline(always)]
    fn spread(
        &self,
        x: L::Vector,
        y: L::Vector,
        twiddle: (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector) {
        let (lanes, x) = (self.lanes, self.below(x, self.twice));
        let y = self.times(y, twiddle);
        (lanes.add(x, y), lanes.add(x, lanes.sub(self.twice, y)))
    }

    /// The inverse one: `x + y` and `w (x - y)`.
    #[inline(always)]
    fn gather(
        &self,
        x: L::Vector,
        y: L::Vector,
        twiddle: (L::Vector, L::Vector),
    ) -> (L::Vector, L::Vector) {
        let lanes = self.lanes;
        let difference = lanes.add(x, lanes.sub(self.twice, y));
        (self.below(lanes.add(x, y), self.twice), self.times(difference, twiddle))
    }
}

impl Factor {
    fn new(prime: u64, value: u64) -> Self {
        let quotient = (u128::from(value) << 52) / u128::from(prime);
        Self { value, quotient: quotient as u64 }
    }
}

impl Twiddles {
    fn new(prime: u64, root: u64, degree: usize) -> Self {
        let (bits, vectors) = (degree.ilog2(), degree / 8);
        let at = |index: usize| {
            let exponent = index.reverse_bits() >> (usize::BITS - bits);
            Factor::new(prime, power(prime, root, exponent as u64))
        };
        let late = |group: usize, number: usize| {
            // Twiddle `number` of a block: the third level from the end has one, the next two, the last four of them.
            let level = (number + 1).ilog2();
            let within = number + 1 - (1 << level);
            let block = |lane: usize| ((vectors + 8 * group + lane) << level) + within;
            let lanes: [Factor; 8] = std::array::from_fn(|lane| at(block(lane)));
            [lanes.map(|factor| factor.value), lanes.map(|factor| factor.quotient)]
        };
        let late = |group: usize| std::array::from_fn(|number| late(group, number));
        Self { early: (0..vectors).map(at).collect(), late: (0..vectors / 8).map(late).collect() }
    }
}

/// All ones where a difference of numbers below 2^63 is negative, else zero.
pub(super) const fn is_negative(difference: u64) -> u64 {
    (difference >> 63).wrapping_neg()
}

fn power(prime: u64, base: u64, mut exponent: u64) -> u64 {
    let prime = u128::from(prime);
    let (mut result, mut base) = (1, u128::from(base));
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % prime;
        }
        base = base * base % prime;
        exponent >>= 1;
    }
    result as u64
}
