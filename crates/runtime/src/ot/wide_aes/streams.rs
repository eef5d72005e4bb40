//! Streams: counters encrypted, under one key, two, or all those of a tree.

use super::{LANES, RoundKeys, broadcast, encrypt, load, store};
use crate::ot::block::{Plane, WORDS};
use crate::ot::cipher::Part;
use std::arch::x86_64::*;

/// Counters of a stream.
struct Counters {
    part: Part,
}

impl Counters {
    /// The four from word number `word` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(&self, word: usize) -> __m512i {
        let first = self.part.counter + word as u128;
        let (low, high) = (first as u64 as i64, (first >> 64) as i64);
        if low as u64 > u64::MAX - 3 {
            return load(&[first, first + 1, first + 2, first + 3]);
        }
        let lanes = _mm512_set_epi64(high, 3, high, 2, high, 1, high, 0);
        _mm512_add_epi64(lanes, _mm512_maskz_set1_epi64(0b0101_0101, low))
    }
}

/// Registers of a plane that are made together.
const STREAM: usize = 8;

/// See [`Cipher::stream`](crate::ot::cipher::Cipher::stream).
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn stream(keys: &RoundKeys, part: Part, to: &mut Plane) {
    unmask(keys, part, (&[0; WORDS], 0), to);
}

/// See [`Cipher::unmask`](crate::ot::cipher::Cipher::unmask).
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn unmask(
    keys: &RoundKeys,
    part: Part,
    (correction, mask): (&Plane, u128),
    to: &mut Plane,
) {
    let (keys, counters, mask) = (keys.spread(), Counters { part }, broadcast(mask));
    let corrections = correction.as_chunks::<{ LANES * STREAM }>().0;
    let batches = to.as_chunks_mut::<{ LANES * STREAM }>().0.iter_mut().zip(corrections);
    for ((to, corrections), first) in batches.zip((0..part.words).step_by(LANES * STREAM)) {
        let mut blocks = [_mm512_setzero_si512(); STREAM];
        for (register, block) in blocks.iter_mut().enumerate() {
            *block = counters.of(first + LANES * register);
        }
        encrypt(&keys, &mut blocks);
        let corrections = corrections.as_chunks().0;
        for ((to, block), bits) in to.as_chunks_mut().0.iter_mut().zip(blocks).zip(corrections) {
            store(to, _mm512_xor_si512(block, _mm512_and_si512(load(bits), mask)));
        }
    }
}

/// See [`Cipher::streams`](crate::ot::cipher::Cipher::streams).
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn streams(
    [zero, one]: [&RoundKeys; 2],
    part: Part,
    choices: &Plane,
    [stream, sum]: [&mut Plane; 2],
) {
    let (zero, one, counters) = (zero.spread(), one.spread(), Counters { part });
    let choices = choices.as_chunks::<{ LANES * STREAM }>().0;
    let stream = stream.as_chunks_mut::<{ LANES * STREAM }>().0;
    let sum = sum.as_chunks_mut::<{ LANES * STREAM }>().0;
    let batches = stream.iter_mut().zip(sum).zip(choices);
    for (((stream, sum), choices), first) in batches.zip((0..part.words).step_by(LANES * STREAM)) {
        let mut blocks = [_mm512_setzero_si512(); STREAM];
        for (register, block) in blocks.iter_mut().enumerate() {
            *block = counters.of(first + LANES * register);
        }
        let mut others = blocks;
        encrypt(&zero, &mut blocks);
        encrypt(&one, &mut others);
        let sums = sum.as_chunks_mut().0.iter_mut().zip(others).zip(choices.as_chunks().0);
        let streams = stream.as_chunks_mut().0.iter_mut().zip(blocks);
        for ((to, block), ((sum, other), choices)) in streams.zip(sums) {
            store(to, block);
            let both = _mm512_xor_si512(block, other);
            store(sum, _mm512_xor_si512(both, load(choices)));
        }
    }
}

