//! What plans do number by number, on ring elements.
//!
//! Each function is compiled for the widest vectors that a processor may have, and once for any.

use super::convolution::Real;
use super::rounding::{neighbour, scrambled};
use crate::Ring;

/// A function of ring elements compiled for several instruction sets; all give the same.
macro_rules! vectorised {
    (
        $(#[$doc:meta])*
        fn $name:ident $(<$kind:ident: $bound:ident>)? ($($arg:ident: $type:ty),*) -> $result:ty $body:block
    ) => {
        $(#[$doc])*
        pub(super) fn $name $(<$kind: $bound>)? ($($arg: $type),*) -> $result {
            #[inline(always)]
            fn portable $(<$kind: $bound>)? ($($arg: $type),*) -> $result $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
            fn avx512 $(<$kind: $bound>)? ($($arg: $type),*) -> $result {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$kind: $bound>)? ($($arg: $type),*) -> $result {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has just been found to have these features.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}

vectorised! {
    /// `x + y`.
    fn sums(ring: Ring, x: &[u64], y: &[u64]) -> Vec<u64> {
        let mut sums = vec![0; x.len()];
        for (sum, (&x, &y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum = ring.add(x, y);
        }
        sums
    }
}

vectorised! {
    /// The signed numbers in another ring.
    fn moved(from: Ring, to: Ring, x: &[u64]) -> Vec<u64> {
        let mut moved = vec![0; x.len()];
        for (moved, &x) in moved.iter_mut().zip(x) {
            *moved = to.from_signed(from.to_signed(x));
        }
        moved
    }
}

vectorised! {
    /// What is not negative as it is, 0 for the rest.
    fn relu(ring: Ring, x: &[u64]) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if ring.to_signed(x) < 0 { 0 } else { x };
        }
        y
    }
}

vectorised! {
    /// `relu(x) - relu(x - cap)` in the ring.
    fn relu_below(ring: Ring, cap: u64, x: &[u64]) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            let above = ring.sub(x, cap);
            let above = if ring.to_signed(above) < 0 { 0 } else { above };
            *y = ring.sub(if ring.to_signed(x) < 0 { 0 } else { x }, above);
        }
        y
    }
}

vectorised! {
    /// Shifted right by `shift` bits, towards minus infinity, and taken to another ring.
    fn shifted(from: Ring, to: Ring, shift: u32, x: &[u64]) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = to.from_signed(from.to_signed(x).wrapping_shr(shift));
        }
        y
    }
}

vectorised! {
    /// Shifted right by `shift` bits to the neighbour that the server's share decides (none counts as 0), and taken
    /// to another ring.
    fn rounded(from: Ring, to: Ring, shift: u32, x: &[u64], shares: &[u64]) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        let shares = shares.iter().chain(std::iter::repeat(&0));
        for (y, (&x, &share)) in y.iter_mut().zip(x.iter().zip(shares)) {
            *y = to.from_signed(neighbour(from, x, shift, share));
        }
        y
    }
}

vectorised! {
    /// As [`rounded`], with shares that follow from `key`.
    fn rounded_by_chance(from: Ring, to: Ring, shift: u32, x: &[u64], key: u64) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        for (number, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let share = scrambled(key.wrapping_add(number as u64));
            *y = to.from_signed(neighbour(from, x, shift, share));
        }
        y
    }
}

vectorised! {
    /// The signed numbers in floating point.
    fn to_real<T: Real>(ring: Ring, x: &[u64]) -> Vec<T> {
        let mut y = vec![T::default(); x.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = T::from_integer(ring.to_signed(x));
        }
        y
    }
}

vectorised! {
    /// `2^extra x + bias` for integers `x` in floating point.
    fn from_real<T: Real>(ring: Ring, extra: u32, x: &[T], bias: &[u64]) -> Vec<u64> {
        let mut y = vec![0; x.len()];
        for (y, (x, &bias)) in y.iter_mut().zip(x.iter().zip(bias)) {
            *y = ring.add(x.to_integer().cast_unsigned().wrapping_shl(extra), bias);
        }
        y
    }
}

vectorised! {
    /// The largest absolute value of the signed numbers.
    fn largest(ring: Ring, x: &[u64]) -> u64 {
        let mut largest = 0;
        for &x in x {
            largest = ring.to_signed(x).unsigned_abs().max(largest);
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};

    proptest! {
        #[test]
        fn numbers_mean_what_their_definitions_say(
            (bits, other, shift) in (2u32..=64, 1u32..=64, 1u32..=40), count in 0usize..40, seed: u64,
        ) {
            let [from, to] = [bits, other].map(|bits| Ring::new(bits).expect("in range"));
            let shift = shift.min(bits - 1);
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut draw = || -> Vec<u64> { (0..count).map(|_| from.reduce(rng.random())).collect() };
            let (x, y) = (draw(), draw());
            let each = |f: &dyn Fn(usize) -> u64| (0..count).map(f).collect::<Vec<u64>>();
            let signed = |i: usize| from.to_signed(x[i]);
            prop_assert_eq!(sums(from, &x, &y), each(&|i| from.add(x[i], y[i])));
            prop_assert_eq!(moved(from, to, &x), each(&|i| to.from_signed(signed(i))));
            prop_assert_eq!(relu(from, &x), each(&|i| from.from_signed(signed(i).max(0))));
            prop_assert_eq!(shifted(from, to, shift, &x), each(&|i| to.from_signed(signed(i) >> shift)));
            let given = each(&|i| to.from_signed(neighbour(from, x[i], shift, y[i])));
            prop_assert_eq!(rounded(from, to, shift, &x, &y), given);
            let chance = |i: usize| neighbour(from, x[i], shift, scrambled(seed.wrapping_add(i as u64)));
            let expected = each(&|i| to.from_signed(chance(i)));
            prop_assert_eq!(rounded_by_chance(from, to, shift, &x, seed), expected);
            prop_assert_eq!(largest(from, &x), (0..count).map(|i| signed(i).unsigned_abs()).max().unwrap_or(0));
        }

        #[test]
        fn integers_survive_floating_point(bits in 2u32..=24, extra in 0u32..=2, seed: u64) {
            let ring = Ring::new(bits).expect("in range");
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let x: Vec<u64> = (0..19).map(|_| ring.reduce(rng.random())).collect();
            let bias: Vec<u64> = (0..19).map(|_| ring.reduce(rng.random())).collect();
            let expected: Vec<u64> =
                x.iter().zip(&bias).map(|(x, bias)| ring.add(ring.reduce(x << extra), *bias)).collect();
            prop_assert_eq!(&from_real(ring, extra, &to_real::<f32>(ring, &x), &bias), &expected);
            prop_assert_eq!(&from_real(ring, extra, &to_real::<f64>(ring, &x), &bias), &expected);
        }
    }
}
