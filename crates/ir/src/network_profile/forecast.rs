//! How long a plan takes on a network, computing included.

use super::NetworkProfile;
use crate::cost::{self, Work};
use crate::{CommTable, Phase, Plan, StepId, Traffic};
use std::collections::BTreeMap;

/// Predicted seconds by step and phase, for the first inference of a session.
///
/// The download of a plan's hint counts as setup.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    seconds: BTreeMap<(StepId, Phase), f64>,
}

impl Forecast {
    /// Seconds of one step.
    #[must_use]
    pub fn seconds(&self, step: StepId, phase: Phase) -> f64 {
        self.seconds.get(&(step, phase)).copied().unwrap_or(0.0)
    }

    /// Seconds of a phase.
    #[must_use]
    pub fn total(&self, phase: Phase) -> f64 {
        self.seconds.iter().filter(|((_, p), _)| *p == phase).map(|(_, seconds)| seconds).sum()
    }
}

impl NetworkProfile {
    /// How long `plan` takes.
    #[must_use]
    pub fn forecast(&self, plan: &Plan) -> Forecast {
        self.forecast_of(plan, &plan.predicted_comm())
    }

    /// The same, where its traffic is known.
    #[must_use]
    pub fn forecast_of(&self, plan: &Plan, comm: &CommTable) -> Forecast {
        let mut seconds = BTreeMap::new();
        for step in plan.steps() {
            for phase in Phase::ALL {
                let work = cost::step_work(plan, step, phase);
                let spent = self.seconds(comm.traffic(step.id, phase), &work, phase);
                seconds.insert((step.id, phase), spent);
            }
        }
        for step in plan.reply_plan().iter().flat_map(|reply| &reply.steps) {
            let work = cost::reply_work(step);
            let spent =
                self.seconds(comm.traffic(step.id(), Phase::Offline), &work, Phase::Offline);
            seconds.insert((step.id(), Phase::Offline), spent);
        }
        if let Some(lattice) = plan.lattice_plan() {
            let hint = lattice.hint_bytes();
            let download = 8.0 * hint as f64 / self.server_to_client;
            *seconds.entry((StepId(0), Phase::Setup)).or_default() += download;
            let work = self.compute.seconds(&cost::hint_work(hint), Phase::Offline);
            *seconds.entry((StepId(0), Phase::Offline)).or_default() += work;
        }
        Forecast { seconds }
    }

    /// Seconds of so much traffic and work in one phase of a step.
    ///
    /// Ahead of time streams keep both the link and the parties busy, and the slower of them counts; online
    /// everything waits for what came before.
    #[must_use]
    pub fn seconds(&self, traffic: Traffic, work: &Work, phase: Phase) -> f64 {
        let rounds = f64::from(traffic.rounds) * self.delay();
        let transfer = self.transfer_seconds(traffic, phase);
        let computing = self.compute.seconds(work, phase);
        rounds
            + match phase {
                Phase::Setup | Phase::Online => transfer + computing,
                Phase::Offline => transfer.max(computing),
            }
    }
}
