//! How long a plan takes on a network, computing included.

use super::NetworkProfile;
use crate::cost::{self, Work, streams};
use crate::lattice::ReplyStep;
use crate::{Phase, Plan, Step, StepId};
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
    /// How long `plan` takes: both parties' clocks on the link, step by step, as [`Self::offline_latency`] and
    /// [`Self::online_latency`] have them, and what the steps have the parties compute.
    ///
    /// Ahead of time streams keep both the link and the parties busy, and the slower of them counts; online
    /// everything waits for what came before.
    #[must_use]
    pub fn forecast(&self, plan: &Plan) -> Forecast {
        let mut seconds = BTreeMap::from([((StepId(0), Phase::Setup), self.setup_latency(plan))]);
        let replies = plan.reply_plan().map(|reply| reply.steps).unwrap_or_default();
        let phases =
            [(Phase::Offline, streams::offline(plan)), (Phase::Online, streams::online(plan))];
        for (phase, streams) in phases {
            let on_link = self.follow(streams);
            for step in plan.steps() {
                let link = on_link.get(&step.id).copied().unwrap_or(0.0);
                let computing = self.compute.seconds(&work(plan, &replies, step, phase), phase);
                let spent = match phase {
                    Phase::Offline => link.max(computing),
                    Phase::Setup | Phase::Online => link + computing,
                };
                seconds.insert((step.id, phase), spent);
            }
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
}

fn work(plan: &Plan, replies: &[ReplyStep], step: &Step, phase: Phase) -> Work {
    let reply = replies.iter().find(|reply| phase == Phase::Offline && reply.id() == step.id);
    reply.map_or_else(|| cost::step_work(plan, step, phase), cost::reply_work)
}
