//! Correlated oblivious transfers of vectors: what the keys of an extension are worth at either party.
//!
//! Bit `b` of a value takes a vector `x` in `Z_{2^(l-b)}`. With the pads `p_0`, `p_1` of a transfer the OT
//! sender sends `p_0 - p_1 + x` and keeps `-p_0`; the chooser of bit `c` computes `p_c + c (p_0 - p_1 + x) =
//! p_0 + c x`. Both count `2^b` times, so what lies above bit `l - b` of a pad does not matter.

use super::pads::Pads;
use crate::packing::{Packer, Unpacker};
use copriv_ir::cost::OtProduct;
use zeroize::Zeroizing;

/// One party's side of the transfers of a product, in order. Forgets its pads when dropped.
pub(super) struct VectorTransfers {
    product: OtProduct,
    pads: Pads,
    pad: Zeroizing<Vec<u64>>,
    other: Zeroizing<Vec<u64>>,
}

impl VectorTransfers {
    pub(super) fn new(product: OtProduct) -> Self {
        let numbers = || Zeroizing::new(vec![0; product.len]);
        Self { product, pads: Pads::new(product.len), pad: numbers(), other: numbers() }
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
        let mut bit = 0;
        while let Some(rest) = keys.get(bit..).filter(|rest| !rest.is_empty()) {
            let together = self.pads.together(self.width(bit), rest.len());
            self.pads.stretch(&rest[..together], self.width(bit));
            for position in 0..together {
                self.offer_bit(bit, position, vector, share);
                payload.push_all(&self.other, self.width(bit));
                bit += 1;
            }
        }
    }

    /// Masks the vector for a bit, in `other`.
    fn offer_bit(&mut self, bit: usize, position: usize, vector: &[u64], share: &mut [u64]) {
        let width = self.width(bit);
        self.pads.read(2 * position, width, &mut self.pad);
        self.pads.read(2 * position + 1, width, &mut self.other);
        // The top bit of a number narrower than the ring counts negative.
        let negative = bit + 1 == self.product.choice_bits as usize && width > 1;
        let sign = u64::from(negative).wrapping_neg();
        let numbers = self.other.iter_mut().zip(self.pad.iter()).zip(vector).zip(share);
        for (((other, &pad), &x), share) in numbers {
            *other = pad.wrapping_sub(*other).wrapping_add((x ^ sign).wrapping_sub(sign));
            *share = share.wrapping_sub(pad << bit);
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
        let (keys, _) = keys.as_chunks::<1>();
        let mut bit = 0;
        while let Some(rest) = keys.get(bit..).filter(|rest| !rest.is_empty()) {
            let together = self.pads.together(self.width(bit), rest.len());
            self.pads.stretch(&rest[..together], self.width(bit));
            for position in 0..together {
                let width = self.width(bit);
                self.pads.read(position, width, &mut self.pad);
                payload.fill(&mut self.other, width);
                self.choose_bit(bit, value, share);
                bit += 1;
            }
        }
    }

    /// Unmasks what was sent for a bit, in `other`.
    fn choose_bit(&self, bit: usize, value: u64, share: &mut [u64]) {
        // Not a branch: how long this takes must not depend on the choice.
        let chosen = (value >> bit & 1).wrapping_neg();
        for ((share, &pad), &sent) in share.iter_mut().zip(self.pad.iter()).zip(self.other.iter()) {
            *share = share.wrapping_add(pad.wrapping_add(sent & chosen) << bit);
        }
    }

    /// Bits of the numbers in the transfer of a bit.
    fn width(&self, bit: usize) -> u32 {
        self.product.ring.bits() - bit as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use copriv_ir::{OtKind, Party, Ring};
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
                kind: OtKind::Iknp,
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
