//! Hashing: each value is encrypted twice without leaving the registers.

use super::{LANES, RoundKeys, Spread, broadcast, encrypt, load, store};
use crate::ot::hash::TweakRun;
use std::arch::x86_64::*;
use zeroize::Zeroizing;

/// Registers that are encrypted together: enough to fill the pipeline, few enough to stay registers with what belongs to
/// them.
const TOGETHER: usize = 12;

/// Replaces each value `x` by `pi(pi(x) ^ t) ^ pi(x)`, `t` being its tweak; the last 64 bits of tweaks must not overflow.
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn hash(pi: &RoundKeys, values: &mut [u128], run: TweakRun) {
    let keys = pi.spread();
    let lanes = Tweaks::new(run);
    let mut at = 0;
    let (batches, rest) = values.as_chunks_mut::<{ LANES * TOGETHER }>();
    for batch in batches {
        hash_batch::<TOGETHER>(&keys, batch, (&lanes, at));
        at += batch.len();
    }
    let (batches, rest) = rest.as_chunks_mut::<{ LANES * 4 }>();
    for batch in batches {
        hash_batch::<4>(&keys, batch, (&lanes, at));
        at += batch.len();
    }
    for few in rest.chunks_mut(LANES) {
        let mut batch = [0; LANES];
        batch[..few.len()].copy_from_slice(few);
        hash_batch::<1>(&keys, &mut batch, (&lanes, at));
        few.copy_from_slice(&batch[..few.len()]);
        at += LANES;
    }
}

/// As [`hash`], for `N` registers of which the first value is number `at` of the run.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn hash_batch<const N: usize>(keys: &Spread, values: &mut [u128], (tweaks, at): (&Tweaks, usize)) {
    let values = values.as_chunks_mut::<LANES>().0;
    let mut inner = [_mm512_setzero_si512(); N];
    for (inner, values) in inner.iter_mut().zip(&*values) {
        *inner = load(values);
    }
    encrypt(keys, &mut inner);
    let mut outer = inner;
    for (register, outer) in outer.iter_mut().enumerate() {
        *outer = _mm512_xor_si512(*outer, tweaks.of(at + LANES * register));
    }
    encrypt(keys, &mut outer);
    for ((values, inner), outer) in values.iter_mut().zip(inner).zip(outer) {
        store(values, _mm512_xor_si512(inner, outer));
    }
}

/// The hashes of rows, and of rows plus `offset`, both with tweaks from `first` on.
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn hash_pairs(
    pi: &RoundKeys,
    (rows, offset): (&[u128], u128),
    first: u128,
    [zero, one]: [&mut [u128]; 2],
) {
    const HALF: usize = TOGETHER / 2;
    let keys = pi.spread();
    let lanes = Tweaks::new(TweakRun::each(first));
    let shift = broadcast(offset);
    let mut at = 0;
    let (batches, rest) = rows.as_chunks::<{ LANES * HALF }>();
    for batch in batches {
        let mut inner = [_mm512_setzero_si512(); TOGETHER];
        for (register, rows) in batch.as_chunks::<LANES>().0.iter().enumerate() {
            inner[register] = load(rows);
            inner[HALF + register] = _mm512_xor_si512(inner[register], shift);
        }
        encrypt(&keys, &mut inner);
        let mut outer = inner;
        for register in 0..HALF {
            let tweaks = lanes.of(at + LANES * register);
            outer[register] = _mm512_xor_si512(outer[register], tweaks);
            outer[HALF + register] = _mm512_xor_si512(outer[HALF + register], tweaks);
        }
        encrypt(&keys, &mut outer);
        for (half, to) in [&mut *zero, &mut *one].into_iter().enumerate() {
            let to = to[at..][..batch.len()].as_chunks_mut::<LANES>().0;
            for (register, to) in (HALF * half..).zip(to) {
                store(to, _mm512_xor_si512(inner[register], outer[register]));
            }
        }
        at += batch.len();
    }
    let run = TweakRun::each(first + at as u128);
    for (to, offset) in [(zero, 0), (one, offset)] {
        to[at..].iter_mut().zip(rest).for_each(|(to, row)| *to = row ^ offset);
        hash(pi, &mut to[at..], run);
    }
}

/// Stretches keys, each to `each` of the words: see [`TweakedHash::expand`](crate::ot::TweakedHash::expand). The last 64 bits of
/// tweaks must not overflow.
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn expand(
    pi: &RoundKeys,
    keys: &[u128],
    tweak: impl Fn(usize) -> u128,
    (words, each): (&mut [u128], usize),
) {
    let round_keys = pi.spread();
    let mut whitened = Zeroizing::new(keys.to_vec());
    for keys in whitened.chunks_mut(LANES * TOGETHER) {
        let mut batch = Zeroizing::new([0; LANES * TOGETHER]);
        batch[..keys.len()].copy_from_slice(keys);
        let mut blocks = [_mm512_setzero_si512(); TOGETHER];
        let registers = || 0..keys.len().div_ceil(LANES);
        for register in registers() {
            blocks[register] = load(&batch.as_chunks().0[register]);
        }
        encrypt(&round_keys, &mut blocks);
        for register in registers() {
            store(&mut batch.as_chunks_mut().0[register], blocks[register]);
        }
        keys.copy_from_slice(&batch[..keys.len()]);
    }
    // Whole registers for each key: what is too much of one is written over by the next.
    let (mut key, mut at) = (0, 0);
    while key < keys.len() {
        let (mut start, mut count) = ([0; TOGETHER], 0);
        let mut whites = [_mm512_setzero_si512(); TOGETHER];
        let mut blocks = whites;
        while count < TOGETHER && key < keys.len() {
            start[count] = each * key + at;
            whites[count] = broadcast(whitened[key]);
            let tweaks = Tweaks::new(TweakRun::each(tweak(key))).of(at);
            blocks[count] = _mm512_xor_si512(whites[count], tweaks);
            count += 1;
            at += LANES;
            if at >= each {
                (key, at) = (key + 1, 0);
            }
        }
        encrypt(&round_keys, &mut blocks);
        for register in 0..count {
            let stretched = _mm512_xor_si512(blocks[register], whites[register]);
            let to = &mut words[start[register]..];
            if let Some(to) = to.first_chunk_mut() {
                store(to, stretched);
            } else {
                let mut few = [0; LANES];
                store(&mut few, stretched);
                to.copy_from_slice(&few[..to.len()]);
            }
        }
    }
}

/// The tweaks of a run.
struct Tweaks {
    first: __m512i,
    shared: u32,
}

impl Tweaks {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(run: TweakRun) -> Self {
        let lane = |lane: u64| (run.first as u64).wrapping_add(lane >> run.shared) as i64;
        let high = (run.first >> 64) as i64;
        let first = _mm512_set_epi64(high, lane(3), high, lane(2), high, lane(1), high, lane(0));
        Self { first, shared: run.shared }
    }

    /// Those of four values, of which the first is number `at`, a multiple of four.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(&self, at: usize) -> __m512i {
        let passed = at as u64 >> self.shared;
        _mm512_add_epi64(self.first, _mm512_maskz_set1_epi64(0b0101_0101, passed as i64))
    }
}
