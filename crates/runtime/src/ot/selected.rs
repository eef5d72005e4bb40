//! Changes to some of many rows, in a time and at places that do not tell which.

use super::block::Plane;

/// Keeps the bits `keep` of all nodes, and adds `changes` to the two of pair number `pair`.
pub(super) fn change_pair(nodes: &mut [u128], pair: usize, changes: [u128; 2], keep: u128) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && nodes.len().is_multiple_of(4) {
        // SAFETY: the processor has just been found to have this feature.
        return unsafe { avx512::change_pair(nodes, pair, changes, keep) };
    }
    change_pair_portable(nodes, pair, changes, keep);
}

fn change_pair_portable(nodes: &mut [u128], pair: usize, changes: [u128; 2], keep: u128) {
    for (at, nodes) in nodes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let here = equal(at, pair);
        for (node, change) in nodes.iter_mut().zip(changes) {
            *node = *node & keep ^ change & here;
        }
    }
}

/// All ones if the numbers are equal, else zero.
#[inline]
fn equal(a: usize, b: usize) -> u128 {
    let differs = (a ^ b) as u64;
    let same = u128::from(((differs | differs.wrapping_neg()) >> 63).wrapping_sub(1));
    same << 64 | same
}

/// Adds `delta` to the rows whose bit in `plane` is one. Of whole planes at most.
pub(super) fn add_where(rows: &mut [u128], plane: &Plane, delta: u128) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let (whole, rest) = rows.split_at_mut(rows.len() / 128 * 128);
        // SAFETY: the processor has just been found to have this feature.
        unsafe { avx512::add_where(whole, plane, delta) };
        return add_where_portable(rest, &plane[whole.len() / 128..], delta);
    }
    add_where_portable(rows, plane, delta);
}

fn add_where_portable(rows: &mut [u128], plane: &[u128], delta: u128) {
    for (rows, word) in rows.chunks_mut(128).zip(plane) {
        for (at, row) in rows.iter_mut().enumerate() {
            *row ^= (word >> at & 1).wrapping_neg() & delta;
        }
    }
}

/// Adds the last bit of each row to its bit in `plane`. Of whole planes at most.
pub(super) fn add_last_bits(rows: &[u128], plane: &mut Plane) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let (whole, rest) = rows.split_at(rows.len() / 128 * 128);
        // SAFETY: the processor has just been found to have this feature.
        unsafe { avx512::add_last_bits(whole, plane) };
        return add_last_bits_portable(rest, &mut plane[whole.len() / 128..]);
    }
    add_last_bits_portable(rows, plane);
}

fn add_last_bits_portable(rows: &[u128], plane: &mut [u128]) {
    for (rows, word) in rows.chunks(128).zip(plane) {
        rows.iter().enumerate().for_each(|(at, row)| *word ^= (row & 1) << at);
    }
}

