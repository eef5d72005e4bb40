//! How large a model's values get.

use crate::CompileError;
use copriv_ir::evaluate::FusedEvaluator;
use copriv_ir::{Digest, FusedModel};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The largest absolute value of each layer's output over some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    model: Digest,
    largest: Vec<f32>,
    source: CalibrationSource,
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
        let (largest, count) = largest(model, images)?;
        Ok(Self { model: model.digest(), largest, source: CalibrationSource::Images { count } })
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
        let (largest, count) = largest(model, (0..count).map(image))?;
        Ok(Self {
            model: model.digest(),
            largest,
            source: CalibrationSource::Noise { seed, count },
        })
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

    pub(crate) fn check_model(&self, model: &FusedModel) -> Result<(), CompileError> {
        let (expected, found) = (model.digest(), self.model);
        if expected == found {
            Ok(())
        } else {
            Err(CompileError::ForeignCalibration { expected, found })
        }
    }
}

/// Largest values by layer, and the number of images.
fn largest<I: AsRef<[f32]>>(
    model: &FusedModel,
    images: impl IntoIterator<Item = I>,
) -> Result<(Vec<f32>, usize), CompileError> {
    let evaluator = FusedEvaluator::new(model);
    let expected = model.network().input().shape;
    let mut largest = vec![0f32; model.layers().len()];
    let mut count = 0;
    for image in images {
        let image = image.as_ref();
        if image.len() != expected.elements() {
            let found = image.len();
            return Err(CompileError::CalibrationImage { number: count, expected, found });
        }
        for (layer, values) in evaluator.layers(image).iter().enumerate() {
            if !values.iter().all(|value| value.is_finite()) {
                let layer = model.layers()[layer].name.clone();
                return Err(CompileError::NotFinite { layer });
            }
            largest[layer] = values.iter().fold(largest[layer], |max, x| max.max(x.abs()));
        }
        count += 1;
    }
    if count == 0 { Err(CompileError::NoCalibrationImages) } else { Ok((largest, count)) }
}
