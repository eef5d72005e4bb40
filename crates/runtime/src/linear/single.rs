//! Correlated transfers of single numbers: vectors of length one, as fully connected layers and depthwise convolutions have
//! them.
//!
//! What [`VectorTransfers`](super::transfer::VectorTransfers) does along a vector is done here across the bits of a value. The pads
//! are the transfers' keys. The chooser adds its pads to its share as soon as it has them, so that nothing of a chunk waits for
//! the payload but the choices.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::ot::OfferedRows;
use crate::packing::{Packer, Unpacker};
use copriv_ir::cost::OtProduct;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Transfers whose pads are made together, if a value has no more: what the nearest cache holds easily.
const TILE: usize = 256;

/// Bits that are worked on together.
const LANES: usize = 8;

/// One party's side of the transfers of a product whose vectors have one number.
pub(super) struct SingleTransfers {
    pattern: Pattern,
    pads: Pads,
    places: Zeroizing<Vec<Place>>,
}

/// A value's row of the result, and its number: what is chosen by the value's bits, or the value that chooses.
#[derive(Clone, Copy, Default, Zeroize)]
pub(super) struct Place {
    pub row: usize,
    pub number: u64,
}

/// Both pads of the transfers of a tile. Forgets them when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Pads {
    zero: Vec<u128>,
    one: Vec<u128>,
}

/// What is public of a value's transfers, the same for all values.
struct Pattern {
    /// Transfers of a value.
    bits: usize,
    groups: Vec<Group>,
}

/// Eight bits of a value, from the least significant. Those beyond the last one are zeros everywhere.
struct Group {
    /// How many.
    bits: usize,
    /// Bits of each transfer's number on the wire.
    widths: [u32; LANES],
    /// Ones in as many places.
    masks: [u64; LANES],
    /// All ones where the bit counts negative.
    signs: [u64; LANES],
    /// Where its pads count.
    shifts: [u64; LANES],
    /// Where two numbers fit a word on the wire: the width of the first one in the place of the second.
    joins: Option<[u64; LANES]>,
    /// Widths of the words on the wire: of the numbers, or of two of them together.
    words: Vec<u32>,
    /// Where each number begins among the bits of all.
    starts: [u64; LANES],
    /// Bits of all.
    total: usize,
}

impl SingleTransfers {
    /// For a product whose vectors have length one.
    pub(super) fn new(product: &OtProduct) -> Self {
        let pads = Pads { zero: Vec::new(), one: Vec::new() };
        Self { pattern: Pattern::new(product), pads, places: Zeroizing::default() }
    }

    /// The OT sender's transfers for some values, with the number that each offers: appends to the payload, and subtracts pads
    /// from `share`.
    pub(super) fn offer(
        &mut self,
        rows: &OfferedRows,
        mut values: impl Iterator<Item = Place>,
        share: &mut [u64],
        payload: &mut Packer,
    ) {
        let Self { pattern, pads: Pads { zero, one }, places } = self;
        let tile = (TILE / pattern.bits).max(1) * pattern.bits;
        for first in (0..rows.len()).step_by(tile) {
            let transfers = first..rows.len().min(first + tile);
            places.clear();
            places.extend(values.by_ref().take(transfers.len() / pattern.bits));
            zero.resize(transfers.len(), 0);
            one.resize(transfers.len(), 0);
            rows.pads(transfers, [&mut zero[..], &mut one[..]]);
            pattern.offer([&zero[..], &one[..]], places, share, payload);
        }
    }

    /// The chooser adds the pads of some values to `share`.
    pub(super) fn take_pads(
        &mut self,
        pads: &[u128],
        values: impl Iterator<Item = Place>,
        share: &mut [u64],
    ) {
        self.places.clear();
        self.places.extend(values);
        self.pattern.take_pads(pads, &self.places, share);
    }

    /// The chooser takes from the payload what some values choose, and adds it to `share`.
    pub(super) fn choose(
        &mut self,
        values: impl Iterator<Item = Place>,
        share: &mut [u64],
        payload: &mut Unpacker<'_>,
    ) {
        self.places.clear();
        self.places.extend(values);
        self.pattern.choose(&self.places, share, payload);
    }
}

