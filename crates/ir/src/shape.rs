//! The shape of one image or feature map.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One feature map, channels x height x width, stored channel-major (NCHW with N = 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[usize; 3]", into = "[usize; 3]")]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// `channels` x `height` x `width`.
    #[must_use]
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// A vector of `channels` values, as after global pooling.
    #[must_use]
    pub const fn vector(channels: usize) -> Self {
        Self::new(channels, 1, 1)
    }

    /// Number of values.
    #[must_use]
    pub const fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether it has at least one value and no more than 2^28 (a gigabyte in `f32`): what artefacts
    /// may speak of, against hostile sizes.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let area = self.height.checked_mul(self.width);
        let elements = area.and_then(|area| area.checked_mul(self.channels));
        elements.is_some_and(|elements| (1..=1 << 28).contains(&elements))
    }

    /// Number of values in one channel.
    #[must_use]
    pub const fn area(&self) -> usize {
        self.height * self.width
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

impl From<[usize; 3]> for Shape {
    fn from([channels, height, width]: [usize; 3]) -> Self {
        Self { channels, height, width }
    }
}

impl From<Shape> for [usize; 3] {
    fn from(shape: Shape) -> Self {
        [shape.channels, shape.height, shape.width]
    }
}
