//! What each gate is worth: how much worse the network answers without it.

use crate::data::{Images, epoch_order};
use crate::model::{GateValue, Mismatch, Mode, Model, PartWeights, Pass};
use crate::train::config::ImportanceConfig;
use crate::train::error::TrainError;
use crate::train::evaluate::Measurement;
use crate::train::loader::{BatchPlan, Batches};
use burn::tensor::Device;
use copriv_ir::Checkpoint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

/// How well a network answers the held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share answered right, 0..1.
    pub top1: f64,
}

/// What a gate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateImportance {
    /// Position of the gate.
    pub gate: usize,
    /// Rise in loss without it; negative where the network is better off.
    pub loss_rise: f64,
    /// Fall in top-1 without it.
    pub top1_drop: f64,
}

/// What all gates in question are worth, each removed alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Importances {
    /// Images measured on.
    pub images: usize,
    /// With all of the gates.
    pub complete: Answer,
    /// One for each gate that may go.
    pub gates: Vec<GateImportance>,
}

impl Importances {
    /// What a network that no longer answers in numbers counts as.
    pub(super) const MOST: f64 = 1e6;

    /// The rise in loss without each of `count` gates; 0 for those that were not in question.
    #[must_use]
    pub fn loss_rises(&self, count: usize) -> Vec<f64> {
        let mut rises = vec![0.0; count];
        for gate in &self.gates {
            if let Some(rise) = rises.get_mut(gate.gate) {
                *rise = gate.loss_rise;
            }
        }
        rises
    }
}

/// A measurement of a network on training images, others of which calibrate its batch norms.
pub(in crate::train) struct Probe<'a> {
    pub(in crate::train) checkpoint: &'a Checkpoint,
    pub(in crate::train) images: &'a dyn Images,
    pub(in crate::train) config: &'a ImportanceConfig,
    pub(in crate::train) batch_size: usize,
    pub(in crate::train) seed: u64,
    /// Without autodiff.
    pub(in crate::train) device: &'a Device,
    /// Threads that prepare images.
    pub(in crate::train) workers: usize,
}

impl Probe<'_> {
    /// Removes each of the `searched` gates in turn; `seen` is told how many of how many are done.
    ///
    /// `None` where it was stopped.
    pub(in crate::train) fn measure(
        &self,
        searched: &[bool],
        seen: &mut dyn FnMut(usize, usize),
        stop: &AtomicBool,
    ) -> Result<Option<Importances>, TrainError> {
        let order = epoch_order(self.seed, u64::MAX, self.images.labels().len());
        let (held_out, others) = order.split_at(self.config.images.min(order.len()));
        let mut kept = self.checkpoint.gates().kept().to_vec();
        let Some(complete) = self.answer(&kept, held_out, others, stop)? else { return Ok(None) };
        let in_question = |&gate: &usize| kept[gate] && searched[gate];
        let gates: Vec<usize> = (0..kept.len()).filter(in_question).collect();
        let mut importances = Vec::with_capacity(gates.len());
        for (done, &gate) in gates.iter().enumerate() {
            seen(done, gates.len());
            kept[gate] = false;
            let Some(without) = self.answer(&kept, held_out, others, stop)? else {
                return Ok(None);
            };
            kept[gate] = true;
            let rise = without.loss - complete.loss;
            let loss_rise = if rise < Importances::MOST { rise } else { Importances::MOST };
            let top1_drop = complete.top1 - without.top1;
            importances.push(GateImportance { gate, loss_rise, top1_drop });
        }
        Ok(Some(Importances { images: held_out.len(), complete, gates: importances }))
    }

    /// By how much each activation changes its values, of those activations that `ones` hold ones for: sums over the held-out
    /// images, by node. `None` where it was stopped.
    pub(in crate::train) fn mismatch(
        &self,
        ones: &PartWeights,
        stop: &AtomicBool,
    ) -> Result<Option<BTreeMap<usize, Vec<f64>>>, TrainError> {
        let order = epoch_order(self.seed, u64::MAX, self.images.labels().len());
        let held_out = &order[..self.config.images.min(order.len())];
        let mut model = Model::from_checkpoint(self.checkpoint, self.device);
        model.set_parts(ones, false);
        let gates = GateValue::fixed(self.checkpoint.gates().kept());
        let input = *model.network().input();
        let mismatch = Some(Mismatch::default());
        let pass = Pass { mismatch, ..Pass::plain(Mode::Evaluate) };
        let plan = BatchPlan::plain(self.images, input, held_out, self.batch_size);
        scope(|scope| {
            for batch in Batches::start(scope, &plan, self.workers, 0) {
                let batch = batch?;
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let (images, _) = batch.part(0..batch.len(), input.shape, self.device);
                let _ = model.forward_with(images, &gates, &pass);
            }
            Ok::<_, TrainError>(Some(()))
        })
        .map(|done| done.and(pass.mismatch.map(Mismatch::into_sums)))
    }

    /// The network's answers with these gates, its batch norms calibrated for them; `None` where it was stopped.
    fn answer(
        &self,
        kept: &[bool],
        held_out: &[usize],
        others: &[usize],
        stop: &AtomicBool,
    ) -> Result<Option<Answer>, TrainError> {
        // A model of its own: clones share their running statistics.
        let model = Model::from_checkpoint(self.checkpoint, self.device);
        let (gates, input) = (GateValue::fixed(kept), *model.network().input());
        let batches = (others.len() / self.batch_size).min(self.config.calibration_batches);
        let order = &others[..batches * self.batch_size];
        let plan = BatchPlan::plain(self.images, input, order, self.batch_size);
        scope(|scope| {
            for batch in Batches::start(scope, &plan, self.workers, 0) {
                let (images, _) = batch?.part(0..self.batch_size, input.shape, self.device);
                let _ = model.forward(images, &gates, Mode::Train);
            }
            Ok::<_, TrainError>(())
        })?;
        let Self { images, device, batch_size, workers, .. } = *self;
        let measurement = Measurement { images, device, batch_size, workers, stop };
        let measured = measurement.accuracy(&model, kept, (held_out, None), &mut |_| {})?;
        Ok(measured.map(|accuracy| Answer { loss: accuracy.loss, top1: accuracy.top1 }))
    }
}
