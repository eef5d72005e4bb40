//! Growing trees: children are made of their parents without leaving the registers.

use super::{LANES, RoundKeys, Spread, broadcast, encrypt, load, store};
use std::arch::x86_64::*;

/// Replaces the first half of `nodes` by the children `H(x)` and `x ^ H(x)` of each `x`, all with one tweak. The sums of the left
/// and of the right ones.
///
/// # Panics
/// If the half is not a power of two, and at least four.
#[target_feature(enable = "avx512f,vaes")]
pub(in crate::ot) fn children(pi: &RoundKeys, nodes: &mut [u128], tweak: u128) -> [u128; 2] {
    let parents = nodes.len() / 2;
    assert!(parents.is_power_of_two() && parents >= LANES, "whole registers");
    let (keys, tweak) = (pi.spread(), broadcast(tweak));
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut batch = |nodes: &mut [u128]| match nodes.len() / 2 / LANES {
        1 => batch::<1>(&keys, nodes, tweak, &mut sums),
        2 => batch::<2>(&keys, nodes, tweak, &mut sums),
        4 => batch::<4>(&keys, nodes, tweak, &mut sums),
        _ => batch::<8>(&keys, nodes, tweak, &mut sums),
    };
    let together = parents.min(8 * LANES);
    // From the last, for children are written over parents.
    for first in (0..parents).step_by(together).rev() {
        // The parents of a batch stand in the first half of where their children go.
        if first > 0 {
            nodes.copy_within(first..first + together, 2 * first);
        }
        batch(&mut nodes[2 * first..][..2 * together]);
    }
    sums.map(|sum| {
        let mut lanes = [0; LANES];
        store(&mut lanes, sum);
        lanes.iter().fold(0, |sum, lane| sum ^ lane)
    })
}

/// The children of the `N` registers of parents in the first half.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn batch<const N: usize>(
    keys: &Spread,
    nodes: &mut [u128],
    tweak: __m512i,
    [left_sum, right_sum]: &mut [__m512i; 2],
) {
    let nodes = nodes.as_chunks_mut::<LANES>().0;
    let mut parents = [_mm512_setzero_si512(); N];
    for (parent, nodes) in parents.iter_mut().zip(&*nodes) {
        *parent = load(nodes);
    }
    let mut inner = parents;
    encrypt(keys, &mut inner);
    let mut outer = inner;
    for outer in &mut outer {
        *outer = _mm512_xor_si512(*outer, tweak);
    }
    encrypt(keys, &mut outer);
    let low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (register, children) in nodes.as_chunks_mut::<2>().0.iter_mut().enumerate().take(N) {
        let left = _mm512_xor_si512(inner[register], outer[register]);
        let right = _mm512_xor_si512(parents[register], left);
        *left_sum = _mm512_xor_si512(*left_sum, left);
        *right_sum = _mm512_xor_si512(*right_sum, right);
        store(&mut children[0], _mm512_permutex2var_epi64(left, low, right));
        store(&mut children[1], _mm512_permutex2var_epi64(left, high, right));
    }
}
