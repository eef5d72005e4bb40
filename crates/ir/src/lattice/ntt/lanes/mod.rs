//! Eight numbers at a time: AVX-512 with 52-bit multiplication where the processor has it, else AVX2 with fused
//! multiplication of floating-point numbers, plain code elsewhere.

#[cfg(target_arch = "x86_64")]
mod fused;
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(target_arch = "x86_64")]
pub(super) use {fused::Fused, wide::Wide};

/// Low 52 bits.
pub(super) const LOW: u64 = (1 << 52) - 1;

/// Arithmetic on eight 64-bit numbers. A value of the type says that the processor can do it.
pub(super) trait Lanes: Copy {
    type Vector: Copy;
    fn load(self, from: &[u64; 8]) -> Self::Vector;
    fn store(self, from: Self::Vector, to: &mut [u64; 8]);
    fn splat(self, x: u64) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a`, less `bound` where it is not below it; for both below 2^63.
    fn below(self, a: Self::Vector, bound: Self::Vector) -> Self::Vector;
    /// The low 52 bits of each.
    fn low(self, a: Self::Vector) -> Self::Vector;
    /// The others.
    fn high(self, a: Self::Vector) -> Self::Vector;
    /// `sum` plus the low 52 bits of the product of numbers below 2^52.
    fn mul_low(self, sum: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `sum` plus the bits of that product above the low 52.
    fn mul_high(self, sum: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Rows for columns.
    fn transpose(self, rows: [Self::Vector; 8]) -> [Self::Vector; 8];

    /// `x` times a constant modulo a prime below 2^50, below twice the prime, for any `x` below 2^52. With the constant
    /// comes its quotient by the prime, in units of 2^-52, rounded down.
    #[inline(always)]
    fn times(
        self,
        x: Self::Vector,
        (value, quotient): (Self::Vector, Self::Vector),
        prime: Self::Vector,
    ) -> Self::Vector {
        let zero = self.splat(0);
        let negative = self.sub(self.splat(LOW + 1), prime);
        let quotient = self.mul_high(zero, x, quotient);
        let product = self.mul_low(zero, x, value);
        self.low(self.mul_low(product, quotient, negative))
    }
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type Vector = [u64; 8];

    #[inline(always)]
    fn load(self, from: &[u64; 8]) -> [u64; 8] {
        *from
    }

    #[inline(always)]
    fn store(self, from: [u64; 8], to: &mut [u64; 8]) {
        *to = from;
    }

    #[inline(always)]
    fn splat(self, x: u64) -> [u64; 8] {
        [x; 8]
    }

    #[inline(always)]
    fn add(self, a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn sub(self, a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn below(self, a: [u64; 8], bound: [u64; 8]) -> [u64; 8] {
        std::array::from_fn(|i| a[i].min(a[i].wrapping_sub(bound[i])))
    }

    #[inline(always)]
    fn low(self, a: [u64; 8]) -> [u64; 8] {
        a.map(|a| a & LOW)
    }

    #[inline(always)]
    fn high(self, a: [u64; 8]) -> [u64; 8] {
        a.map(|a| a >> 52)
    }

    #[inline(always)]
    fn mul_low(self, sum: [u64; 8], a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        std::array::from_fn(|i| {
            let product = (a[i] & LOW).wrapping_mul(b[i] & LOW);
            sum[i].wrapping_add(product & LOW)
        })
    }

    #[inline(always)]
    fn mul_high(self, sum: [u64; 8], a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        std::array::from_fn(|i| {
            let product = u128::from(a[i] & LOW) * u128::from(b[i] & LOW);
            sum[i].wrapping_add((product >> 52) as u64)
        })
    }

    #[inline(always)]
    fn transpose(self, rows: [[u64; 8]; 8]) -> [[u64; 8]; 8] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::fields;
    use super::*;
    use rand::{Rng, SeedableRng as _};

    /// Eight numbers below 2^52 and `most` at most, often extreme.
    fn numbers(rng: &mut impl Rng, most: u64) -> [u64; 8] {
        let extremes = [0, 1, most / 2, most / 2 + 1, most - 1, most];
        std::array::from_fn(|_| {
            let any = rng.random_range(0..=most);
            *extremes.get(rng.random_range(0..12)).unwrap_or(&any)
        })
    }

    fn unloaded<L: Lanes>(lanes: L, x: L::Vector) -> [u64; 8] {
        let mut to = [0; 8];
        lanes.store(x, &mut to);
        to
    }

    /// All operations against their definitions.
    fn check(lanes: impl Lanes) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for round in 0..20_000 {
            let prime = fields(512)[round % 3].prime;
            let (x, y) = (numbers(&mut rng, LOW), numbers(&mut rng, LOW));
            let sums = numbers(&mut rng, u64::MAX >> 4);
            let (value, bound) = (numbers(&mut rng, prime - 1), numbers(&mut rng, 2 * prime));
            let quotient = value.map(|x| ((u128::from(x) << 52) / u128::from(prime)) as u64);
            let [a, b, sum] = [x, y, sums].map(|x| lanes.load(&x));
            let all = |x| unloaded(lanes, x);
            let each = |f: &dyn Fn(usize) -> u64| -> [u64; 8] { std::array::from_fn(f) };
            let product = |i: usize| u128::from(x[i]) * u128::from(y[i]);
            assert_eq!(all(lanes.splat(x[0])), [x[0]; 8]);
            assert_eq!(all(lanes.add(sum, a)), each(&|i| sums[i] + x[i]));
            assert_eq!(all(lanes.sub(a, sum)), each(&|i| x[i].wrapping_sub(sums[i])));
            assert_eq!(all(lanes.low(sum)), each(&|i| sums[i] & LOW));
            assert_eq!(all(lanes.high(sum)), each(&|i| sums[i] >> 52));
            let low = |i| sums[i] + (product(i) as u64 & LOW);
            assert_eq!(all(lanes.mul_low(sum, a, b)), each(&low));
            let high = |i| sums[i] + (product(i) >> 52) as u64;
            assert_eq!(all(lanes.mul_high(sum, a, b)), each(&high));
            for x in [x, sums, bound] {
                let expected = each(&|i| if x[i] < bound[i] { x[i] } else { x[i] - bound[i] });
                assert_eq!(all(lanes.below(lanes.load(&x), lanes.load(&bound))), expected);
            }
            let factor = (lanes.load(&value), lanes.load(&quotient));
            let times = all(lanes.times(a, factor, lanes.splat(prime)));
            assert!(times.iter().all(|&x| x < 2 * prime), "{x:?} times {value:?}: {times:?}");
            let exact = |i| (u128::from(x[i]) * u128::from(value[i]) % u128::from(prime)) as u64;
            assert_eq!(times.map(|x| x % prime), each(&exact), "{x:?} times {value:?}");
        }
        let rows: [[u64; 8]; 8] =
            std::array::from_fn(|i| std::array::from_fn(|j| (8 * i + j) as u64));
        let columns = lanes.transpose(rows.map(|row| lanes.load(&row)));
        let columns = columns.map(|column| unloaded(lanes, column));
        assert_eq!(columns, std::array::from_fn(|i| std::array::from_fn(|j| (8 * j + i) as u64)));
    }

    #[test]
    fn operations_are_what_they_are_defined_as() {
        check(Portable);
        #[cfg(target_arch = "x86_64")]
        {
            Wide::detect().into_iter().for_each(check);
            Fused::detect().into_iter().for_each(check);
        }
    }
}
