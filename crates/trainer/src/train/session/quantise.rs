//! Fine-tuning with weights and values rounded.

use super::Session;
use crate::model::{Model, Quantiser};
use crate::train::calibration::ranges_on;
use crate::train::config::QuantiseConfig;
use crate::train::error::TrainError;
use crate::train::stage::Stage;

impl Session<'_> {
    /// How a stage rounds, if it does.
    fn quantise(&self, stage: Stage) -> Option<QuantiseConfig> {
        self.config.finetune.as_ref().filter(|_| stage == Stage::Finetune)?.quantise
    }

    /// Measures the ranges of the network as it would be kept now, where the stage rounds. Steps go by them until the end of
    /// their epoch.
    pub(super) fn calibrate(&mut self, stage: Stage) -> Result<(), TrainError> {
        if let Some(config) = self.quantise(stage) {
            let (checkpoint, images) = (self.checkpoint()?, &*self.data.train);
            self.progress.ranges = ranges_on(&checkpoint, images, config.calibration_images)?;
        }
        Ok(())
    }

    /// What rounding makes of `model` in this stage, if anything does.
    pub(super) fn quantiser(&self, stage: Stage, model: &Model) -> Option<Quantiser> {
        let bits = self.quantise(stage)?.bits();
        Some(Quantiser::new(model, &self.state_of_gates(), &self.progress.ranges, bits))
    }
}
