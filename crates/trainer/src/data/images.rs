//! Labelled images, however they are kept.

use super::picture::interleaved;
use super::{DataError, Dataset};
use copriv_ir::Shape;
use image::RgbImage;
use std::borrow::Cow;
use std::fmt;

/// Labelled images of one size that can be had by number, from several threads.
pub trait Images: fmt::Debug + Send + Sync {
    /// Name of the data set.
    fn name(&self) -> &str;

    /// Shape of every image, as [`Self::pixels`] gives it.
    fn shape(&self) -> Shape;

    /// Names of the classes, in label order.
    fn classes(&self) -> &[String];

    /// Mean and standard deviation of each channel, of pixels scaled to 0..1.
    fn statistics(&self) -> ([f32; 3], [f32; 3]);

    /// The label of each image, below the number of classes.
    fn labels(&self) -> &[usize];

    /// Pixels of image `index`, channel-major, 8 bits each; of larger images the middle.
    ///
    /// # Errors
    /// Where the image is a file that cannot be read.
    fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError>;

    /// The whole of image `index`, of whatever size.
    ///
    /// # Errors
    /// Where the image is a file that cannot be read.
    fn picture(&self, index: usize) -> Result<RgbImage, DataError> {
        let Shape { width, height, .. } = self.shape();
        Ok(interleaved(&self.pixels(index)?, width, height))
    }
}

/// The place of each class of a data set among a network's `labels`, found by name: a data set of some classes can then be
/// given to a network that knows more. By number, where the network's labels have no names.
///
/// # Errors
/// [`DataError::UnknownClass`] for a class that the network does not know.
pub fn class_labels(images: &dyn Images, labels: &[String]) -> Result<Vec<usize>, DataError> {
    let classes = images.classes();
    if labels.is_empty() || labels == classes {
        return Ok((0..classes.len()).collect());
    }
    let place = |class: &String| {
        labels.iter().position(|label| label == class).ok_or_else(|| DataError::UnknownClass {
            dataset: images.name().into(),
            class: class.clone(),
            labels: labels.len(),
        })
    };
    classes.iter().map(place).collect()
}

impl Images for Dataset {
    fn name(&self) -> &str {
        self.name()
    }

    fn shape(&self) -> Shape {
        self.shape()
    }

    fn classes(&self) -> &[String] {
        self.classes()
    }

    fn statistics(&self) -> ([f32; 3], [f32; 3]) {
        (self.mean(), self.std())
    }

    fn labels(&self) -> &[usize] {
        self.labels()
    }

    fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        Ok(Cow::Borrowed(self.image(index)))
    }
}