/// See [`Cipher::fold`](crate::ot::cipher::Cipher::fold): of `count` leaves, whose keys `leaf` gives.
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn fold<'a>(
    count: usize,
    leaf: impl Fn(usize) -> &'a RoundKeys,
    part: Part,
    sums: &mut [Plane],
) {
    match sums.len() - 1 {
        2 => fold_by::<4, 4>(count, leaf, part, sums),
        _ => fold_by::<8, 2>(count, leaf, part, sums),
    }
}

/// Most bits of a leaf's number, and one more.
const SUMS: usize = 9;

/// `LEAVES` at a time, each for `REGISTERS` of the block.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn fold_by<'a, const LEAVES: usize, const REGISTERS: usize>(
    count: usize,
    leaf: impl Fn(usize) -> &'a RoundKeys,
    part: Part,
    sums: &mut [Plane],
) {
    let (counters, bits) = (Counters { part }, sums.len() - 1);
    let low_bits = LEAVES.trailing_zeros() as usize;
    let missing = (1 << bits) - count;
    for first in (0..part.words).step_by(LANES * REGISTERS) {
        let mut start = [_mm512_setzero_si512(); REGISTERS];
        for (register, start) in start.iter_mut().enumerate() {
            *start = counters.of(first + LANES * register);
        }
        let mut all = [[_mm512_setzero_si512(); REGISTERS]; SUMS];
        for group in 0..1 << (bits - low_bits) {
            // Where there is no first leaf another one stands for it, and is forgotten.
            let keys: [&RoundKeys; LEAVES] =
                std::array::from_fn(|x| leaf((LEAVES * group + x).saturating_sub(missing)));
            let mut streams = encrypt_each(keys, start);
            if group == 0 && missing > 0 {
                streams[0] = [_mm512_setzero_si512(); REGISTERS];
            }
            // Neighbours are added up, and the right ones of them for their bit.
            let mut left = LEAVES;
            for sum in &mut all[..low_bits] {
                left /= 2;
                for pair in 0..left {
                    add(sum, &streams[2 * pair + 1]);
                    let right = streams[2 * pair + 1];
                    streams[pair] = streams[2 * pair];
                    add(&mut streams[pair], &right);
                }
            }
            let total = streams[0];
            for (bit, sum) in all[low_bits..=bits].iter_mut().enumerate() {
                if low_bits + bit == bits || group >> bit & 1 == 1 {
                    add(sum, &total);
                }
            }
        }
        for (to, sum) in sums.iter_mut().zip(&all) {
            let to = to[first..][..LANES * REGISTERS].as_chunks_mut().0;
            to.iter_mut().zip(sum).for_each(|(to, sum)| store(to, *sum));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add<const N: usize>(sum: &mut [__m512i; N], other: &[__m512i; N]) {
    for (sum, other) in sum.iter_mut().zip(other) {
        *sum = _mm512_xor_si512(*sum, *other);
    }
}

/// The same blocks under each of several keys.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn encrypt_each<const KEYS: usize, const N: usize>(
    keys: [&RoundKeys; KEYS],
    blocks: [__m512i; N],
) -> [[__m512i; N]; KEYS] {
    let mut states = [blocks; KEYS];
    for (state, keys) in states.iter_mut().zip(keys) {
        let key = broadcast(keys.0[0]);
        for block in state {
            *block = _mm512_xor_si512(*block, key);
        }
    }
    for round in 1..10 {
        for (state, keys) in states.iter_mut().zip(keys) {
            let key = broadcast(keys.0[round]);
            for block in state {
                *block = _mm512_aesenc_epi128(*block, key);
            }
        }
    }
    for (state, keys) in states.iter_mut().zip(keys) {
        let key = broadcast(keys.0[10]);
        for block in state {
            *block = _mm512_aesenclast_epi128(*block, key);
        }
    }
    states
}
