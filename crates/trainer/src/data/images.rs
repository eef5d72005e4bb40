//! Labelled images, however they are kept.

use super::{DataError, Dataset};
use copriv_ir::Shape;
use std::borrow::Cow;

/// Labelled images of one size that can be had by number, from several threads.
pub trait Images: Sync {
    /// Name of the data set.
    fn name(&self) -> &str;

    /// Shape of every image.
    fn shape(&self) -> Shape;

    /// The label of each image.
    fn labels(&self) -> &[usize];

    /// Pixels of image `index`, channel-major, 8 bits each.
    ///
    /// # Errors
    /// Where the image is a file that cannot be read.
    fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError>;
}

impl Images for Dataset {
    fn name(&self) -> &str {
        self.name()
    }

    fn shape(&self) -> Shape {
        self.shape()
    }

    fn labels(&self) -> &[usize] {
        self.labels()
    }

    fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        Ok(Cow::Borrowed(self.image(index)))
    }
}
