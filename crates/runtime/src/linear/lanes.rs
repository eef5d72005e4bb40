//! The arithmetic of one transfer's vectors, and their packing: the inner loops of the matrix products.
//!
//! Numbers of at most 32 bits are worked on as `u32`, wider ones as `u64`. What lies above a number's width never
//! matters: it leaves the ring when the number is shifted to its place.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::packing::{Packer, Unpacker};
use zeroize::{Zeroize, Zeroizing};

/// Numbers that are packed together: a whole number of words at any width.
const BLOCK: usize = 256;

/// Bytes of a block at full width, and a register more: stores are as wide as a register.
const PACKED: usize = BLOCK * 8 + 64;

/// Words of 16 bytes that a register holds; buffers are rounded up to whole registers.
pub(super) const REGISTER_WORDS: usize = 4;

/// A number of a vector, with its kernels.
pub(super) trait Lane: Copy + Default + Zeroize {
    /// Its width.
    const BITS: u32;
    /// Numbers in a register.
    const COUNT: usize = 512 / Self::BITS as usize;

    /// The low bits of a number.
    fn of(number: u64) -> Self;

    /// The number.
    fn wide(self) -> u64;

    /// [`offer`] as this processor does it best.
    fn offer(vectors: &mut Vectors<Self>, transfer: Transfer, pads: [&[u128]; 2], to: &mut Packer);

    /// [`choose`] as this processor does it best.
    fn choose(
        vectors: &mut Vectors<Self>,
        transfer: Transfer,
        pad: (&[u128], bool),
        from: &mut Unpacker<'_>,
    );
}

/// What is public of a transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Bits of each number on the wire: 1 to 32 where numbers are `u32`, else 33 to 64.
    pub width: u32,
    /// Where its pads count in the sum.
    pub shift: u32,
    /// Whether the bit counts negative.
    pub negative: bool,
}

/// A party's vectors of one value, filled up with zeros to whole registers.
pub(super) struct Vectors<L: Lane> {
    len: usize,
    /// The OT sender's vector.
    vector: Zeroizing<Vec<L>>,
    /// The party's share of the product so far.
    sum: Zeroizing<Vec<L>>,
    /// Room for the packed numbers of a block.
    packed: Zeroizing<Vec<u8>>,
}

impl<L: Lane> Vectors<L> {
    /// Of `len` numbers.
    pub(super) fn new(len: usize) -> Self {
        let zeros = || Zeroizing::new(vec![L::default(); len.next_multiple_of(L::COUNT)]);
        let packed = Zeroizing::new(vec![0; PACKED]);
        Self { len, vector: zeros(), sum: zeros(), packed }
    }

    /// Takes the vector that the next transfers offer.
    pub(super) fn set(&mut self, vector: &[u64]) {
        self.vector.iter_mut().zip(vector).for_each(|(to, &from)| *to = L::of(from));
    }

    /// Adds the sum, times `2^shift`, to `share` and starts anew.
    pub(super) fn add_to(&mut self, share: &mut [u64], shift: u32) {
        for (share, sum) in share.iter_mut().zip(&*self.sum) {
            *share = share.wrapping_add(sum.wide() << shift);
        }
        self.sum.fill(L::default());
    }
}

impl Lane for u32 {
    const BITS: u32 = 32;

    fn of(number: u64) -> Self {
        number as Self
    }

    fn wide(self) -> u64 {
        self.into()
    }

    fn offer(vectors: &mut Vectors<Self>, transfer: Transfer, pads: [&[u128]; 2], to: &mut Packer) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::offer_u32(vectors, transfer, pads, to) };
        }
        offer(vectors, transfer, pads, to);
    }

    fn choose(
        vectors: &mut Vectors<Self>,
        transfer: Transfer,
        pad: (&[u128], bool),
        from: &mut Unpacker<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::choose_u32(vectors, transfer, pad, from) };
        }
        choose(vectors, transfer, pad, from);
    }
}

impl Lane for u64 {
    const BITS: u32 = 64;

    fn of(number: u64) -> Self {
        number
    }

    fn wide(self) -> u64 {
        self
    }

    fn offer(vectors: &mut Vectors<Self>, transfer: Transfer, pads: [&[u128]; 2], to: &mut Packer) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::offer_u64(vectors, transfer, pads, to) };
        }
        offer(vectors, transfer, pads, to);
    }

    fn choose(
        vectors: &mut Vectors<Self>,
        transfer: Transfer,
        pad: (&[u128], bool),
        from: &mut Unpacker<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::choose_u64(vectors, transfer, pad, from) };
        }
        choose(vectors, transfer, pad, from);
    }
}

