//! What a run begins or goes on with.

use crate::model::PartWeights;
use crate::train::config::TrainConfig;
use crate::train::error::TrainError;
use crate::train::optimiser::Moments;
use crate::train::progress::Progress;
use crate::train::stage::Stage;
use crate::train::state::State;
use crate::train::{TrainingData, provenance, start};
use copriv_ir::{Checkpoint, Provenance};

/// What a run begins or goes on with.
pub(super) struct Origin {
    pub(super) checkpoint: Checkpoint,
    /// The running mean of the weights.
    pub(super) average: Option<Checkpoint>,
    pub(super) moments: Moments,
    /// Alphas of channels or values in an interrupted search.
    pub(super) parts: PartWeights,
    pub(super) progress: Progress,
    pub(super) provenance: Provenance,
    pub(super) metrics_length: u64,
}

impl Origin {
    pub(super) fn first(config: &TrainConfig, data: &TrainingData) -> Result<Self, TrainError> {
        let checkpoint = start(config, data)?;
        let provenance = provenance(config, &checkpoint);
        let stage = config.stages().first().copied().unwrap_or(Stage::Pretrain);
        let (moments, progress) =
            (Moments::default(), Progress::beginning(stage, checkpoint.gates()));
        let (average, parts) = (None, PartWeights::new());
        Ok(Self { checkpoint, average, moments, parts, progress, provenance, metrics_length: 0 })
    }

    pub(super) fn of(state: State) -> Self {
        let State { progress, weights: checkpoint, average, moments, parts, metrics_length } =
            state;
        let provenance = checkpoint.provenance().clone();
        Self { checkpoint, average, moments, parts, progress, provenance, metrics_length }
    }
}
