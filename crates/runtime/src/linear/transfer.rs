//! Correlated oblivious transfers of vectors: what the keys of an extension are worth at either party.
//!
//! Bit `b` of a value takes a vector `x` in `Z_{2^(l-b)}`. With the pads `p_0`, `p_1` of a transfer the OT
//! sender sends `p_0 - p_1 + x` and keeps `-p_0`; the chooser of bit `c` computes `p_c + c (p_0 - p_1 + x) =
//! p_0 + c x`. Both count `2^b` times, so what lies above bit `l - b` of a pad does not matter.

use super::lanes::{Lane, Transfer, Vectors};
use super::pads::Pads;
use crate::packing::{Packer, Unpacker};
use copriv_ir::cost::OtProduct;

/// One party's side of the transfers of a product. Forgets its pads when dropped.
///
/// The sums of the transfers of up to 32 bits are kept modulo `2^32` and count `2^(l-32)` times in the end.
pub(super) struct VectorTransfers {
    product: OtProduct,
    pads: Pads,
    narrow: Vectors<u32>,
    wide: Vectors<u64>,
}

impl VectorTransfers {
    pub(super) fn new(product: OtProduct) -> Self {
        let wide = if product.ring.bits() > 32 { product.len } else { 0 };
        Self {
            product,
            pads: Pads::new(product.len),
            narrow: Vectors::new(product.len),
            wide: Vectors::new(wide),
        }
    }

    /// Goes on with value number `value` of the product.
    pub(super) fn go_to(&mut self, value: usize) {
        self.pads.go_to(value as u64 * u64::from(self.product.choice_bits));
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
        if self.pads.are_keys(self.product.ring.bits()) {
            return self.offer_short(keys, vector, share, payload);
        }
        self.narrow.set(vector);
        self.wide.set(vector);
        self.each_bit(keys, |pads, position, transfer, narrow, wide| {
            let pads = [2 * position, 2 * position + 1].map(|at| pads.words(at, transfer.width));
            match transfer.width {
                0..=32 => u32::offer(narrow, transfer, pads, payload),
                _ => u64::offer(wide, transfer, pads, payload),
            }
        });
        self.add_to(share);
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
        if self.pads.are_keys(self.product.ring.bits()) {
            return self.choose_short(keys, value, share, payload);
        }
        let mut bit = 0;
        self.each_bit(keys.as_chunks::<1>().0, |pads, position, transfer, narrow, wide| {
            let pad = (pads.words(position, transfer.width), value >> bit & 1 == 1);
            bit += 1;
            match transfer.width {
                0..=32 => u32::choose(narrow, transfer, pad, payload),
                _ => u64::choose(wide, transfer, pad, payload),
            }
        });
        self.add_to(share);
    }

    /// As [`Self::offer`] for vectors of a few numbers, whose pads are the keys.
    fn offer_short(
        &self,
        keys: &[[u128; 2]],
        vector: &[u64],
        share: &mut [u64],
        payload: &mut Packer,
    ) {
        for (bit, [zero, one]) in keys.iter().enumerate() {
            let Transfer { width, negative, .. } = self.transfer(bit);
            let sign = u64::from(negative).wrapping_neg();
            let places = (0..).step_by(if width > 32 { 64 } else { 32 });
            for ((x, share), at) in vector.iter().zip(&mut *share).zip(places) {
                let [zero, one] = [zero, one].map(|key| (key >> at) as u64);
                let x = (x ^ sign).wrapping_sub(sign);
                payload.push(zero.wrapping_sub(one).wrapping_add(x), width);
                *share = share.wrapping_sub(zero << bit);
            }
        }
    }

    /// As [`Self::choose`] for vectors of a few numbers, whose pads are the keys.
    fn choose_short(
        &self,
        keys: &[u128],
        value: u64,
        share: &mut [u64],
        payload: &mut Unpacker<'_>,
    ) {
        for (bit, key) in keys.iter().enumerate() {
            let Transfer { width, .. } = self.transfer(bit);
            let chosen = (value >> bit & 1).wrapping_neg();
            let places = (0..).step_by(if width > 32 { 64 } else { 32 });
            for (share, at) in share.iter_mut().zip(places) {
                let term = ((key >> at) as u64).wrapping_add(payload.next(width) & chosen);
                *share = share.wrapping_add(term << bit);
            }
        }
    }

    /// Calls `f` for each bit's transfer with its position among those stretched.
    fn each_bit<const N: usize>(
        &mut self,
        keys: &[[u128; N]],
        mut f: impl FnMut(&Pads, usize, Transfer, &mut Vectors<u32>, &mut Vectors<u64>),
    ) {
        let mut bit = 0;
        while let Some(rest) = keys.get(bit..).filter(|rest| !rest.is_empty()) {
            let width = self.transfer(bit).width;
            let together = self.pads.together(width, rest.len());
            self.pads.stretch(&rest[..together], width);
            for position in 0..together {
                let transfer = self.transfer(bit);
                f(&self.pads, position, transfer, &mut self.narrow, &mut self.wide);
                bit += 1;
            }
        }
    }

    /// What is public of the transfer of a bit.
    fn transfer(&self, bit: usize) -> Transfer {
        let (l, bit) = (self.product.ring.bits(), bit as u32);
        let width = l - bit;
        // The top bit of a number narrower than the ring counts negative.
        let negative = bit + 1 == self.product.choice_bits && width > 1;
        let shift = if width > 32 { bit } else { bit - l.saturating_sub(32) };
        Transfer { width, shift, negative }
    }

    fn add_to(&mut self, share: &mut [u64]) {
        self.narrow.add_to(share, self.product.ring.bits().saturating_sub(32));
        self.wide.add_to(share, 0);
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
