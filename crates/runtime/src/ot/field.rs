//! 1-of-`2^m` transfers from `m` correlated 1-of-2 transfers, by multiplication in GF(2^128).
//!
//! In a correlated transfer the sender has `q` and one secret `delta` for all, the receiver `t = q ^ c delta`. With
//! `Q = sum_b x^b q_b` and `T = sum_b x^b t_b` of `m` of them, `T = Q ^ w delta` for the field's element `w =
//! sum_b c_b x^b`: the sender can compute `Q ^ w delta` for all `w`, of which the receiver knows one. Any two differ by a
//! multiple of `delta` that is not zero, so that hashing makes all others look random, as in IKNP.

use zeroize::Zeroizing;

/// `x` times an element, modulo `x^128 + x^7 + x^2 + x + 1`.
#[inline]
fn times_x(element: u128) -> u128 {
    (element << 1) ^ ((element >> 127) * 0x87)
}

/// `w delta` for all `w` of up to four bits.
pub(super) fn multiples(delta: u128) -> Zeroizing<[u128; 16]> {
    let mut multiples = Zeroizing::new([0; 16]);
    let mut power = delta;
    for bit in 0..4 {
        for w in 0..1 << bit {
            multiples[1 << bit | w] = multiples[w] ^ power;
        }
        power = times_x(power);
    }
    multiples
}

/// Adds `x^power` times each row to `sum`; `power` is at most 3.
pub(super) fn add_multiple(sum: &mut [u128], rows: &[u128], power: u32) {
    let pairs = sum.iter_mut().zip(rows);
    if power == 0 {
        return pairs.for_each(|(sum, &row)| *sum ^= row);
    }
    for (sum, &row) in pairs {
        let over = row >> (128 - power);
        *sum ^= row << power ^ over ^ over << 1 ^ over << 2 ^ over << 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_distinct_and_linear() {
        let delta = 0xdead_beef_u128 << 96 | 1 << 127 | 12345;
        let all = multiples(delta);
        for w in 0..16 {
            assert!((0..w).all(|v| all[v] != all[w]));
            let mut sum = [0];
            for bit in (0..4).filter(|bit| w >> bit & 1 == 1) {
                add_multiple(&mut sum, &[delta], bit);
            }
            assert_eq!(sum[0], all[w]);
        }
    }
}
