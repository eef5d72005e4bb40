//! Correlated oblivious transfers of vectors: what the keys of an extension are worth at either party.
//!
//! Bit `b` of a value takes a vector `x` in `Z_{2^(l-b)}`. With the pads `p_0`, `p_1` of a transfer the OT
//! sender sends `p_0 - p_1 + x` and keeps `-p_0`; the chooser of bit `c` computes `p_c + c (p_0 - p_1 + x) =
//! p_0 + c x`. Both count `2^b` times, so what lies above bit `l - b` of a pad does not matter.

use crate::ot::TweakedHash;
use crate::packing::{Packer, Unpacker};
use copriv_ir::cost::OtProduct;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One party's side of the transfers of a product, in order. Forgets its pads when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct VectorTransfers {
    #[zeroize(skip)]
    hash: TweakedHash,
    #[zeroize(skip)]
    product: OtProduct,
    /// Transfers made so far.
    #[zeroize(skip)]
    made: u64,
    stream: Vec<u8>,
    pad: Vec<u64>,
    other: Vec<u64>,
}

impl VectorTransfers {
    pub(super) fn new(product: OtProduct) -> Self {
        let (stream, pad) = (vec![0; 8 * product.len.max(2)], vec![0; product.len]);
        Self { hash: TweakedHash::new(), product, made: 0, stream, other: pad.clone(), pad }
    }

    /// The OT sender's transfers for one value: appends to the payload, and subtracts its pads from `share`.
    ///
    /// `keys` are the two keys of each bit's transfer.
    pub(super) fn offer(
        &mut self,
        keys: &[[u128; 2]],
        vector: &[u64],
        share: &mut [u64],
        payload: &mut Packer,
    ) {
        let (ring_bits, top) = (self.product.ring.bits(), self.product.choice_bits - 1);
        for (bit, &[zero, one]) in (0..).zip(keys) {
            let width = ring_bits - bit;
            let tweak = self.next_tweak();
            expand(&self.hash, (zero, tweak), width, &mut self.stream, &mut self.pad);
            expand(&self.hash, (one, tweak), width, &mut self.stream, &mut self.other);
            // The top bit of a number narrower than the ring counts negative.
            let negative = bit == top && width > 1;
            let sign = u64::from(negative).wrapping_neg();
            let mask = u64::MAX >> (64 - width);
            for ((other, &pad), &x) in self.other.iter_mut().zip(&self.pad).zip(vector) {
                let x = (x ^ sign).wrapping_sub(sign);
                *other = pad.wrapping_sub(*other).wrapping_add(x) & mask;
            }
            payload.push_all(&self.other, width);
            for (share, &pad) in share.iter_mut().zip(&self.pad) {
                *share = share.wrapping_sub(pad << bit);
            }
        }
    }

    /// The chooser's transfers for one value: takes from the payload, and adds the sender's pads and
    /// `value` times its vector to `share`.
    ///
    /// `keys` are the keys of the value's bits, one for each transfer.
    pub(super) fn choose(
        &mut self,
        keys: &[u128],
        value: u64,
        share: &mut [u64],
        payload: &mut Unpacker<'_>,
    ) {
        for (bit, &key) in (0..).zip(keys) {
            let width = self.product.ring.bits() - bit;
            let tweak = self.next_tweak();
            expand(&self.hash, (key, tweak), width, &mut self.stream, &mut self.pad);
            payload.fill(&mut self.other, width);
            // Not a branch: how long this takes must not depend on the choice.
            let chosen = (value >> bit & 1).wrapping_neg();
            for ((share, &pad), &sent) in share.iter_mut().zip(&self.pad).zip(&self.other) {
                *share = share.wrapping_add(pad.wrapping_add(sent & chosen) << bit);
            }
        }
    }

    fn next_tweak(&mut self) -> u128 {
        self.made += 1;
        u128::from(self.made) << 64
    }
}

/// Fills `pad` with the numbers, at least `width` bits wide, that a transfer's key stands for.
///
/// Four bytes a number where the width allows, else eight. Where 16 bytes are enough they are the key's own.
fn expand(
    hash: &TweakedHash,
    (key, tweak): (u128, u128),
    width: u32,
    stream: &mut [u8],
    pad: &mut [u64],
) {
    let number = if width <= 32 { 4 } else { 8 };
    let stream = &mut stream[..(number * pad.len()).max(16)];
    if number * pad.len() <= 16 {
        stream.copy_from_slice(&key.to_le_bytes());
    } else {
        hash.expand(key, tweak, stream);
    }
    if number == 4 {
        let words = stream.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        pad.iter_mut().zip(words).for_each(|(pad, word)| *pad = word.into());
    } else {
        let words = stream.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        pad.iter_mut().zip(words).for_each(|(pad, word)| *pad = word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use copriv_ir::{Party, Ring};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn transfers_add_up_to_value_times_vector(
            bits in 1u32..=64,
            choice_bits in 1u32..=64,
            len in 1usize..40,
            seed: [u8; 16],
        ) {
            let ring = Ring::new(bits).expect("in range");
            let choice_bits = choice_bits.min(bits);
            let product = OtProduct {
                chooser: Party::Server,
                count: 1,
                inner: 1,
                rows: 1,
                len,
                choice_bits,
                ring,
            };
            let mut random = Prg::from_seed(&seed);
            let value = random.next_u64() & (u64::MAX >> (64 - choice_bits));
            let vector: Vec<u64> = (0..len).map(|_| ring.reduce(random.next_u64())).collect();
            let pairs: Vec<[u128; 2]> = (0..choice_bits)
                .map(|_| [u128::from_le_bytes(random.array()), u128::from_le_bytes(random.array())])
                .collect();
            let chosen: Vec<u128> =
                pairs.iter().enumerate().map(|(bit, pair)| pair[(value >> bit & 1) as usize]).collect();

            let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
            let mut payload = Packer::default();
            VectorTransfers::new(product).offer(&pairs, &vector, &mut ours, &mut payload);
            let payload = payload.finish();
            prop_assert_eq!(payload.len() as u64, product.payload_bytes(1));
            let mut payload = Unpacker::new(&payload);
            VectorTransfers::new(product).choose(&chosen, value, &mut theirs, &mut payload);

            let unused = 64 - choice_bits;
            let signed = (value << unused).cast_signed() >> unused;
            for ((ours, theirs), x) in ours.iter().zip(theirs).zip(vector) {
                prop_assert_eq!(ring.add(*ours, theirs), ring.mul(signed.cast_unsigned(), x));
            }
        }
    }
}
