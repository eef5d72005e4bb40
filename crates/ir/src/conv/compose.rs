//! When two convolutions are one: the shapes of it. The weights are `copriv-reparam`'s.

use super::ConvGeometry;
use crate::Shape;

impl ConvGeometry {
    /// The one convolution that `next` after `self` is on a map of shape `input`; `None` where the two
    /// are not one convolution with a bias map, border included.
    ///
    /// Inside the map both together have the kernel `k1 + (k2 - 1) s1`, the stride `s1 s2` and the padding
    /// `p1 + p2 s1`. At the border `next` sees zeros beside the output of `self`, where the composed
    /// kernel sees `self` applied to the zeros beside the input *and* to what of the input its window
    /// still reaches. Only where it reaches nothing are the weights the same at every position:
    ///
    /// - `next` has no padding (a 1x1 convolution), or
    /// - the windows of `self` at the padded positions lie outside the map: always for a 1x1
    ///   convolution, and for 3x3 at stride 2 on a map of odd extent.
    ///
    /// 3x3 after 3x3, both padded, on any other map has other *weights* at the border. No bias map mends
    /// that, so the two are never merged.
    #[must_use]
    pub fn then(&self, next: &Self, input: Shape) -> Option<Self> {
        let middle = self.output_shape(input);
        let composed = Self {
            in_channels: self.in_channels,
            out_channels: next.out_channels,
            kernel: self.kernel + (next.kernel - 1) * self.stride,
            stride: self.stride * next.stride,
            padding: self.padding + next.padding * self.stride,
            groups: if self.groups == next.groups { self.groups } else { 1 },
        };
        let output = next.output_shape(middle);
        let fits = input.channels == self.in_channels
            && self.out_channels == next.in_channels
            && output.elements() > 0
            && composed.fault().is_none()
            && composed.output_shape(input) == output;
        let is_exact = |extent| !self.is_seen_beyond_its_border(next, extent);
        (fits && is_exact(input.height) && is_exact(input.width)).then_some(composed)
    }

    /// The one convolution that the sum of both on one map of shape `input` is: the larger kernel, with the
    /// smaller one centred on the same input position. `None` where strides or outputs differ, or the
    /// smaller reaches past the larger.
    #[must_use]
    pub fn beside(&self, other: &Self, input: Shape) -> Option<Self> {
        let (large, small) =
            if self.kernel >= other.kernel { (self, other) } else { (other, self) };
        let offset = large.padding.checked_sub(small.padding)?;
        let fits = large.in_channels == small.in_channels
            && large.stride == small.stride
            && large.output_shape(input) == small.output_shape(input)
            && offset + small.kernel <= large.kernel;
        let groups = if large.groups == small.groups { large.groups } else { 1 };
        fits.then_some(Self { groups, ..*large })
    }

    /// Whether `next`, along a side of `extent` inputs, has a tap beside the output of `self` where the window
    /// of `self` would still reach the map.
    fn is_seen_beyond_its_border(&self, next: &Self, extent: usize) -> bool {
        let middle = self.output_extent(extent);
        // The last position before the output, and the first after it.
        let before = next.padding > 0 && self.kernel > self.stride + self.padding;
        let past = (next.output_extent(middle).saturating_sub(1)) * next.stride + next.kernel;
        let after = past > middle + next.padding && middle * self.stride < extent + self.padding;
        before || after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn then(first: ConvGeometry, second: ConvGeometry, extent: usize) -> Option<ConvGeometry> {
        first.then(&second, Shape::new(first.in_channels, extent, extent))
    }

    #[test]
    fn an_inverted_residual_is_a_dense_3x3() {
        for stride in [1, 2] {
            let expanded =
                then(ConvGeometry::same(4, 24, 1, 1), ConvGeometry::depthwise(24, 3, stride), 9);
            assert_eq!(expanded, Some(ConvGeometry::same(4, 24, 3, stride)));
            let whole =
                then(ConvGeometry::same(4, 24, 3, stride), ConvGeometry::same(24, 8, 1, 1), 9);
            assert_eq!(whole, Some(ConvGeometry::same(4, 8, 3, stride)));
        }
        let identity = ConvGeometry { groups: 4, ..ConvGeometry::same(4, 4, 1, 1) };
        let dense = ConvGeometry::same(4, 4, 3, 1);
        assert_eq!(identity.beside(&dense, Shape::new(4, 9, 9)), Some(dense));
    }

    #[test]
    fn padded_kernels_in_a_row_are_one_only_where_the_border_does_not_show() {
        let padded = ConvGeometry::same(1, 1, 3, 1);
        let unpadded = ConvGeometry { padding: 0, ..padded };
        assert_eq!(then(padded, padded, 8), None);
        let five = ConvGeometry { kernel: 5, padding: 1, ..padded };
        assert_eq!(then(padded, unpadded, 8), Some(five));

        let strided = ConvGeometry::same(1, 1, 3, 2);
        assert_eq!(then(strided, padded, 8), None);
        assert_eq!(
            then(strided, padded, 9),
            Some(ConvGeometry { kernel: 7, stride: 2, padding: 3, ..padded })
        );
    }

    #[test]
    fn what_does_not_fit_stays_apart() {
        let map = Shape::new(2, 5, 5);
        let large = ConvGeometry::same(2, 2, 3, 1);
        let fits = |other| large.beside(&other, map).is_some();
        assert!(fits(ConvGeometry::same(2, 2, 3, 1)) && fits(ConvGeometry::same(2, 2, 5, 1)));
        assert!(!fits(ConvGeometry::same(2, 2, 1, 2)));
        assert!(!fits(ConvGeometry::same(2, 4, 1, 1)));
        assert!(!fits(ConvGeometry { padding: 0, ..ConvGeometry::same(2, 2, 3, 1) }));
        assert_eq!(large.then(&ConvGeometry::same(3, 2, 1, 1), map), None);
        assert_eq!(large.then(&ConvGeometry { kernel: 7, padding: 0, ..large }, map), None);
    }
}