impl Pattern {
    fn new(product: &OtProduct) -> Self {
        let bits = product.choice_bits as usize;
        let groups = (0..bits).step_by(LANES).map(|first| Group::new(product, first));
        Self { bits, groups: groups.collect() }
    }

    /// For each value and its transfers sends `p_0 - p_1 + x` (`- x` where the bit is negative), keeps `-p_0`.
    fn offer(&self, pads: [&[u128]; 2], places: &[Place], share: &mut [u64], payload: &mut Packer) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::offer(self, pads, places, share, payload) };
        }
        self.offer_portable(pads, places, share, payload);
    }

    fn offer_portable(
        &self,
        [zero, one]: [&[u128]; 2],
        places: &[Place],
        share: &mut [u64],
        payload: &mut Packer,
    ) {
        let pads = zero.chunks_exact(self.bits).zip(one.chunks_exact(self.bits));
        for ((zero, one), place) in pads.zip(places) {
            let mut sum = 0_u64;
            for ((zero, one), (group, lane)) in zero.iter().zip(one).zip(self.lanes()) {
                let sign = group.signs[lane];
                let x = (place.number ^ sign).wrapping_sub(sign);
                let difference = (*zero as u64).wrapping_sub(*one as u64);
                payload.push(difference.wrapping_add(x), group.widths[lane]);
                sum = sum.wrapping_add((*zero as u64) << group.shifts[lane]);
            }
            share[place.row] = share[place.row].wrapping_sub(sum);
        }
    }

    /// Adds the pads of each value's transfers to its row.
    fn take_pads(&self, pads: &[u128], places: &[Place], share: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::take_pads(self, pads, places, share) };
        }
        self.take_pads_portable(pads, places, share);
    }

    fn take_pads_portable(&self, pads: &[u128], places: &[Place], share: &mut [u64]) {
        for (pads, place) in pads.chunks_exact(self.bits).zip(places) {
            let terms = pads.iter().zip(self.lanes());
            let term = |(pad, (group, lane)): (&u128, (&Group, usize))| {
                (*pad as u64) << group.shifts[lane]
            };
            let sum = terms.map(term).fold(0, u64::wrapping_add);
            share[place.row] = share[place.row].wrapping_add(sum);
        }
    }

    /// Adds what each value chooses of the payload to its row.
    fn choose(&self, places: &[Place], share: &mut [u64], payload: &mut Unpacker<'_>) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have this feature.
            return unsafe { avx512::choose(self, places, share, payload) };
        }
        self.choose_portable(places, share, payload);
    }

    fn choose_portable(&self, places: &[Place], share: &mut [u64], payload: &mut Unpacker<'_>) {
        for place in places {
            let mut sum = 0_u64;
            for (bit, (group, lane)) in self.lanes().enumerate() {
                // Not a branch: how long this takes must not depend on the choice.
                let chosen = (place.number >> bit & 1).wrapping_neg();
                let term = payload.next(group.widths[lane]) & chosen;
                sum = sum.wrapping_add(term << group.shifts[lane]);
            }
            share[place.row] = share[place.row].wrapping_add(sum);
        }
    }

    /// The group of each transfer of a value, and its place there.
    fn lanes(&self) -> impl Iterator<Item = (&Group, usize)> {
        self.groups.iter().flat_map(|group| (0..group.bits).map(move |lane| (group, lane)))
    }
}

