//! The kernels for processors with 512-bit registers: a register of numbers becomes packed bytes and back
//! without leaving the registers.

use super::{BLOCK, Transfer, Vectors};
use crate::packing::{Packer, Unpacker};
use std::arch::x86_64::*;
use std::sync::LazyLock;

/// Bytes of a register: loads and stores may go so far beyond what is packed.
const REGISTER: usize = 64;

macro_rules! kernels {
    ($lane:ty, $count:literal, $offer:ident, $choose:ident,
     $joiner:ident, $splitter:ident, $set1:ident, $add:ident, $sub:ident, $shift:ident) => {
        /// As [`super::offer`].
        #[target_feature(enable = "avx512f")]
        pub(super) fn $offer(
            vectors: &mut Vectors<$lane>,
            Transfer { width, shift, negative }: Transfer,
            [zero, one]: [&[u128]; 2],
            to: &mut Packer,
        ) {
            let joiner = $joiner::new(width);
            let sign = $set1(if negative { -1 } else { 0 });
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let step = $count * width as usize / 8;
            let bytes = &mut vectors.packed;
            let (mut zero, mut one) =
                (zero.as_chunks::<4>().0.iter(), one.as_chunks::<4>().0.iter());
            let registers = vectors.vector.as_chunks::<$count>().0;
            let sums = vectors.sum.as_chunks_mut::<$count>().0;
            let blocks = registers.chunks(BLOCK / $count).zip(sums.chunks_mut(BLOCK / $count));
            for ((vectors_of_block, sums), start) in blocks.zip((0..vectors.len).step_by(BLOCK)) {
                let mut write = |bytes: &mut [u8]| {
                    let mut at = 0;
                    let pads = (&mut zero).zip(&mut one);
                    let numbers = vectors_of_block.iter().zip(sums.iter_mut());
                    for ((vector, sum), (zero, one)) in numbers.zip(pads) {
                        let (zero, one) = (load(zero), load(one));
                        let x = $sub(_mm512_xor_si512(load(vector), sign), sign);
                        let masked = $add($sub(zero, one), x);
                        store(sum, $sub(load(sum), $shift(zero, shift)));
                        let Some(to) = bytes[at..].first_chunk_mut::<64>() else { break };
                        store(to, joiner.join(masked));
                        at += step;
                    }
                };
                let bits = (vectors.len - start).min(BLOCK) * width as usize;
                if !to.write_words(bits, REGISTER, &mut write) {
                    write(bytes);
                    to.push_bytes(bytes, bits);
                }
            }
        }

        /// As [`super::choose`].
        #[target_feature(enable = "avx512f")]
        pub(super) fn $choose(
            vectors: &mut Vectors<$lane>,
            Transfer { width, shift, .. }: Transfer,
            (pad, bit): (&[u128], bool),
            from: &mut Unpacker<'_>,
        ) {
            let splitter = $splitter::new(width);
            // Not a branch: how long this takes must not depend on the choice.
            let chosen = $set1(-(<$lane>::from(bit).cast_signed()));
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let step = $count * width as usize / 8;
            let bytes = &mut vectors.packed;
            let mut pads = pad.as_chunks::<4>().0.iter();
            let blocks = vectors.sum.as_chunks_mut::<$count>().0.chunks_mut(BLOCK / $count);
            for (sums, start) in blocks.zip((0..vectors.len).step_by(BLOCK)) {
                let bits = (vectors.len - start).min(BLOCK) * width as usize;
                let bytes = from.read_bytes(bits, REGISTER).unwrap_or_else(|| {
                    from.fill_bytes(bytes, bits);
                    bytes
                });
                let mut at = 0;
                for (sum, pad) in sums.iter_mut().zip(&mut pads) {
                    let sent = _mm512_and_si512(splitter.split(&bytes[at..]), chosen);
                    at += step;
                    store(sum, $add(load(sum), $shift($add(load(pad), sent), shift)));
                }
            }
        }
    };
}

