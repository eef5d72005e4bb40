//! The arithmetic of one transfer's vectors, and their packing: the inner loops of the matrix products.
//!
//! Numbers of at most 32 bits are worked on as `u32`, wider ones as `u64`. What lies above a number's width never
//! matters: it leaves the ring when the number is shifted to its place.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::packing::{Packer, Unpacker};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

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

    /// The sum, modulo `2^BITS`.
    fn plus(self, other: Self) -> Self;

    /// The difference, modulo `2^BITS`.
    fn minus(self, other: Self) -> Self;

    /// The bits that both have.
    fn and(self, other: Self) -> Self;

    /// The number times `2^shift`, modulo `2^BITS`; `shift` is less than `BITS`.
    fn times_power(self, shift: u32) -> Self;

    /// The numbers of a pad, the first from the lowest bits of its first word.
    fn split(pad: &[u128], numbers: &mut [Self]);

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
    /// Room for a block of numbers, of what is sent of them and of two pads.
    block: Box<Block<L>>,
}

/// Where the portable kernels keep a block of numbers. Forgets them when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Block<L: Lane> {
    sent: [u64; BLOCK],
    pads: [[L; BLOCK]; 2],
}

impl<L: Lane> Vectors<L> {
    /// Of `len` numbers.
    pub(super) fn new(len: usize) -> Self {
        let zeros = || Zeroizing::new(vec![L::default(); len.next_multiple_of(L::COUNT)]);
        let packed = Zeroizing::new(vec![0; PACKED]);
        let block = Block { sent: [0; BLOCK], pads: [[L::default(); BLOCK]; 2] };
        Self { len, vector: zeros(), sum: zeros(), packed, block: Box::new(block) }
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

macro_rules! lane {
    ($number:ty, $offer:ident, $choose:ident) => {
        impl Lane for $number {
            const BITS: u32 = <$number>::BITS;

            #[inline]
            fn of(number: u64) -> Self {
                number as Self
            }

            #[inline]
            fn wide(self) -> u64 {
                self.into()
            }

            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline]
            fn and(self, other: Self) -> Self {
                self & other
            }

            #[inline]
            fn times_power(self, shift: u32) -> Self {
                self << shift
            }

            #[inline(always)]
            fn split(pad: &[u128], numbers: &mut [Self]) {
                const IN_WORD: usize = (128 / <$number>::BITS) as usize;
                for (numbers, word) in numbers.as_chunks_mut::<IN_WORD>().0.iter_mut().zip(pad) {
                    *numbers = std::array::from_fn(|at| (word >> (at as u32 * Self::BITS)) as Self);
                }
            }

            fn offer(
                vectors: &mut Vectors<Self>,
                transfer: Transfer,
                pads: [&[u128]; 2],
                to: &mut Packer,
            ) {
                #[cfg(target_arch = "x86_64")]
                {
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the processor has just been found to have this feature.
                        return unsafe { avx512::$offer(vectors, transfer, pads, to) };
                    }
                    if is_x86_feature_detected!("avx2") {
                        // SAFETY: the processor has just been found to have this feature.
                        return unsafe { avx2::offer(vectors, transfer, pads, to) };
                    }
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
                {
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the processor has just been found to have this feature.
                        return unsafe { avx512::$choose(vectors, transfer, pad, from) };
                    }
                    if is_x86_feature_detected!("avx2") {
                        // SAFETY: the processor has just been found to have this feature.
                        return unsafe { avx2::choose(vectors, transfer, pad, from) };
                    }
                }
                choose(vectors, transfer, pad, from);
            }
        }
    };
}

lane!(u32, offer_u32, choose_u32);
lane!(u64, offer_u64, choose_u64);

/// The portable kernels, compiled for processors with 256-bit registers.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Lane, Packer, Transfer, Unpacker, Vectors};

    #[target_feature(enable = "avx2")]
    pub(super) fn offer<L: Lane>(
        vectors: &mut Vectors<L>,
        transfer: Transfer,
        pads: [&[u128]; 2],
        to: &mut Packer,
    ) {
        super::offer(vectors, transfer, pads, to);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn choose<L: Lane>(
        vectors: &mut Vectors<L>,
        transfer: Transfer,
        pad: (&[u128], bool),
        from: &mut Unpacker<'_>,
    ) {
        super::choose(vectors, transfer, pad, from);
    }
}

