//! Fine-tuning with weights and values rounded.

use super::Session;
use crate::data::SampleKey;
use crate::model::{Model, Quantiser, foreign_layer};
use crate::train::calibration::ranges_on;
use crate::train::config::{ConfigError, QuantiseConfig, TrainConfig};
use crate::train::error::TrainError;
use crate::train::progress::Progress;
use crate::train::stage::Stage;
use copriv_ir::{Checkpoint, Plan, Widths};
use rand::Rng as _;

const PLAN: &str = "finetune.quantise.plan";

/// The widths to which fine-tuning rounds, if it does: read when the run began. Those of single layers must be of the network with
/// the gates that it is fine-tuned with, as these decide what is merged.
pub(super) fn widths(
    config: &TrainConfig,
    progress: &Progress,
    checkpoint: &Checkpoint,
) -> Result<Option<Widths>, TrainError> {
    let Some(quantise) = config.finetune.as_ref().and_then(|stage| stage.quantise.as_ref()) else {
        return Ok(None);
    };
    let widths = progress.widths.clone().map_or_else(|| read(quantise), Ok)?;
    if widths.layers.is_none() {
        return Ok(Some(widths));
    }
    if config.search.is_some() && progress.stage != Stage::Finetune {
        let expected = "the same bits for all layers, as the search is yet to find the gates (start from \
                        a checkpoint that has them, without [search])";
        return Err(ConfigError::value(PLAN, expected, "bits of single layers").into());
    }
    match foreign_layer(checkpoint.network(), checkpoint.gates(), &widths) {
        Some(layer) => {
            let expected =
                "a plan of the network that fine-tuning begins with, as `copriv fuse` makes it";
            let found = format!("bits for {layer}, which is no layer of that");
            Err(ConfigError::value(PLAN, expected, found).into())
        }
        None => Ok(Some(widths)),
    }
}

/// The widths that these settings name.
fn read(config: &QuantiseConfig) -> Result<Widths, TrainError> {
    let Some(path) = &config.plan else {
        let (weight_bits, activation_bits) =
            config.weight_bits.zip(config.activation_bits).unwrap_or_default();
        return Ok(Widths::uniform(weight_bits, activation_bits));
    };
    Widths::of_plan(&Plan::read(&Plan::file_at(path))?).ok_or_else(|| {
        let expected = "a plan of mixed precision (made with the preset fast)";
        ConfigError::value(PLAN, expected, path.display()).into()
    })
}

impl Session<'_> {
    /// How a stage rounds, if it does.
    fn quantise(&self, stage: Stage) -> Option<&QuantiseConfig> {
        self.config.finetune.as_ref().filter(|_| stage == Stage::Finetune)?.quantise.as_ref()
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

    /// What rounding makes of `model` in this stage, if anything does, on device `number`.
    pub(super) fn quantiser(
        &self,
        stage: Stage,
        model: &Model,
        number: usize,
    ) -> Option<Quantiser> {
        let widths = self.progress.widths.as_ref().filter(|_| self.quantise(stage).is_some())?;
        let (epoch, index) = (self.progress.total_steps as u64, number as u64);
        let key = SampleKey { seed: self.config.seed, epoch, index };
        let chance = Some(key.generator(b"rounding").random());
        let grid = (&self.progress.ranges, widths);
        Some(Quantiser::new(model, &self.state_of_gates(), grid, chance))
    }
}