kernels!(
    u32,
    16,
    offer_u32,
    choose_u32,
    NarrowJoiner,
    NarrowSplitter,
    _mm512_set1_epi32,
    _mm512_add_epi32,
    _mm512_sub_epi32,
    _mm512_sll_epi32
);
kernels!(
    u64,
    8,
    offer_u64,
    choose_u64,
    WideJoiner,
    WideSplitter,
    _mm512_set1_epi64,
    _mm512_add_epi64,
    _mm512_sub_epi64,
    _mm512_sll_epi64
);

/// Joins runs of bits in the 64-bit lanes of a register to one run: each word of the result takes from up to
/// three neighbouring lanes.
struct Joiner {
    lanes: [__m512i; 3],
    shifts: [__m512i; 3],
}

impl Joiner {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(width: u32) -> Self {
        let Tables { join_lanes, join_shifts, .. } = &TABLES[width as usize];
        Self {
            lanes: join_lanes.each_ref().map(|x| load(x)),
            shifts: join_shifts.each_ref().map(|x| load(x)),
        }
    }

    /// The runs, each with zeros above it, one after the other. What follows them is undefined.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn join(&self, runs: __m512i) -> __m512i {
        let [first, second, third] = self.lanes.map(|lane| _mm512_permutexvar_epi64(lane, runs));
        let first = _mm512_srlv_epi64(first, self.shifts[0]);
        let second = _mm512_sllv_epi64(second, self.shifts[1]);
        let third = _mm512_sllv_epi64(third, self.shifts[2]);
        _mm512_or_si512(first, _mm512_or_si512(second, third))
    }
}

/// Packs sixteen numbers of at most 32 bits.
struct NarrowJoiner {
    width: u32,
    mask: __m512i,
    /// How far the second of two, four, eight neighbours goes up.
    shifts: [__m128i; 3],
    joiner: Joiner,
}

impl NarrowJoiner {
    #[target_feature(enable = "avx512f")]
    fn new(width: u32) -> Self {
        let shift = |times: u32| _mm_cvtsi32_si128((times * width).cast_signed());
        Self {
            width,
            mask: _mm512_set1_epi32((u32::MAX >> (32 - width)).cast_signed()),
            shifts: [shift(1), shift(2), shift(4)],
            joiner: Joiner::new(width),
        }
    }

    /// `2 * width` bytes; what follows them is undefined.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn join(&self, numbers: __m512i) -> __m512i {
        let [two, four, eight] = self.shifts;
        let numbers = _mm512_and_si512(numbers, self.mask);
        let even = _mm512_and_si512(numbers, _mm512_set1_epi64(0xffff_ffff));
        let odd = _mm512_srli_epi64::<32>(numbers);
        let mut runs = _mm512_or_si512(even, _mm512_sll_epi64(odd, two));
        if self.width <= 16 {
            let odd = _mm512_unpackhi_epi64(runs, runs);
            runs = _mm512_or_si512(runs, _mm512_sll_epi64(odd, four));
        }
        if self.width <= 8 {
            let odd = _mm512_permutex_epi64::<0b01_00_11_10>(runs);
            runs = _mm512_or_si512(runs, _mm512_sll_epi64(odd, eight));
        }
        self.joiner.join(runs)
    }
}

/// Packs eight numbers of 33 to 64 bits.
struct WideJoiner {
    mask: __m512i,
    joiner: Joiner,
}

impl WideJoiner {
    #[target_feature(enable = "avx512f")]
    fn new(width: u32) -> Self {
        let mask = _mm512_set1_epi64((u64::MAX >> (64 - width)).cast_signed());
        Self { mask, joiner: Joiner::new(width) }
    }

    /// `width` bytes; what follows them is undefined.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn join(&self, numbers: __m512i) -> __m512i {
        self.joiner.join(_mm512_and_si512(numbers, self.mask))
    }
}

/// Unpacks eight numbers of at most 64 bits: each takes from up to two neighbouring words.
struct WideSplitter {
    words: [__m512i; 2],
    shifts: [__m512i; 2],
}

