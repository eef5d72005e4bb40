//! Labelled images in memory.

use super::{DataError, Manifest};
use copriv_ir::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training and calibration.
    Train,
    /// For measuring accuracy.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

impl std::str::FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            _ => Err(format!("a split is train or test, not {name:?}")),
        }
    }
}

/// Labelled images of one size, channel-major 8-bit pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    name: String,
    split: Split,
    shape: Shape,
    classes: Vec<String>,
    mean: [f32; 3],
    std: [f32; 3],
    pixels: Vec<u8>,
    labels: Vec<usize>,
}

impl Dataset {
    /// A data set without images, for a caller that makes its own with [`Self::push`].
    #[must_use]
    pub fn empty(manifest: &Manifest, split: Split) -> Self {
        Self {
            name: manifest.name.clone(),
            split,
            shape: Shape::new(3, manifest.resolution, manifest.resolution),
            classes: manifest.classes.clone(),
            mean: manifest.mean,
            std: manifest.std,
            pixels: vec![],
            labels: vec![],
        }
    }

    /// Adds an image of [`Self::shape`] with a label below the number of classes; others are left out.
    pub fn push(&mut self, pixels: &[u8], label: usize) {
        if pixels.len() == self.shape.elements() && label < self.classes.len() {
            self.pixels.extend_from_slice(pixels);
            self.labels.push(label);
        }
    }

    /// Name of the data set.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which part of it this is.
    #[must_use]
    pub fn split(&self) -> Split {
        self.split
    }

    /// Shape of every image.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Names of the classes, in label order.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Mean of each channel, of pixels scaled to 0..1.
    #[must_use]
    pub fn mean(&self) -> [f32; 3] {
        self.mean
    }

    /// Standard deviation of each channel.
    #[must_use]
    pub fn std(&self) -> [f32; 3] {
        self.std
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it has no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of image `index`, channel-major; empty where there is no such image.
    #[must_use]
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.shape.elements();
        self.pixels.get(index * size..(index + 1) * size).unwrap_or_default()
    }

    /// Labels of all images.
    #[must_use]
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The first `count` images, or all where there are fewer.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Self {
        self.labels.truncate(count);
        self.pixels.truncate(self.labels.len() * self.shape.elements());
        self
    }

    /// The images of these classes alone, labels renumbered in the order given.
    ///
    /// # Errors
    /// [`DataError::Class`] for a class that the data set lacks.
    pub fn only_classes(&self, classes: &[usize]) -> Result<Self, DataError> {
        let name = |&class: &usize| {
            self.classes.get(class).cloned().ok_or_else(|| DataError::Class {
                dataset: self.name.clone(),
                found: class,
                classes: self.classes.len(),
            })
        };
        let names = classes.iter().map(name).collect::<Result<_, _>>()?;
        let mut subset = Self { classes: names, pixels: vec![], labels: vec![], ..self.clone() };
        for (index, label) in self.labels.iter().enumerate() {
            if let Some(renumbered) = classes.iter().position(|class| class == label) {
                subset.push(self.image(index), renumbered);
            }
        }
        Ok(subset)
    }
}
