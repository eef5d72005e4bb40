//! How far a run is.

use super::metrics::EpochMetrics;
use super::stage::Stage;
use crate::model::{Masks, Ranges};
use copriv_ir::{Digest, Gates, Widths};
use serde::{Deserialize, Serialize};

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    /// Whether gates were set for the stage.
    pub(super) begun: bool,
    /// Epochs of the stage completed.
    pub(super) epoch: usize,
    /// Steps of the present epoch completed.
    pub(super) step: usize,
    /// Epochs completed over all stages; the order of the data depends on it.
    pub(super) total_epochs: usize,
    /// Steps completed over all stages.
    pub(super) total_steps: usize,
    /// The gates that the run began with; all of them, where there are none.
    #[serde(default)]
    pub(super) found: Vec<bool>,
    /// And the masks of those kept in part.
    #[serde(default)]
    pub(super) found_parts: Masks,
    /// Over the steps of the present epoch.
    pub(super) sums: Sums,
    /// There once all steps of the epoch are done and its gates settled, until it is measured.
    #[serde(default)]
    pub(super) unmeasured: Option<Unmeasured>,
    /// Largest magnitudes by which a stage rounds that does: measured before it and after each epoch.
    pub(super) ranges: Ranges,
    /// To which fine-tuning rounds, if it does: as they were when the run began.
    #[serde(default)]
    pub(super) widths: Option<Widths>,
    /// Weight of the penalty on activated values in the present epoch, and their count after the one before; where there is one.
    #[serde(default)]
    pub(super) penalty: Option<Penalty>,
    /// Of the network that the run learns from, once that is known.
    #[serde(default)]
    pub(super) teacher: Option<Digest>,
    /// Best top-1 of the stage so far.
    pub(super) best_top1: Option<f64>,
    /// Every epoch so far.
    pub(super) history: Vec<EpochMetrics>,
}

/// Sums over an epoch's steps, for its means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sums {
    pub(super) loss: f64,
    pub(super) task_loss: f64,
    pub(super) comm_loss: f64,
    pub(super) right: usize,
    pub(super) images: usize,
    pub(super) seconds: f64,
}

/// What is to be said of an epoch beside its measurement, as it was in its last step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unmeasured {
    pub(super) learning_rate: f64,
    /// Weight of the penalty on activated values, where there is one.
    pub(super) penalty: Option<f64>,
}

/// How a search under a penalty goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Penalty {
    pub(super) weight: f64,
    /// Alphas above the threshold, by their activated values.
    pub(super) count: u64,
}

/// The losses of one step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    pub(super) total: f64,
    pub(super) task: f64,
    pub(super) comm: f64,
    /// Images of the batch answered right.
    pub(super) right: usize,
}

impl Losses {
    /// Of two parts of a batch, this one having the share `share`.
    pub(super) fn mean(&self, other: &Self, share: f64) -> Self {
        let mean = |a: f64, b: f64| share * a + (1.0 - share) * b;
        Self {
            total: mean(self.total, other.total),
            task: mean(self.task, other.task),
            comm: mean(self.comm, other.comm),
            right: self.right + other.right,
        }
    }
}

impl Progress {
    /// Before the first step, of a network with these gates.
    pub(super) fn beginning(stage: Stage, found: &Gates) -> Self {
        Self {
            stage,
            begun: false,
            epoch: 0,
            step: 0,
            total_epochs: 0,
            total_steps: 0,
            found: found.kept().to_vec(),
            found_parts: found.parts().clone(),
            sums: Sums::default(),
            unmeasured: None,
            ranges: Ranges::new(),
            widths: None,
            penalty: None,
            teacher: None,
            best_top1: None,
            history: vec![],
        }
    }

    /// The gates, so many in all, as the run began with them.
    pub(super) fn found_gates(&self, count: usize) -> Gates {
        let is_known = self.found.len() == count;
        let kept = if is_known { self.found.clone() } else { vec![true; count] };
        Gates::keeping(kept).with_parts(self.found_parts.clone())
    }

    /// Whether a search has chosen what it chooses before its first epoch.
    pub(super) fn is_past_choice(&self) -> bool {
        match self.stage {
            Stage::Pretrain => false,
            Stage::Search => self.begun,
            Stage::Finetune => true,
        }
    }

    /// On to the next stage.
    pub(super) fn enter(&mut self, stage: Stage) {
        (self.stage, self.begun, self.epoch, self.step) = (stage, false, 0, 0);
        (self.sums, self.best_top1, self.penalty) = (Sums::default(), None, None);
        self.ranges.clear();
    }

    /// One more step, of so many images.
    pub(super) fn count(&mut self, losses: &Losses, images: usize, seconds: f64) {
        self.step += 1;
        self.total_steps += 1;
        self.sums.loss += losses.total;
        self.sums.task_loss += losses.task;
        self.sums.comm_loss += losses.comm;
        self.sums.right += losses.right;
        self.sums.images += images;
        self.sums.seconds += seconds;
    }

    /// One more epoch.
    pub(super) fn complete_epoch(&mut self, metrics: EpochMetrics) {
        (self.epoch, self.step) = (self.epoch + 1, 0);
        self.total_epochs += 1;
        (self.sums, self.unmeasured) = (Sums::default(), None);
        self.best_top1 = Some(self.best_top1.map_or(metrics.top1, |best| best.max(metrics.top1)));
        self.history.push(metrics);
    }
}
