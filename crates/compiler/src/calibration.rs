//! How large a model's values get.

use crate::CompileError;
use copriv_ir::evaluate::FusedEvaluator;
use copriv_ir::{Digest, FusedModel};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The largest absolute value of each layer's output over some images, and the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    model: Digest,
    largest: Vec<f32>,
    source: CalibrationSource,
    images: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
    labels: Option<Vec<usize>>,
}

/// The images behind a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationSource {
    /// Images given by the user.
    Images {
        /// How many.
        count: usize,
    },
    /// Pixels drawn at random: for studies of cost, not for accuracy.
    Noise {
        /// Seed of the pixels.
        seed: u64,
        /// How many images.
        count: usize,
    },
}

impl Calibration {
    /// Ranges over these images, normalised and channel-major.
    ///
    /// # Errors
    /// [`CompileError`] where there is no image, one of the wrong size, or a layer's value is not
    /// finite.
    pub fn from_images<I: AsRef<[f32]>>(
        model: &FusedModel,
        images: impl IntoIterator<Item = I>,
    ) -> Result<Self, CompileError> {
        Self::new(model, images, |count| CalibrationSource::Images { count })
    }

    /// The same with the images' classes, by which the compiler then judges accuracy.
    ///
    /// # Errors
    /// [`CompileError::CalibrationLabels`] where there are not as many as images.
    pub fn with_labels(self, labels: &[usize]) -> Result<Self, CompileError> {
        let (expected, found) = (self.images.len(), labels.len());
        if expected != found {
            return Err(CompileError::CalibrationLabels { expected, found });
        }
        Ok(Self { labels: Some(labels.to_vec()), ..self })
    }

    /// Ranges over `count` images of independent uniform pixels.
    ///
    /// # Errors
    /// [`CompileError`] where `count` is 0 or a layer's value is not finite.
    pub fn from_noise(model: &FusedModel, seed: u64, count: usize) -> Result<Self, CompileError> {
        let input = *model.network().input();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let image = |_| {
            let pixels: Vec<u8> = (0..input.shape.elements()).map(|_| rng.random()).collect();
            input.normalise(&pixels)
        };
        let images = (0..count).map(image);
        Self::new(model, images, |count| CalibrationSource::Noise { seed, count })
    }

    /// The largest absolute value of each layer's output, in the order of [`FusedModel::layers`].
    #[must_use]
    pub fn largest(&self) -> &[f32] {
        &self.largest
    }

    /// The images behind it.
    #[must_use]
    pub fn source(&self) -> CalibrationSource {
        self.source
    }

    /// The images, normalised and channel-major.
    pub(crate) fn images(&self) -> &[Vec<f32>] {
        &self.images
    }

    /// The model's own logits of each image.
    pub(crate) fn logits(&self) -> &[Vec<f32>] {
        &self.logits
    }

    /// The class of each image, where they are known.
    pub(crate) fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    pub(crate) fn check_model(&self, model: &FusedModel) -> Result<(), CompileError> {
        let (expected, found) = (model.digest(), self.model);
        if expected == found {
            Ok(())
        } else {
            Err(CompileError::ForeignCalibration { expected, found })
        }
    }

    fn new<I: AsRef<[f32]>>(
        model: &FusedModel,
        images: impl IntoIterator<Item = I>,
        source: impl FnOnce(usize) -> CalibrationSource,
    ) -> Result<Self, CompileError> {
        let evaluator = FusedEvaluator::new(model);
        let expected = model.network().input().shape;
        let mut largest = vec![0f32; model.layers().len()];
        let (mut kept, mut logits) = (vec![], vec![]);
        for image in images {
            let image = image.as_ref();
            if image.len() != expected.elements() {
                let (number, found) = (kept.len(), image.len());
                return Err(CompileError::CalibrationImage { number, expected, found });
            }
            let mut layers = evaluator.layers(image);
            for (layer, values) in layers.iter().enumerate() {
                if !values.iter().all(|value| value.is_finite()) {
                    let layer = model.layers()[layer].name.clone();
                    return Err(CompileError::NotFinite { layer });
                }
                largest[layer] = values.iter().fold(largest[layer], |max, x| max.max(x.abs()));
            }
            kept.push(image.to_vec());
            logits.extend(layers.pop());
        }
        if kept.is_empty() {
            return Err(CompileError::NoCalibrationImages);
        }
        let (model, source) = (model.digest(), source(kept.len()));
        Ok(Self { model, largest, source, images: kept, logits, labels: None })
    }
}