impl WideSplitter {
    #[target_feature(enable = "avx512f")]
    fn new(width: u32) -> Self {
        let Tables { split_words, split_shifts, .. } = &TABLES[width as usize];
        Self {
            words: split_words.each_ref().map(|x| load(x)),
            shifts: split_shifts.each_ref().map(|x| load(x)),
        }
    }

    /// The first numbers of `bytes`, with undefined bits above each.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn split(&self, bytes: &[u8]) -> __m512i {
        let Some(bytes) = bytes.first_chunk::<64>() else { return _mm512_setzero_si512() };
        let bytes = load(bytes);
        let [low, high] = self.words.map(|word| _mm512_permutexvar_epi64(word, bytes));
        let low = _mm512_srlv_epi64(low, self.shifts[0]);
        _mm512_or_si512(low, _mm512_sllv_epi64(high, self.shifts[1]))
    }
}

/// Unpacks sixteen numbers of at most 32 bits.
struct NarrowSplitter {
    width: usize,
    halves: WideSplitter,
    low_words: __m512i,
}

impl NarrowSplitter {
    #[target_feature(enable = "avx512f")]
    fn new(width: u32) -> Self {
        let low_words = [0_u32, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
        Self {
            width: width as usize,
            halves: WideSplitter::new(width),
            low_words: load(&low_words),
        }
    }

    /// As [`WideSplitter::split`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn split(&self, bytes: &[u8]) -> __m512i {
        let (low, high) = (self.halves.split(bytes), self.halves.split(&bytes[self.width..]));
        _mm512_permutex2var_epi32(low, self.low_words, high)
    }
}

/// Where the words of a packed register come from, and its numbers, for each width.
static TABLES: LazyLock<Vec<Tables>> =
    LazyLock::new(|| (0..=64).map(|width| Tables::new(width.max(1))).collect());

struct Tables {
    join_lanes: [[u64; 8]; 3],
    join_shifts: [[u64; 8]; 3],
    split_words: [[u64; 8]; 2],
    split_shifts: [[u64; 8]; 2],
}

impl Tables {
    /// For numbers of this width. Joined are runs of one number wider than 32 bits, of two wider than 16, of four wider
    /// than 8, else of eight: so a run has at least 32 bits, or there are only two. It stands in every first,
    /// first, second, fourth lane.
    fn new(width: u64) -> Self {
        let (numbers, stride) = match width {
            ..=8 => (8, 4),
            9..=16 => (4, 2),
            17..=32 => (2, 1),
            _ => (1, 1),
        };
        let run = numbers * width;
        let each = |f: &dyn Fn(u64) -> u64| std::array::from_fn(|at| f(at as u64));
        let lane =
            |next: u64| each(&|word: u64| (64 * word / run + next).min(8 / stride - 1) * stride);
        let start = |word: u64| 64 * word / run * run;
        let shift = |next: u64| each(&|word: u64| (64 * word).abs_diff(start(word) + next * run));
        let word = |number: u64| number * width / 64;
        let bit = |number: u64| number * width % 64;
        Self {
            join_lanes: [0, 1, 2].map(lane),
            join_shifts: [0, 1, 2].map(shift),
            // Where a number ends with the register's last word its second part is shifted out.
            split_words: [each(&word), each(&|number: u64| (word(number) + 1).min(7))],
            split_shifts: [each(&bit), each(&|number: u64| 64 - bit(number))],
        }
    }
}

/// Types of which a slice of `N` is as long as a register, any bits being valid.
trait Plain<const N: usize>: Copy {}

impl Plain<64> for u8 {}
impl Plain<16> for u32 {}
impl Plain<8> for u64 {}
impl Plain<4> for u128 {}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Plain<N>, const N: usize>(numbers: &[T; N]) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 64) };
    // SAFETY: the pointer is that of 64 readable bytes, as asserted; the load needs no alignment.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<T: Plain<N>, const N: usize>(numbers: &mut [T; N], register: __m512i) {
    const { assert!(size_of::<[T; N]>() == 64) };
    // SAFETY: the pointer is that of 64 writable bytes, as asserted; the store needs no alignment.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), register) };
}
