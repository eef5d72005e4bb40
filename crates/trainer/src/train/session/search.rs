//! How a search begins: its first alphas, or all it ever does.

use super::{Session, mask};
use crate::model::Model;
use crate::train::average::Average;
use crate::train::config::{AlphaStart, SearchConfig, SearchedGates};
use crate::train::error::TrainError;
use crate::train::gates::GateCosts;
use crate::train::methods::{
    Importances, Method, Probe, by_importance, choose, drop_layers, narrow, project, select,
};
use crate::train::metrics::{Metrics, Observer, SearchMetrics};
use crate::train::progress::Progress;
use crate::train::stage::Stage;
use copriv_ir::Checkpoint;
use std::sync::atomic::AtomicBool;

impl Session<'_> {
    /// Whether alphas are trained in this stage.
    pub(super) fn trains_alphas(&self, stage: Stage) -> bool {
        let search = self.config.search.as_ref().filter(|_| stage == Stage::Search);
        search.is_some_and(|search| search.method.trains_alphas())
    }

    /// Sets alphas and gates as the method says; false where it was stopped.
    pub(super) fn begin_search(
        &mut self,
        search: &SearchConfig,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        match search.method {
            Method::Copriv => self.begin_alphas(search, observer, stop),
            Method::Snl | Method::SeNet => self.begin_parts(search, observer, stop),
            Method::Dp | Method::DeepReduce => self.choose(search, observer, stop),
            Method::Uniform => self.narrow().map(|()| true),
        }
    }

    /// Writes down that gates are set: an interruption from here on does not choose them again.
    fn save_choice(&mut self) -> Result<(), TrainError> {
        self.progress.begun = true;
        self.save()
    }

    /// Sets the first alphas of gates, and the gates that they choose; false where it was stopped.
    fn begin_alphas(
        &mut self,
        search: &SearchConfig,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let (mut alphas, importances) = match search.alpha_start {
            AlphaStart::Alike(alpha) => (self.costs.first_alphas(|_| alpha), None),
            AlphaStart::Importance => {
                let Some(measured) = self.importances(search, observer, stop)? else {
                    return Ok(false);
                };
                let rises = measured.loss_rises(self.kept.len());
                (by_importance(&self.costs, &rises), Some(measured))
            }
        };
        project(&self.costs, &mut alphas, &self.limits);
        self.set_alphas(&alphas);
        self.kept = select(&self.costs, &alphas, &self.kept, &self.limits);
        if let Some(importances) = importances {
            self.report_choice(search.method, importances, observer)?;
        }
        Ok(true)
    }

    /// Goes on with a narrower network.
    fn narrow(&mut self) -> Result<(), TrainError> {
        let Progress { stage, epoch, .. } = self.progress;
        let narrow = narrow(&self.checkpoint()?, &self.limits, self.provenance.clone())
            .map_err(|reason| TrainError::Checkpoint { stage, epoch, reason })?;
        let device = self.model.alpha_tensor().device();
        self.model = Model::from_checkpoint(&narrow, &device);
        self.average = self.average.as_ref().map(|_| Average::of(&self.model));
        self.kept = narrow.gates().kept().to_vec();
        self.masks = narrow.gates().parts().clone();
        self.costs = GateCosts::new(narrow.network(), SearchedGates::Blocks, narrow.gates());
        self.save_choice()
    }

    /// Chooses gates by their measured importance; false where it was stopped.
    fn choose(
        &mut self,
        search: &SearchConfig,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let Some(importances) = self.importances(search, observer, stop)? else {
            return Ok(false);
        };
        let rises = importances.loss_rises(self.kept.len());
        let select = if search.method == Method::Dp { choose } else { drop_layers };
        self.kept = select(&self.costs, &rises, &self.limits);
        let alphas: Vec<f32> = rises.iter().map(|&rise| rise as f32).collect();
        self.set_alphas(&alphas);
        self.report_choice(search.method, importances, observer)?;
        Ok(true)
    }

    /// What each gate in question is worth; `None` where it was stopped.
    pub(super) fn importances(
        &self,
        search: &SearchConfig,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Importances>, TrainError> {
        let checkpoint = self.checkpoint()?;
        let mut seen = |done, count| observer.probing(done, count);
        let probe = self.probe(search, &checkpoint);
        let measured = probe.measure(self.costs.searched(), &mut seen, stop)?;
        let loss = measured.as_ref().map_or(0.0, |importances| importances.complete.loss);
        if !loss.is_finite() {
            return Err(self.not_finite(loss, self.progress.step));
        }
        Ok(measured)
    }

    pub(super) fn probe<'p>(
        &'p self,
        search: &'p SearchConfig,
        checkpoint: &'p Checkpoint,
    ) -> Probe<'p> {
        Probe {
            checkpoint,
            images: &*self.data.train,
            config: &search.importance,
            batch_size: self.config.batch_size,
            seed: self.config.seed,
            device: &self.devices[0],
            workers: self.config.data.workers,
        }
    }

    /// Writes down and tells what was measured, which takes minutes, and what came of it.
    pub(super) fn report_choice(
        &mut self,
        method: Method,
        importances: Importances,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let (mask, (bytes, relus)) = (mask(&self.kept), self.sizes());
        let metrics = SearchMetrics { method, importances, mask, bytes, relus };
        self.metrics.write(&Metrics::Search(metrics.clone()))?;
        observer.chosen(&metrics);
        self.save_choice()
    }
}
