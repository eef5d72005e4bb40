//! Residues on their way to and from messages.

use super::parameters::LatticeSet;
use crate::packing::{Packer, Unpacker};

/// A residue plus a small number.
pub(super) const fn noisy(set: LatticeSet, residue: u128, noise: i64) -> u128 {
    residue.wrapping_add((noise as i128).cast_unsigned()) & set.mask()
}

/// Appends the low `bits` bits, at most 128.
pub(super) fn push(message: &mut Packer, residue: u128, bits: u32) {
    let low = bits.min(64);
    message.push(residue as u64, low);
    message.push((residue >> low) as u64, bits - low);
}

/// Numbers of `bits` bits, at most 120, one after the other from the start of `bytes`; zeros where these end early.
pub(super) fn all(bytes: &[u8], bits: u32) -> impl Iterator<Item = u128> + '_ {
    let mask = u128::MAX >> (128 - bits);
    (0..).step_by(bits as usize).map(move |at: usize| {
        let window = bytes.get(at / 8..).unwrap_or_default();
        if let (true, Some(word)) = (bits <= 57, window.first_chunk()) {
            return u128::from(u64::from_le_bytes(*word) >> (at % 8) & mask as u64);
        }
        let mut word = [0; 16];
        let length = window.len().min(16);
        word[..length].copy_from_slice(&window[..length]);
        u128::from_le_bytes(word) >> (at % 8) & mask
    })
}

/// The next `bits` bits, at most 128.
pub(super) fn next(message: &mut Unpacker<'_>, bits: u32) -> u128 {
    let low = bits.min(64);
    let value = u128::from(message.next(low));
    value | u128::from(message.next(bits - low)) << low
}
