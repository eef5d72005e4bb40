//! The geometry of a convolution, and how its border differs from its inside.

mod compose;

use crate::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A two-dimensional convolution with square kernel, equal strides and symmetric zero padding.
///
/// A fully connected layer is the 1x1 convolution of a 1x1 map. Weights are laid out
/// `[out_channels, in_channels / groups, kernel, kernel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvGeometry {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Taps in each direction.
    pub kernel: usize,
    /// Step between neighbouring outputs.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
    /// Independent groups of channels; `in_channels` for a depthwise convolution.
    pub groups: usize,
}

impl ConvGeometry {
    /// A dense convolution (one group) that keeps the map's size at stride 1: padding `kernel / 2`.
    #[must_use]
    pub const fn same(
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
    ) -> Self {
        Self { in_channels, out_channels, kernel, stride, padding: kernel / 2, groups: 1 }
    }

    /// One kernel a channel, padding `kernel / 2`.
    #[must_use]
    pub const fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self {
            in_channels: channels,
            out_channels: channels,
            kernel,
            stride,
            padding: kernel / 2,
            groups: channels,
        }
    }

    /// A fully connected layer as a convolution of a 1x1 map.
    #[must_use]
    pub const fn fully_connected(inputs: usize, outputs: usize) -> Self {
        Self::same(inputs, outputs, 1, 1)
    }

    /// Largest number of channels, and largest kernel and stride, that an artefact may speak of:
    /// against hostile sizes.
    const MOST_CHANNELS: usize = 1 << 20;
    const MOST_TAPS: usize = 1 << 8;

    /// What is wrong with these numbers, if anything: zero or absurd sizes, channels that the groups do not
    /// divide, more padding than the kernel reaches.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Self { in_channels, out_channels, kernel, stride, groups, .. } = *self;
        if in_channels == 0 || out_channels == 0 || kernel == 0 || stride == 0 || groups == 0 {
            return Some(format!("a size is zero in {self}"));
        }
        let channels = in_channels.max(out_channels);
        if channels > Self::MOST_CHANNELS || kernel.max(stride) > Self::MOST_TAPS {
            return Some(format!("a size is absurd in {self}"));
        }
        if !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Some(format!("{groups} groups do not divide the channels of {self}"));
        }
        (self.padding >= kernel).then(|| format!("the padding reaches past the kernel in {self}"))
    }

    /// `[out_channels, in_channels / groups, kernel, kernel]`.
    #[must_use]
    pub const fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel, self.kernel]
    }

    /// Number of weights.
    #[must_use]
    pub fn weight_elements(&self) -> usize {
        self.weight_shape().iter().product()
    }

    /// Products that add up to one output: `in_channels / groups * kernel^2`.
    #[must_use]
    pub const fn fan_in(&self) -> usize {
        self.in_channels / self.groups * self.kernel * self.kernel
    }

    /// True where each channel is convolved alone.
    #[must_use]
    pub const fn is_depthwise(&self) -> bool {
        self.groups == self.in_channels && self.groups == self.out_channels && self.groups > 1
    }

    /// Outputs along a side of `extent` inputs; 0 where the kernel does not fit.
    #[must_use]
    pub const fn output_extent(&self, extent: usize) -> usize {
        let padded = extent + 2 * self.padding;
        if padded < self.kernel { 0 } else { (padded - self.kernel) / self.stride + 1 }
    }

    /// Shape of the output for a map of the given size.
    #[must_use]
    pub const fn output_shape(&self, input: Shape) -> Shape {
        Shape::new(
            self.out_channels,
            self.output_extent(input.height),
            self.output_extent(input.width),
        )
    }

    /// Multiplications for one map of the given input size.
    #[must_use]
    pub const fn multiplications(&self, input: Shape) -> u64 {
        let output = self.output_shape(input);
        output.elements() as u64 * self.fan_in() as u64
    }

    /// Which outputs along a side of `extent` inputs miss which taps: see [`BorderClasses`].
    #[must_use]
    pub fn border_classes(&self, extent: usize) -> BorderClasses {
        BorderClasses::new(self, extent)
    }
}

