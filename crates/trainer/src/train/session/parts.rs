//! A search among single channels or values: how it begins, what every step and epoch leave, how it ends.

use super::Session;
use crate::model::{Model, PartTensors, PartWeights};
use crate::train::config::{ConfigError, SearchConfig};
use crate::train::error::TrainError;
use crate::train::gates::EstimatedBytes;
use crate::train::methods::{
    Choice, Method, PartSpace, above, allocate, finest, hard, largest, next_weight, within,
};
use crate::train::metrics::Observer;
use crate::train::progress::Penalty;
use crate::train::stage::Stage;
use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::cost::oracle::Oracle;
use copriv_ir::{Gates, Granularity, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// A search among single channels or values that goes on.
pub(super) struct Parts {
    pub(super) space: PartSpace,
    /// What stays by the alphas as they are.
    choice: Choice,
    /// What each activation keeps, where that is settled beforehand.
    counts: BTreeMap<NodeId, usize>,
}

impl Session<'_> {
    /// The settings of a search among channels or values, if this stage is one.
    pub(super) fn part_search(&self, stage: Stage) -> Option<&SearchConfig> {
        let search = self.config.search.as_ref().filter(|_| stage == Stage::Search)?;
        search.method.chooses_parts().then_some(search)
    }

    /// Sets the first alphas of channels or values; false where it was stopped.
    pub(super) fn begin_parts(
        &mut self,
        search: &SearchConfig,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        self.check_granularity(search)?;
        let space = self.part_space(search, |_, gate| self.kept[gate]);
        if search.method == Method::Snl {
            let choice = space.found();
            let weights = hard(&choice);
            let (weight, count) = (search.penalty.weight, space.count(&choice));
            self.progress.penalty = Some(Penalty { weight, count });
            let counts = BTreeMap::new();
            self.open_parts(Parts { space, choice, counts }, &weights);
            return Ok(true);
        }
        let Some(importances) = self.importances(search, observer, stop)? else {
            return Ok(false);
        };
        let limit = self.limits.relus();
        let counts = allocate(&space, &importances.loss_rises(self.kept.len()), limit);
        let checkpoint = self.checkpoint()?;
        let found = hard(&space.found());
        let Some(sums) = self.probe(search, &checkpoint).mismatch(&found, stop)? else {
            return Ok(false);
        };
        let weights = space.normalised(&sums);
        let choice = within(&space, &counts, &weights);
        self.open_parts(Parts { space, choice, counts }, &weights);
        self.report_choice(search.method, importances, observer)?;
        Ok(true)
    }

    /// A search by channel would bring back single values that another one took away.
    fn check_granularity(&self, search: &SearchConfig) -> Result<(), ConfigError> {
        let found = finest(&self.progress.found_parts);
        if found == Granularity::Pixel && search.granularity != found {
            let expected = format!("{found}, by which the network has activations already");
            return Err(ConfigError::value("search.granularity", expected, search.granularity));
        }
        Ok(())
    }

    /// What of these activations the search found.
    fn part_space(
        &self,
        search: &SearchConfig,
        is_there: impl Fn(NodeId, usize) -> bool,
    ) -> PartSpace {
        let (network, found) = (self.model.network(), &self.progress.found_parts);
        PartSpace::new(network, search.granularity, found, is_there)
    }

    fn open_parts(&mut self, parts: Parts, weights: &PartWeights) {
        self.set_part_weights(weights, true);
        self.adopt(&parts, weights);
        self.parts = Some(parts);
    }

    /// Goes on with a search that was interrupted with these alphas.
    pub(super) fn resume_parts(&mut self, weights: &PartWeights) {
        let Some(search) = self.part_search(self.progress.stage) else { return };
        if weights.is_empty() {
            return;
        }
        let space = self.part_space(search, |node, _| weights.contains_key(&node));
        let (method, threshold) = (search.method, search.penalty.threshold as f32);
        // What is left of every layer is what it was to keep.
        let gates = self.state_of_gates();
        let left = |node: NodeId| {
            let activated = gates.activated(&self.model.graph().nodes()[node.0]) as u64;
            (activated / space.cost(node).max(1)) as usize
        };
        let (choice, counts) = match method {
            Method::Snl => (above(weights, threshold), BTreeMap::new()),
            _ => {
                let counts = weights.keys().map(|&node| (node, left(node))).collect();
                (within(&space, &counts, weights), counts)
            }
        };
        self.set_part_weights(weights, true);
        self.parts = Some(Parts { space, choice, counts });
    }

    /// Before a step: what the alphas now choose, where that is what the step runs with.
    pub(super) fn choose_parts(&mut self) {
        if let Some(parts) = self.parts.as_mut().filter(|parts| !parts.counts.is_empty()) {
            parts.choice = within(&parts.space, &parts.counts, &self.model.part_weights());
        }
    }

    /// After an epoch: gates and masks by the alphas as they are, and the next epoch's penalty.
    pub(super) fn settle_parts(&mut self, stage: Stage) {
        let Some(search) = self.part_search(stage).cloned() else { return };
        let Some(mut parts) = self.parts.take() else { return };
        let weights = self.model.part_weights();
        parts.choice = match search.method {
            Method::Snl => above(&weights, search.penalty.threshold as f32),
            _ => within(&parts.space, &parts.counts, &weights),
        };
        if let Some(penalty) = &mut self.progress.penalty {
            let (now, all) = (parts.space.count(&parts.choice), parts.space.all());
            penalty.weight =
                next_weight(&search.penalty, penalty.weight, [penalty.count, now, all]);
            penalty.count = now;
        }
        self.adopt(&parts, &weights);
        self.parts = Some(parts);
    }

    /// Whether a search among channels or values needs no more epochs.
    pub(super) fn is_found(&self, stage: Stage) -> bool {
        let is_within = |penalty: &Penalty| penalty.count <= self.limits.relus();
        self.part_search(stage).is_some()
            && (self.parts.is_none() || self.progress.penalty.as_ref().is_some_and(is_within))
    }

    /// Turns alphas into masks that stay, within the budget.
    pub(super) fn close_parts(&mut self, stage: Stage) -> Result<(), TrainError> {
        let Some(search) = self.part_search(stage).cloned() else { return Ok(()) };
        let Some(mut parts) = self.parts.take() else { return Ok(()) };
        let weights = self.model.part_weights();
        parts.choice = match search.method {
            Method::Snl => {
                let threshold = search.penalty.threshold as f32;
                largest(&parts.space, &weights, threshold, self.limits.relus())
            }
            _ => within(&parts.space, &parts.counts, &weights),
        };
        let hard = hard(&parts.choice);
        self.adopt(&parts, &hard);
        self.set_part_weights(&hard, false);
        self.save()
    }

    /// Gates, masks and the gates' alphas of a choice.
    fn adopt(&mut self, parts: &Parts, weights: &PartWeights) {
        (self.kept, self.masks) = parts.space.masks(&parts.choice, &self.kept);
        let means = parts.space.means(weights, &self.kept);
        self.set_alphas(&means);
    }

    fn set_part_weights(&mut self, weights: &PartWeights, trained: bool) {
        self.model.set_parts(weights, trained);
        if let Some(average) = &mut self.average {
            average.set_parts(weights, trained);
        }
    }

    /// What a step's activations weigh channels or values by, where that is searched.
    pub(super) fn part_tensors(&self, model: &Model, device: &Device) -> PartTensors {
        let Some(parts) = &self.parts else { return PartTensors::new() };
        let tensors = parts.space.of_found(model.part_tensors());
        if parts.counts.is_empty() {
            return tensors;
        }
        let hard = hard(&parts.choice);
        let straight_through = |(node, alphas): (NodeId, Tensor<1>)| {
            let weights = hard.get(&node).cloned().unwrap_or_default();
            let count = weights.len();
            let weights = Tensor::<1>::from_data(TensorData::new(weights, [count]), device);
            let difference = Tensor::from_inner(weights) - alphas.clone().detach();
            (node, alphas + difference)
        };
        tensors.into_iter().map(straight_through).collect()
    }

    /// The share of the activated values in question that alphas under a penalty still ask for, and what the loss charges for it.
    pub(super) fn penalty(&self, model: &Model) -> Option<(Tensor<1>, f64)> {
        let (parts, penalty) = (self.parts.as_ref()?, self.progress.penalty?);
        let all = parts.space.all() as f64;
        let share = |(node, alphas): (NodeId, Tensor<1>)| {
            alphas.sum().mul_scalar(parts.space.cost(node) as f64 / all.max(1.0))
        };
        let alphas = parts.space.of_found(model.part_tensors());
        let sum = alphas.into_iter().map(share).reduce(|sum, next| sum + next)?;
        Some((sum, penalty.weight * all))
    }

    /// The network as its gates and masks have it, whatever is still in question.
    pub(super) fn settled(&self) -> Model {
        let mut model = self.result().valid();
        if let Some(parts) = &self.parts {
            model.set_parts(&hard(&parts.choice), false);
        }
        model
    }

    /// The gates' state as a checkpoint has it; masks of removed gates count for nothing.
    pub(super) fn state_of_gates(&self) -> Gates {
        Gates::keeping(self.kept.clone()).with_parts(self.masks.clone())
    }

    /// What an inference costs as gates and masks are, and its activated values.
    pub(super) fn sizes(&self) -> (EstimatedBytes, u64) {
        let (gates, mut bytes) = (self.state_of_gates(), self.costs.bytes(&self.kept));
        let mut relus = 0;
        for node in self.model.graph().nodes() {
            let activated = gates.activated(node);
            relus += activated as u64;
            if activated > 0 {
                let saved = node.shape.elements() - activated;
                bytes.online -= Oracle::PAPER.activation(self.model.network().activation(), saved);
            }
        }
        (bytes, relus)
    }

    /// Alphas of channels or values that a resumed run needs.
    pub(super) fn open_weights(&self) -> PartWeights {
        if self.parts.is_some() { self.model.part_weights() } else { PartWeights::new() }
    }

    /// Gates that are part of a step's network: those in question are, as long as they are.
    pub(super) fn open_gates(&self) -> Vec<bool> {
        let mut open = self.kept.clone();
        for (_, gate, ..) in self.parts.iter().flat_map(|parts| parts.space.layers()) {
            open[gate] = true;
        }
        open
    }
}
