//! The kernels for processors with 512-bit registers: eight bits of a value side by side.

use super::{Group, LANES, Pattern, Place};
use crate::packing::{Packer, Unpacker};
use std::arch::x86_64::*;

/// As [`Pattern::offer_portable`].
#[target_feature(enable = "avx512f")]
pub(super) fn offer(
    pattern: &Pattern,
    [zero, one]: [&[u128]; 2],
    places: &[Place],
    share: &mut [u64],
    payload: &mut Packer,
) {
    let widths: Vec<u32> = pattern.groups.iter().flat_map(|group| &group.words).copied().collect();
    // What is sent, masked by pads.
    let mut words = Vec::with_capacity(places.len() * widths.len());
    let pads = zero.chunks_exact(pattern.bits).zip(one.chunks_exact(pattern.bits));
    for ((zero, one), place) in pads.zip(places) {
        let mut sum = _mm512_setzero_si512();
        let number = _mm512_set1_epi64(place.number.cast_signed());
        let pads = zero.chunks(LANES).zip(one.chunks(LANES));
        for (group, (zero, one)) in pattern.groups.iter().zip(pads) {
            let (zero, one) = (low_words(zero), low_words(one));
            let signs = load(&group.signs);
            let x = _mm512_sub_epi64(_mm512_xor_si512(number, signs), signs);
            let sent = _mm512_add_epi64(_mm512_sub_epi64(zero, one), x);
            join(group, _mm512_and_si512(sent, load(&group.masks)), &mut words);
            sum = _mm512_add_epi64(sum, _mm512_sllv_epi64(zero, load(&group.shifts)));
        }
        let sum = _mm512_reduce_add_epi64(sum).cast_unsigned();
        share[place.row] = share[place.row].wrapping_sub(sum);
    }
    payload.push_in_turn(&words, &widths);
}

/// As [`Pattern::take_pads_portable`].
#[target_feature(enable = "avx512f")]
pub(super) fn take_pads(pattern: &Pattern, pads: &[u128], places: &[Place], share: &mut [u64]) {
    for (pads, place) in pads.chunks_exact(pattern.bits).zip(places) {
        let mut sum = _mm512_setzero_si512();
        for (group, pads) in pattern.groups.iter().zip(pads.chunks(LANES)) {
            let term = _mm512_sllv_epi64(low_words(pads), load(&group.shifts));
            sum = _mm512_add_epi64(sum, term);
        }
        let sum = _mm512_reduce_add_epi64(sum).cast_unsigned();
        share[place.row] = share[place.row].wrapping_add(sum);
    }
}

/// As [`Pattern::choose_portable`].
#[target_feature(enable = "avx512f")]
pub(super) fn choose(
    pattern: &Pattern,
    places: &[Place],
    share: &mut [u64],
    payload: &mut Unpacker<'_>,
) {
    for place in places {
        let mut sum = _mm512_setzero_si512();
        let mut choices = place.number;
        for group in &pattern.groups {
            let sent = split(group, payload);
            // Not a branch: how long this takes must not depend on the choice.
            let chosen = _mm512_maskz_mov_epi64(choices as u8, sent);
            sum = _mm512_add_epi64(sum, _mm512_sllv_epi64(chosen, load(&group.shifts)));
            choices >>= LANES;
        }
        let sum = _mm512_reduce_add_epi64(sum).cast_unsigned();
        share[place.row] = share[place.row].wrapping_add(sum);
    }
}

/// The numbers of a group as words on the wire, which are appended: two joined where they fit one.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(group: &Group, mut numbers: __m512i, words: &mut Vec<u64>) {
    let mut even = 0b1111_1111;
    if let Some(joins) = &group.joins {
        let moved = _mm512_sllv_epi64(numbers, load(joins));
        numbers = _mm512_or_si512(moved, _mm512_unpackhi_epi64(moved, moved));
        even = 0b0101_0101;
    }
    let mut room = [0; LANES];
    // SAFETY: the array has the 64 bytes that are stored; the store needs no alignment.
    unsafe {
        _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi64(even, numbers));
    }
    words.extend_from_slice(&room[..group.words.len()]);
}

/// The numbers of a group from the next bits on the wire.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(group: &Group, payload: &mut Unpacker<'_>) -> __m512i {
    let (window, passed) = payload.window::<64>(group.total);
    // SAFETY: the array has the 64 bytes that are loaded; the load needs no alignment.
    let words = unsafe { _mm512_loadu_si512(window.as_ptr().cast()) };
    // Each number lies in two words at most, and all of them within the window: they have at most 64 + 63 + ... + 57 bits.
    let first = _mm512_add_epi64(load(&group.starts), _mm512_set1_epi64(passed.into()));
    let word = _mm512_srli_epi64::<6>(first);
    let shift = _mm512_and_si512(first, _mm512_set1_epi64(63));
    let next = _mm512_add_epi64(word, _mm512_set1_epi64(1));
    let low = _mm512_srlv_epi64(_mm512_permutexvar_epi64(word, words), shift);
    let up = _mm512_sub_epi64(_mm512_set1_epi64(64), shift);
    let high = _mm512_sllv_epi64(_mm512_permutexvar_epi64(next, words), up);
    _mm512_and_si512(_mm512_or_si512(low, high), load(&group.masks))
}

/// The low words of up to eight pads.
#[inline]
#[target_feature(enable = "avx512f")]
fn low_words(pads: &[u128]) -> __m512i {
    let mut few = [0; LANES];
    let pads = pads.as_array::<LANES>().unwrap_or_else(|| {
        few[..pads.len()].copy_from_slice(pads);
        &few
    });
    // SAFETY: the array has twice the 64 bytes that are loaded; the loads need no alignment.
    let [low, high] =
        [0, 4].map(|first| unsafe { _mm512_loadu_si512(pads[first..].as_ptr().cast()) });
    let even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    _mm512_permutex2var_epi64(low, even, high)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[u64; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded; the load needs no alignment.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}
