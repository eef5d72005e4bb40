//! Residues on their way to and from messages.

use super::parameters::LatticeSet;
use crate::packing::{Packer, Unpacker};

/// The residue of these words plus a small number.
pub(super) const fn noisy(set: LatticeSet, words: [u64; 2], noise: i64) -> u128 {
    set.join([words[0].wrapping_add(noise.cast_unsigned()), words[1]])
}

/// The words of each residue, from all their first and all their second words.
pub(super) fn zip<'a>(low: &'a [u64], high: &'a [u64]) -> impl Iterator<Item = [u64; 2]> + 'a {
    low.iter().zip(high).map(|(&low, &high)| [low, high])
}

/// Appends the low `bits` bits, at most 128.
pub(super) fn push(message: &mut Packer, residue: u128, bits: u32) {
    let low = bits.min(64);
    message.push(residue as u64, low);
    message.push((residue >> low) as u64, bits - low);
}

/// The next `bits` bits, at most 128.
pub(super) fn next(message: &mut Unpacker<'_>, bits: u32) -> u128 {
    let low = bits.min(64);
    let value = u128::from(message.next(low));
    value | u128::from(message.next(bits - low)) << low
}