/// The OT sender's side: sends `p_0 - p_1 + x` (`- x` where the bit is negative), keeps `-p_0`.
#[inline]
fn offer<L: Lane>(
    vectors: &mut Vectors<L>,
    transfer: Transfer,
    [zero, one]: [&[u128]; 2],
    to: &mut Packer,
) {
    let Vectors { len, vector, sum, .. } = vectors;
    let sign = u64::from(transfer.negative).wrapping_neg();
    let mut masked = Zeroizing::new([0; BLOCK]);
    for start in (0..*len).step_by(BLOCK) {
        let masked = &mut masked[..BLOCK.min(*len - start)];
        let pads = numbers::<L>(zero, start).zip(numbers::<L>(one, start));
        let numbers = vector[start..].iter().zip(&mut sum[start..]).zip(pads);
        for (masked, ((x, sum), (zero, one))) in masked.iter_mut().zip(numbers) {
            let x = (x.wide() ^ sign).wrapping_sub(sign);
            *masked = zero.wrapping_sub(one).wrapping_add(x);
            *sum = L::of(sum.wide().wrapping_sub(zero << transfer.shift));
        }
        to.push_all(masked, transfer.width);
    }
}

/// The chooser's side: keeps `p_c + c (p_0 - p_1 + x)` for its bit `c`.
#[inline]
fn choose<L: Lane>(
    vectors: &mut Vectors<L>,
    transfer: Transfer,
    (pad, bit): (&[u128], bool),
    from: &mut Unpacker<'_>,
) {
    // Not a branch: how long this takes must not depend on the choice.
    let chosen = u64::from(bit).wrapping_neg();
    let mut sent = [0; BLOCK];
    for start in (0..vectors.len).step_by(BLOCK) {
        let sent = &mut sent[..BLOCK.min(vectors.len - start)];
        from.fill(sent, transfer.width);
        let sums = vectors.sum[start..].iter_mut().zip(numbers::<L>(pad, start));
        for ((sum, pad), sent) in sums.zip(sent) {
            let term = pad.wrapping_add(*sent & chosen) << transfer.shift;
            *sum = L::of(sum.wide().wrapping_add(term));
        }
    }
}

/// The numbers of a pad from number `start` on, a multiple of [`BLOCK`].
fn numbers<L: Lane>(pad: &[u128], start: usize) -> impl Iterator<Item = u64> {
    let in_word = (128 / L::BITS) as usize;
    let split = move |word: &u128| {
        let word = *word;
        (0..in_word).map(move |at| L::of((word >> (at as u32 * L::BITS)) as u64).wide())
    };
    pad[start / in_word..].iter().flat_map(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use proptest::prelude::*;

    /// Both parties' sums and the payload by two ways to do the same.
    fn both_ways<L: Lane>(
        len: usize,
        transfer: Transfer,
        lead: u32,
        seed: [u8; 16],
    ) -> [Vec<u64>; 6] {
        let mut random = Prg::from_seed(&seed);
        let words = len.next_multiple_of(L::COUNT) * L::BITS as usize / 128;
        let mut pad =
            || -> Vec<u128> { (0..words).map(|_| u128::from_le_bytes(random.array())).collect() };
        let (zero, one) = (pad(), pad());
        let vector: Vec<u64> = (0..len).map(|_| random.next_u64()).collect();
        let bit = seed[0] % 2 == 1;
        let way = |fast: bool| {
            let (mut ours, mut theirs) = (Vectors::<L>::new(len), Vectors::<L>::new(len));
            ours.set(&vector);
            let mut packer = Packer::default();
            packer.push(0, lead);
            let pads = [zero.as_slice(), one.as_slice()];
            if fast {
                L::offer(&mut ours, transfer, pads, &mut packer);
            } else {
                offer(&mut ours, transfer, pads, &mut packer);
            }
            let payload = packer.finish();
            let mut unpacker = Unpacker::new(&payload);
            unpacker.next(lead);
            let pad = (pads[usize::from(bit)], bit);
            if fast {
                L::choose(&mut theirs, transfer, pad, &mut unpacker);
            } else {
                choose(&mut theirs, transfer, pad, &mut unpacker);
            }
            // What is above the ring's width does not matter.
            let lost = L::BITS - transfer.width - transfer.shift;
            let sums = |vectors: Vectors<L>| -> Vec<u64> {
                vectors.sum[..len].iter().map(|sum| L::of(sum.wide() << lost).wide()).collect()
            };
            (payload.into_iter().map(u64::from).collect(), sums(ours), sums(theirs))
        };
        let (fast, portable) = (way(true), way(false));
        [fast.0, portable.0, fast.1, portable.1, fast.2, portable.2]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_instruction_set_agrees(
            (width, shift) in (1u32..=64, 0u32..64),
            len in prop_oneof![1usize..40, 250usize..270, 500usize..530],
            (lead, negative) in (0u32..64, any::<bool>()),
            seed: [u8; 16],
        ) {
            let (narrow, bits) = (width <= 32, if width <= 32 { 32 } else { 64 });
            let shift = shift % (bits - width + 1);
            let transfer = Transfer { width, shift, negative };
            let found = if narrow {
                both_ways::<u32>(len, transfer, lead, seed)
            } else {
                both_ways::<u64>(len, transfer, lead, seed)
            };
            let [fast, portable, ours, our_portable, theirs, their_portable] = found;
            prop_assert_eq!(fast, portable);
            prop_assert_eq!(ours, our_portable);
            prop_assert_eq!(theirs, their_portable);
        }
    }
}
