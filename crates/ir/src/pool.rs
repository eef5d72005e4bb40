//! Pooling windows, and the order in which the greatest value of each is found.

use crate::{ConvGeometry, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Windows of `kernel` x `kernel` values; what the padding adds is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolWindow {
    /// Side of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Border on each side, less than the kernel.
    pub padding: usize,
}

/// The greatest of each window along one side of a map, by knock-out: in every round neighbours meet, and the last of an
/// odd number goes on unmatched.
///
/// A map is seen as `outer x extent x inner` values. Pooling both sides one after the other takes 6 matches for each
/// 3x3 window at stride 2 instead of 8, in as many rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidePool {
    outer: usize,
    extent: usize,
    inner: usize,
    /// What each window covers of the side.
    windows: Vec<Range<usize>>,
}

/// Who goes on from a group of entrants: an entrant and whether it meets its neighbour first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Position of the entrant among all of the round.
    pub at: usize,
    /// Whether it meets the next one.
    pub is_match: bool,
}

impl PoolWindow {
    /// The windows as a convolution of each channel alone.
    #[must_use]
    pub const fn geometry(self, channels: usize) -> ConvGeometry {
        let Self { kernel, stride, padding } = self;
        ConvGeometry {
            in_channels: channels,
            out_channels: channels,
            kernel,
            stride,
            padding,
            groups: channels,
        }
    }

    /// Pooling of a map along its rows, then along its columns. The windows must fit: [`ConvGeometry::fault`].
    #[must_use]
    pub fn sides(self, input: Shape) -> [SidePool; 2] {
        let output = self.geometry(input.channels).output_shape(input);
        let outer = input.channels * input.height;
        let windows = |extent, count| (0..count).map(|at| self.covers(at, extent)).collect();
        let rows = windows(input.width, output.width);
        let columns = windows(input.height, output.height);
        [
            SidePool { outer, extent: input.width, inner: 1, windows: rows },
            SidePool {
                outer: input.channels,
                extent: input.height,
                inner: output.width,
                windows: columns,
            },
        ]
    }

    fn covers(self, at: usize, extent: usize) -> Range<usize> {
        let first = at * self.stride;
        first.saturating_sub(self.padding)..(first + self.kernel - self.padding).min(extent)
    }
}

impl SidePool {
    /// One group of all of `count` values.
    #[must_use]
    pub fn of_all(count: usize) -> Self {
        Self { outer: 1, extent: count, inner: 1, windows: std::iter::once(0..count).collect() }
    }

    /// Positions of the entrants of all groups, group by group in the order of the results.
    pub fn entrants(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.outer).flat_map(move |outer| {
            self.windows.iter().flat_map(move |window| {
                (0..self.inner).flat_map(move |inner| {
                    let at = move |side| (outer * self.extent + side) * self.inner + inner;
                    window.clone().map(at)
                })
            })
        })
    }

    /// Number of entrants of each group.
    #[must_use]
    pub fn groups(&self) -> Vec<usize> {
        let row =
            self.windows.iter().flat_map(|window| std::iter::repeat_n(window.len(), self.inner));
        let row: Vec<usize> = row.collect();
        row.repeat(self.outer)
    }

    /// Number of matches of each round.
    #[must_use]
    pub fn matches(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.windows.iter().map(Range::len).collect();
        let mut rounds = Vec::new();
        while sizes.iter().any(|&size| size > 1) {
            let matches: usize = sizes.iter().map(|size| size / 2).sum();
            rounds.push(matches * self.outer * self.inner);
            sizes.iter_mut().for_each(|size| *size = size.div_ceil(2));
        }
        rounds
    }
}

/// The places of the next round, from groups of these sizes.
pub fn next_round(groups: &[usize]) -> impl Iterator<Item = Place> + '_ {
    let mut first = 0;
    groups.iter().flat_map(move |&size| {
        let start = first;
        first += size;
        let place = move |at: usize| Place { at: start + at, is_match: at + 1 < size };
        (0..size).step_by(2).map(place)
    })
}

impl fmt::Display for PoolWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, stride, padding } = self;
        write!(f, "{kernel}x{kernel} stride {stride} padding {padding}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_of_nine_takes_six_matches_in_four_rounds() {
        let window = PoolWindow { kernel: 3, stride: 2, padding: 1 };
        let rounds: Vec<_> =
            window.sides(Shape::new(1, 8, 8)).iter().map(SidePool::matches).collect();
        // The first of four windows along a side covers two values only.
        assert_eq!(rounds, [vec![8 * 4, 8 * 3], vec![4 * 4, 4 * 3]]);
    }

    proptest! {
        #[test]
        fn every_round_has_its_matches(
            (kernel, stride, padding) in (1_usize..6, 1_usize..4, 0_usize..6),
            (height, width) in (1_usize..9, 1_usize..9),
        ) {
            let window = PoolWindow { kernel, stride, padding: padding.min(kernel - 1) };
            prop_assume!(height.min(width) + 2 * window.padding >= kernel);
            let input = Shape::new(2, height, width);
            let [rows, columns] = window.sides(input);
            for side in [&rows, &columns] {
                let mut groups = side.groups();
                prop_assert!(groups.iter().all(|&size| size > 0));
                prop_assert_eq!(groups.iter().sum::<usize>(), side.entrants().count());
                for matches in side.matches() {
                    prop_assert_eq!(next_round(&groups).filter(|place| place.is_match).count(), matches);
                    let places = next_round(&groups).count();
                    groups.iter_mut().for_each(|size| *size = size.div_ceil(2));
                    prop_assert_eq!(groups.iter().sum::<usize>(), places);
                }
                prop_assert!(groups.iter().all(|&size| size == 1));
            }
            let output = window.geometry(2).output_shape(input);
            prop_assert_eq!(columns.groups().len(), output.elements());
        }
    }
}
