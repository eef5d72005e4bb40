//! What lattice correlations of steps that read one value share.

use crate::{ConvGeometry, Shape, StepId};

/// Whose upload a step takes, and the kernel that this is laid out for: the step's own, or one that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The step with the upload: the first that reads the value.
    pub source: StepId,
    /// Side of the kernel.
    pub kernel: usize,
    /// Padding around the input.
    pub padding: usize,
}

impl Window {
    /// That of a step by itself.
    #[must_use]
    pub const fn own(id: StepId, geometry: &ConvGeometry) -> Self {
        Self { source: id, kernel: geometry.kernel, padding: geometry.padding }
    }

    /// The least one around the kernels of convolutions of one input; `None` where their outputs stand at different places.
    pub fn around(
        source: StepId,
        geometries: impl IntoIterator<Item = ConvGeometry>,
        input: Shape,
    ) -> Option<Self> {
        let mut geometries = geometries.into_iter();
        let first = geometries.next()?;
        let extent = |geometry: &ConvGeometry| {
            let Shape { height, width, .. } = geometry.output_shape(input);
            (geometry.stride, height, width)
        };
        let mut window = Self::own(source, &first);
        for geometry in geometries {
            let after = |padding: usize, kernel: usize| kernel.saturating_sub(padding);
            let behind = after(window.padding, window.kernel);
            let behind = behind.max(after(geometry.padding, geometry.kernel));
            window.padding = window.padding.max(geometry.padding);
            window.kernel = window.padding + behind;
            let alike =
                [geometry, window.geometry(&geometry)].iter().all(|g| extent(g) == extent(&first));
            if !alike {
                return None;
            }
        }
        Some(window)
    }

    /// A convolution with its kernel in the midst of the window's.
    #[must_use]
    pub const fn geometry(&self, own: &ConvGeometry) -> ConvGeometry {
        ConvGeometry { kernel: self.kernel, padding: self.padding, ..*own }
    }
}

/// Items in groups, each in the first one that it goes with, in order.
pub(crate) fn grouped<T: Copy>(
    items: impl IntoIterator<Item = T>,
    goes: impl Fn(&[T]) -> bool,
) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    for item in items {
        let joined = groups.iter_mut().any(|group| {
            group.push(item);
            let joins = goes(group);
            group.truncate(group.len() - usize::from(!joins));
            joins
        });
        if !joined {
            groups.push(vec![item]);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_all_kernels_whose_outputs_stand_alike() {
        let input = Shape::new(4, 9, 8);
        let around = |all: &[ConvGeometry]| Window::around(StepId(7), all.iter().copied(), input);
        let same = |kernel, stride| ConvGeometry::same(4, 5, kernel, stride);
        let window = |kernel, padding| Some(Window { source: StepId(7), kernel, padding });
        assert_eq!(around(&[same(1, 2)]), window(1, 0));
        assert_eq!(around(&[same(1, 2), same(3, 2)]), window(3, 1));
        assert_eq!(around(&[same(3, 2), same(1, 2), same(5, 2)]), window(5, 2));
        assert_eq!(around(&[same(3, 1), same(1, 2)]), None);
        let valid = ConvGeometry { padding: 0, ..same(3, 1) };
        assert_eq!(around(&[same(3, 1), valid]), None);
    }

    #[test]
    fn items_join_the_first_group_that_they_go_with() {
        let groups = grouped([1, 2, 3, 4, 5], |group| group.iter().all(|x| x % 2 == group[0] % 2));
        assert_eq!(groups, [vec![1, 3, 5], vec![2, 4]]);
    }
}