impl Group {
    /// The bits from number `first` on.
    fn new(product: &OtProduct, first: usize) -> Self {
        let all = product.choice_bits as usize;
        let bits = LANES.min(all - first);
        let each = |f: &dyn Fn(usize) -> u64| {
            std::array::from_fn(|lane| if lane < bits { f(first + lane) } else { 0 })
        };
        let width = |bit: usize| u64::from(product.ring.bits()) - bit as u64;
        // The top bit of a number narrower than the ring counts negative.
        let negative = |bit: usize| bit + 1 == all && width(bit) > 1;
        let widths = each(&width).map(|width| width as u32);
        let fit = widths.as_chunks().0.iter().all(|[first, second]| first + second <= u64::BITS);
        let before = |lane: usize| if lane % 2 == 1 { u64::from(widths[lane - 1]) } else { 0 };
        let start = |lane: usize| widths[..lane].iter().map(|&width| u64::from(width)).sum::<u64>();
        let together = if fit { 2 } else { 1 };
        Self {
            bits,
            widths,
            masks: each(&|bit| u64::MAX >> (64 - width(bit))),
            signs: each(&|bit| u64::from(negative(bit)).wrapping_neg()),
            shifts: each(&|bit| bit as u64),
            joins: fit.then(|| std::array::from_fn(before)),
            words: widths[..bits].chunks(together).map(|widths| widths.iter().sum()).collect(),
            starts: std::array::from_fn(start),
            total: start(LANES) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::Prg;
    use copriv_ir::{OtKind, Party, Ring};
    use proptest::prelude::*;

    /// The payload, the OT sender's share, and the chooser's.
    type Outcome = (Vec<u8>, Vec<u64>, Vec<u64>);

    fn outcome(
        pattern: &Pattern,
        pads: [&[u128]; 2],
        (offered, choosing): (&[Place], &[Place]),
        portable: bool,
    ) -> Outcome {
        let bits = pattern.bits;
        let choice = |at: usize| choosing[at / bits].number >> (at % bits) & 1;
        let chosen: Vec<u128> =
            (0..pads[0].len()).map(|at| pads[choice(at) as usize][at]).collect();
        let (mut ours, mut theirs) = (vec![0; 3], vec![0; 3]);
        let mut payload = Packer::default();
        // Not from the first bit of a byte.
        payload.push(1, 3);
        if portable {
            pattern.offer_portable(pads, offered, &mut ours, &mut payload);
        } else {
            pattern.offer(pads, offered, &mut ours, &mut payload);
        }
        let payload = payload.finish();
        let mut unpacker = Unpacker::new(&payload);
        unpacker.next(3);
        if portable {
            pattern.take_pads_portable(&chosen, choosing, &mut theirs);
            pattern.choose_portable(choosing, &mut theirs, &mut unpacker);
        } else {
            pattern.take_pads(&chosen, choosing, &mut theirs);
            pattern.choose(choosing, &mut theirs, &mut unpacker);
        }
        (payload, ours, theirs)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn shares_add_up_to_products_by_every_way(
            (bits, choice_bits) in (1_u32..=64, 1_u32..=64),
            count in 1_usize..20,
            seed: [u8; 16],
        ) {
            let ring = Ring::new(bits).expect("in range");
            let choice_bits = choice_bits.min(bits);
            let (kind, chooser) = (OtKind::Iknp, Party::Server);
            let product =
                OtProduct { kind, chooser, count: 1, inner: 1, rows: count, len: 1, choice_bits, ring };
            let pattern = Pattern::new(&product);
            let mut random = Prg::from_seed(&seed);
            let transfers = count * choice_bits as usize;
            let mut pads = || -> Vec<u128> {
                (0..transfers).map(|_| u128::from_le_bytes(random.array())).collect()
            };
            let (zero, one) = (pads(), pads());
            let mut places = |reduce: &dyn Fn(u64) -> u64| -> Vec<Place> {
                (0..count).map(|at| Place { row: at % 3, number: reduce(random.next_u64()) }).collect()
            };
            let (offered, choosing) = (places(&|x| ring.reduce(x)), places(&|x| x));
            let [best, portable] = [false, true]
                .map(|portable| outcome(&pattern, [&zero, &one], (&offered, &choosing), portable));
            prop_assert_eq!(&best.0, &portable.0);
            prop_assert_eq!(best.0.len(), (3 + product.value_bits() as usize * count).div_ceil(8));
            let mut expected = [0; 3];
            for (x, choice) in offered.iter().zip(&choosing) {
                let unused = 64 - choice_bits;
                let signed = (choice.number << unused).cast_signed() >> unused;
                expected[x.row] = ring.add(expected[x.row], ring.mul(signed.cast_unsigned(), x.number));
            }
            for (_, ours, theirs) in [best, portable] {
                let sums = ours.iter().zip(&theirs).map(|(&ours, theirs)| ring.add(ours, *theirs));
                prop_assert_eq!(sums.collect::<Vec<_>>(), &expected[..]);
            }
        }
    }
}
