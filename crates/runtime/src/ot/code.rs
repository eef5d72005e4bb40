//! The code that hides a choice among N = 2, 4, 8 or 16.

/// How choices of 1 to 4 bits are encoded in an OT extension (Kolesnikov and Kumaresan, CRYPTO 2013).
///
/// The simplex code of dimension `m`: one *group* of columns for each non-zero vector `p` of `m` bits, all
/// columns of a group holding the parity of `choice & p`. Each group has `128 / 2^(m-1)` columns, so that
/// any two code words differ in exactly 128 columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 1-of-2 transfers (IKNP), 128 columns.
    OneOf2,
    /// 1-of-4 transfers, 192 columns.
    OneOf4,
    /// 1-of-8 transfers, 224 columns.
    OneOf8,
    /// 1-of-16 transfers, 240 columns.
    OneOf16,
}

impl Code {
    /// All of them, from the smallest.
    pub const ALL: [Self; 4] = [Self::OneOf2, Self::OneOf4, Self::OneOf8, Self::OneOf16];

    /// The code for choices of so many bits, if it is 1 to 4.
    #[must_use]
    pub const fn of_bits(bits: u32) -> Option<Self> {
        match bits {
            1 => Some(Self::OneOf2),
            2 => Some(Self::OneOf4),
            3 => Some(Self::OneOf8),
            4 => Some(Self::OneOf16),
            _ => None,
        }
    }

    /// Bits of a choice, `m`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::OneOf2 => 1,
            Self::OneOf4 => 2,
            Self::OneOf8 => 3,
            Self::OneOf16 => 4,
        }
    }

    /// Messages among which to choose, `N = 2^m`.
    #[must_use]
    pub const fn options(self) -> usize {
        1 << self.bits()
    }

    /// Length of a code word.
    #[must_use]
    pub const fn columns(self) -> usize {
        (self.options() - 1) * self.group_size()
    }

    /// Columns of a group.
    pub(super) const fn group_size(self) -> usize {
        256 / self.options()
    }

    /// The vectors `p` of the groups in order.
    pub(super) fn groups(self) -> std::ops::Range<usize> {
        1..self.options()
    }

    /// The columns of a group.
    pub(super) fn columns_of(self, group: usize) -> std::ops::Range<usize> {
        (group - 1) * self.group_size()..group * self.group_size()
    }

    /// Which groups are added up into each half-word of a mixed row: bit `p` stands for group `p`.
    ///
    /// Rows are hashed as 128 bits. Mixing adds `2^(m-1)` sums of groups, column by column, into
    /// `2^(m-1) * group_size = 128` columns. The difference of two code words covers `2^(m-1)` whole groups; the
    /// sums are chosen such that on each of these sets of groups mixing is invertible. So the sender's
    /// secret, masked by any difference and then mixed, is uniform in 128 bits - just as in IKNP. The sums
    /// are dual to cyclic codes: for m = 4 to Melas's code, `p` and `1 / p` in GF(16).
    pub(super) const fn mixes(self) -> &'static [u16] {
        match self {
            Self::OneOf2 => &[0x2],
            Self::OneOf4 => &[0x6, 0xa],
            Self::OneOf8 => &[0x16, 0x2c, 0x58, 0x8a],
            Self::OneOf16 => &[0x162, 0x2c8, 0x48a, 0x8d0, 0x1086, 0x20e0, 0x40c4, 0x8052],
        }
    }

    /// Parity of `choice & p`.
    pub(super) const fn symbol(choice: usize, group: usize) -> bool {
        (choice & group).count_ones() % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_words_differ_in_128_columns() {
        let lengths = Code::ALL.map(Code::columns);
        assert_eq!(lengths, [128, 192, 224, 240]);
        for code in Code::ALL {
            assert_eq!(code.columns() as u64, copriv_ir::cost::ot::columns(code.bits()));
            for (a, b) in (0..code.options()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let differs = |&p: &usize| Code::symbol(a, p) != Code::symbol(b, p);
                assert_eq!(code.groups().filter(differs).count() * code.group_size(), 128);
            }
        }
    }

    #[test]
    fn mixing_loses_nothing_of_any_difference() {
        for code in Code::ALL {
            assert_eq!(code.mixes().len() * code.group_size(), 128);
            for difference in 1..code.options() {
                let covered: u16 =
                    code.groups().filter(|&p| Code::symbol(difference, p)).map(|p| 1 << p).sum();
                let restricted = code.mixes().iter().map(|mix| mix & covered).collect();
                assert_eq!(rank(restricted), covered.count_ones(), "{code:?} {difference}");
            }
        }
    }

    fn rank(mut rows: Vec<u16>) -> u32 {
        let mut rank = 0;
        while let Some(pivot) = rows.pop() {
            if pivot != 0 {
                rank += 1;
                let lowest = pivot & pivot.wrapping_neg();
                rows.iter_mut().filter(|row| **row & lowest != 0).for_each(|row| *row ^= pivot);
            }
        }
        rank
    }
}