/// The OT sender's side: sends `p_0 - p_1 + x` (`- x` where the bit is negative), keeps `-p_0`.
#[inline(always)]
fn offer<L: Lane>(
    vectors: &mut Vectors<L>,
    transfer: Transfer,
    pads: [&[u128]; 2],
    to: &mut Packer,
) {
    let Vectors { len, vector, sum, block, .. } = vectors;
    let Block { sent, pads: [zero, one] } = &mut **block;
    let in_word = (128 / L::BITS) as usize;
    let blocks = vector.chunks(BLOCK).zip(sum.chunks_mut(BLOCK));
    for ((vector, sum), start) in blocks.zip((0..*len).step_by(BLOCK)) {
        L::split(&pads[0][start / in_word..], zero);
        L::split(&pads[1][start / in_word..], one);
        for (sum, zero) in sum.iter_mut().zip(&*zero) {
            *sum = sum.minus(zero.times_power(transfer.shift));
        }
        let pads = zero.iter().zip(&*one);
        let sent = &mut sent[..BLOCK.min(*len - start)];
        if transfer.negative {
            for ((sent, x), (zero, one)) in sent.iter_mut().zip(vector).zip(pads) {
                *sent = zero.minus(*one).minus(*x).wide();
            }
        } else {
            for ((sent, x), (zero, one)) in sent.iter_mut().zip(vector).zip(pads) {
                *sent = zero.minus(*one).plus(*x).wide();
            }
        }
        to.push_all(sent, transfer.width);
    }
}

/// The chooser's side: keeps `p_c + c (p_0 - p_1 + x)` for its bit `c`.
#[inline(always)]
fn choose<L: Lane>(
    vectors: &mut Vectors<L>,
    transfer: Transfer,
    (pad, bit): (&[u128], bool),
    from: &mut Unpacker<'_>,
) {
    // Not a branch: how long this takes must not depend on the choice.
    let chosen = L::of(u64::from(bit).wrapping_neg());
    let Vectors { len, sum, block, .. } = vectors;
    let Block { sent, pads: [ours, _] } = &mut **block;
    let in_word = (128 / L::BITS) as usize;
    for (sum, start) in sum.chunks_mut(BLOCK).zip((0..*len).step_by(BLOCK)) {
        L::split(&pad[start / in_word..], ours);
        let sent = &mut sent[..BLOCK.min(*len - start)];
        from.fill(sent, transfer.width);
        for ((sum, pad), sent) in sum.iter_mut().zip(&*ours).zip(&*sent) {
            let term = pad.plus(L::of(*sent).and(chosen));
            *sum = sum.plus(term.times_power(transfer.shift));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use proptest::prelude::*;

    #[derive(Clone, Copy)]
    enum Way {
        Best,
        #[cfg(target_arch = "x86_64")]
        Avx2,
        Portable,
    }

    /// The payload and both parties' sums, by every way to do the same; the portable one last.
    fn every_way<L: Lane>(
        len: usize,
        transfer: Transfer,
        lead: u32,
        seed: [u8; 16],
    ) -> Vec<[Vec<u64>; 3]> {
        let mut random = Prg::from_seed(&seed);
        let words = len.next_multiple_of(L::COUNT) * L::BITS as usize / 128;
        let mut pad =
            || -> Vec<u128> { (0..words).map(|_| u128::from_le_bytes(random.array())).collect() };
        let (zero, one) = (pad(), pad());
        let vector: Vec<u64> = (0..len).map(|_| random.next_u64()).collect();
        let bit = seed[0] % 2 == 1;
        let by = |way: Way| {
            let (mut ours, mut theirs) = (Vectors::<L>::new(len), Vectors::<L>::new(len));
            ours.set(&vector);
            let mut packer = Packer::default();
            packer.push(0, lead);
            let pads = [zero.as_slice(), one.as_slice()];
            match way {
                Way::Best => L::offer(&mut ours, transfer, pads, &mut packer),
                // SAFETY: it is among the ways only where the processor has the feature.
                #[cfg(target_arch = "x86_64")]
                Way::Avx2 => unsafe { avx2::offer(&mut ours, transfer, pads, &mut packer) },
                Way::Portable => offer(&mut ours, transfer, pads, &mut packer),
            }
            let payload = packer.finish();
            let mut unpacker = Unpacker::new(&payload);
            unpacker.next(lead);
            let pad = (pads[usize::from(bit)], bit);
            match way {
                Way::Best => L::choose(&mut theirs, transfer, pad, &mut unpacker),
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Way::Avx2 => unsafe { avx2::choose(&mut theirs, transfer, pad, &mut unpacker) },
                Way::Portable => choose(&mut theirs, transfer, pad, &mut unpacker),
            }
            // What is above the ring's width does not matter.
            let lost = L::BITS - transfer.width - transfer.shift;
            let sums = |vectors: Vectors<L>| -> Vec<u64> {
                vectors.sum[..len].iter().map(|sum| L::of(sum.wide() << lost).wide()).collect()
            };
            [payload.into_iter().map(u64::from).collect(), sums(ours), sums(theirs)]
        };
        let mut ways = vec![Way::Best];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            ways.push(Way::Avx2);
        }
        ways.push(Way::Portable);
        ways.into_iter().map(by).collect()
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
                every_way::<u32>(len, transfer, lead, seed)
            } else {
                every_way::<u64>(len, transfer, lead, seed)
            };
            for [payload, ours, theirs] in &found[..found.len() - 1] {
                let [portable, our_portable, their_portable] = &found[found.len() - 1];
                prop_assert_eq!(payload, portable);
                prop_assert_eq!(ours, our_portable);
                prop_assert_eq!(theirs, their_portable);
            }
        }
    }
}