/// Four rows a register.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Plane;
    use std::arch::x86_64::*;

    /// As [`super::change_pair_portable`], of whole registers.
    #[target_feature(enable = "avx512f")]
    pub(super) fn change_pair(nodes: &mut [u128], pair: usize, changes: [u128; 2], keep: u128) {
        let [left, right] = changes;
        let (keep, changes) = (register(&[keep; 4]), register(&[left, right, left, right]));
        let wanted = _mm512_set1_epi64(pair as i64);
        let mut pairs = _mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0);
        for nodes in nodes.as_chunks_mut().0 {
            let here = _mm512_cmpeq_epi64_mask(pairs, wanted);
            let kept = _mm512_and_si512(register(nodes), keep);
            store(nodes, _mm512_mask_xor_epi64(kept, here, kept, changes));
            pairs = _mm512_add_epi64(pairs, _mm512_set1_epi64(2));
        }
    }

    /// As [`super::add_where_portable`], of whole words of the plane.
    #[target_feature(enable = "avx512f")]
    pub(super) fn add_where(rows: &mut [u128], plane: &Plane, delta: u128) {
        let delta = register(&[delta; 4]);
        let lanes = _mm512_set_epi64(8, 8, 4, 4, 2, 2, 1, 1);
        for (rows, word) in rows.as_chunks_mut::<128>().0.iter_mut().zip(plane) {
            for (at, rows) in rows.as_chunks_mut().0.iter_mut().enumerate() {
                let bits = _mm512_set1_epi64((word >> (4 * at)) as i64);
                let ones = _mm512_test_epi64_mask(bits, lanes);
                let row = register(rows);
                store(rows, _mm512_mask_xor_epi64(row, ones, row, delta));
            }
        }
    }

    /// As [`super::add_last_bits_portable`], of whole words of the plane.
    #[target_feature(enable = "avx512f")]
    pub(super) fn add_last_bits(rows: &[u128], plane: &mut Plane) {
        let low = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
        let last = _mm512_set1_epi64(1);
        // Low words of eight rows.
        let evens = _mm512_sub_epi64(low, last);
        for (rows, word) in rows.as_chunks::<128>().0.iter().zip(plane) {
            for (at, rows) in rows.as_chunks::<8>().0.iter().enumerate() {
                let [first, second] = [0, 4].map(|from| rows[from..].first_chunk());
                let (Some(first), Some(second)) = (first, second) else { continue };
                let words = _mm512_permutex2var_epi64(register(first), evens, register(second));
                *word ^= u128::from(_mm512_test_epi64_mask(words, last)) << (8 * at);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn register(words: &[u128; 4]) -> __m512i {
        // SAFETY: the array has the 64 bytes that are loaded; the load needs no alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(words: &mut [u128; 4], register: __m512i) {
        // SAFETY: the array has the 64 bytes that are stored; the store needs no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::block::WORDS;
    use crate::ot::{BLOCK, Prg};

    fn random(count: usize) -> Vec<u128> {
        let mut random = Prg::from_seed(&[count as u8; 16]);
        (0..count).map(|_| u128::from_le_bytes(random.array())).collect()
    }

    #[test]
    fn one_pair_changes() {
        for count in [2, 4, 8, 64, 1024] {
            for pair in [0, 1, count / 4, count / 2 - 1].into_iter().filter(|pair| 2 * pair < count)
            {
                let before = random(count);
                let [mut best, mut portable] = [before.clone(), before.clone()];
                change_pair(&mut best, pair, [5, 1 << 127], !1);
                change_pair_portable(&mut portable, pair, [5, 1 << 127], !1);
                for (at, before) in before.iter().enumerate() {
                    let change = if at / 2 == pair { [5, 1 << 127][at % 2] } else { 0 };
                    assert_eq!(
                        [best[at], portable[at]],
                        [before & !1 ^ change; 2],
                        "{count} {pair} {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_change_where_the_plane_says() {
        for count in [1, 127, 128, 130, 1000, BLOCK] {
            let before = random(count);
            let plane: Plane = random(WORDS).try_into().expect("a plane");
            let [mut best, mut portable] = [before.clone(), before.clone()];
            add_where(&mut best, &plane, 77);
            add_where_portable(&mut portable, &plane, 77);
            let bit = |plane: &Plane, at: usize| plane[at / 128] >> (at % 128) & 1;
            for (at, before) in before.iter().enumerate() {
                let expected = before ^ (77 * bit(&plane, at));
                assert_eq!([best[at], portable[at]], [expected; 2]);
            }
            let [mut sums, mut sums_portable] = [plane; 2];
            add_last_bits(&before, &mut sums);
            add_last_bits_portable(&before, &mut sums_portable);
            for at in 0..BLOCK {
                let last = before.get(at).map_or(0, |row| row & 1);
                let expected = bit(&plane, at) ^ last;
                assert_eq!([bit(&sums, at), bit(&sums_portable, at)], [expected; 2]);
            }
        }
    }
}