impl fmt::Display for ConvGeometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_channels, out_channels, kernel, stride, groups, .. } = self;
        write!(f, "{kernel}x{kernel} {in_channels}->{out_channels}")?;
        if *stride != 1 {
            write!(f, " /{stride}")?;
        }
        if self.is_depthwise() {
            write!(f, " depthwise")
        } else if *groups != 1 {
            write!(f, " groups {groups}")
        } else {
            Ok(())
        }
    }
}

/// The outputs along one side of a map, classed by which taps of the kernel fall on padding.
///
/// A fused convolution whose inner layers have biases lacks part of its bias where taps fall
/// outside. Along one side the set of missing taps takes few values (three for a 3x3 kernel at
/// stride 1: first, inside, last), so a bias map is stored by row class and column class.
/// Classes are numbered in order of first appearance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BorderClasses {
    class_of_output: Vec<usize>,
    valid_taps: Vec<std::ops::Range<usize>>,
}

impl BorderClasses {
    fn new(geometry: &ConvGeometry, extent: usize) -> Self {
        let mut valid_taps = Vec::new();
        let class_of_output = (0..geometry.output_extent(extent))
            .map(|output| {
                let start = output * geometry.stride; // in padded coordinates
                let first = geometry.padding.saturating_sub(start);
                let past = (extent + geometry.padding).saturating_sub(start).min(geometry.kernel);
                let taps = first..past.max(first);
                valid_taps.iter().position(|known| *known == taps).unwrap_or_else(|| {
                    valid_taps.push(taps);
                    valid_taps.len() - 1
                })
            })
            .collect();
        Self { class_of_output, valid_taps }
    }

    /// Number of classes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.valid_taps.len()
    }

    /// The class of each output position.
    #[must_use]
    pub fn class_of_output(&self) -> &[usize] {
        &self.class_of_output
    }

    /// The taps that fall inside the map, by class: a range of `0..kernel`.
    #[must_use]
    pub fn valid_taps(&self) -> &[std::ops::Range<usize>] {
        &self.valid_taps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_3x3_kernel_has_three_classes_a_side() {
        let classes = ConvGeometry::same(1, 1, 3, 1).border_classes(5);
        assert_eq!(classes.class_of_output(), [0, 1, 1, 1, 2]);
        assert_eq!(classes.valid_taps(), [1..3, 0..3, 0..2]);
    }

    #[test]
    fn stride_2_on_an_even_side_has_no_far_border() {
        let classes = ConvGeometry::same(1, 1, 3, 2).border_classes(8);
        assert_eq!(classes.class_of_output(), [0, 1, 1, 1]);
        assert_eq!(classes.valid_taps(), [1..3, 0..3]);
    }

    #[test]
    fn a_single_row_misses_both_sides() {
        let classes = ConvGeometry::same(1, 1, 3, 1).border_classes(1);
        assert_eq!(classes.valid_taps(), std::slice::from_ref(&(1..2)));
    }

    #[test]
    fn a_1x1_kernel_has_no_border() {
        let classes = ConvGeometry::same(4, 8, 1, 1).border_classes(7);
        assert_eq!((classes.count(), classes.class_of_output()), (1, [0; 7].as_slice()));
    }

    #[test]
    fn faults_are_named() {
        let fine = ConvGeometry::same(4, 8, 3, 1);
        assert_eq!(fine.fault(), None);
        assert!(ConvGeometry { groups: 3, ..fine }.fault().is_some_and(|f| f.contains("groups")));
        assert!(ConvGeometry { stride: 0, ..fine }.fault().is_some_and(|f| f.contains("zero")));
        assert!(
            ConvGeometry { kernel: 1 << 40, ..fine }.fault().is_some_and(|f| f.contains("absurd"))
        );
        assert!(ConvGeometry { padding: 3, ..fine }.fault().is_some_and(|f| f.contains("padding")));
    }
}
