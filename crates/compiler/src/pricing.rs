//! What plans, and ways to do a step, cost under the objective.

use crate::draft::Draft;
use crate::lattice::LatticeLayers;
use crate::{CompileConfig, Objective};
use copriv_ir::cost::{self, Clocks, Flights, Offline, SessionCost, SilentSet, Work};
use copriv_ir::lattice::ReplyStep;
use copriv_ir::{Direction, Fact, Party, Phase, Plan, Step, StepOp, Traffic};
use std::iter::Sum;
use std::ops::Add;

/// The objective first, what decides between equals second: bytes or nanoseconds.
pub(crate) type Price = (u64, u64);

/// The prices of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Pricing<'a> {
    config: &'a CompileConfig,
}

/// What a phase takes.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    bytes: u64,
    /// None where no network is given.
    nanoseconds: u64,
}

impl<'a> Pricing<'a> {
    pub(crate) const fn new(config: &'a CompileConfig) -> Self {
        Self { config }
    }

    /// A part of a plan by itself. Silent transfers count what one more takes.
    pub(crate) fn part(&self, (offline, work): (&Offline, &Work), online: &Flights) -> Price {
        let traffic = offline.traffic + marginal_fill(offline);
        let messages = Work { messages: online.bytes(), ..Work::default() };
        self.price(
            self.cost(traffic, work, Phase::Offline),
            self.cost(online.traffic(), &messages, Phase::Online),
        )
    }

    /// A lattice correlation of so many bytes of upload and hint.
    pub(crate) fn lattice(&self, (upload, hint): (u64, u64)) -> Price {
        let download = Traffic::one_way(Direction::ServerToClient, self.shared(hint), 0);
        let upload = Traffic::one_way(Direction::ClientToServer, upload, 1);
        let work = cost::hint_work(hint);
        let download = self.cost(download, &Work::default(), Phase::Setup);
        self.price(download + self.cost(upload, &work, Phase::Offline), Cost::default())
    }

    /// A lattice correlation with a reply, with the carrier where it is the first one.
    pub(crate) fn reply(&self, step: &ReplyStep, carries: bool) -> Price {
        let (client_to_server, server_to_client) = (step.upload_bytes(carries), step.reply_bytes());
        let traffic = Traffic { client_to_server, server_to_client, rounds: 2 };
        self.price(self.cost(traffic, &cost::reply_work(step), Phase::Offline), Cost::default())
    }

    /// A whole plan, as the first inference of a session; what the lattice correlations of `lattice` take ahead of time is
    /// not counted.
    pub(crate) fn plan(&self, draft: &Draft, lattice: &LatticeLayers) -> Price {
        let plan = draft.plan();
        let is_lattice = |step: &Step| lattice.contains(&draft.layer(step.id)) && is_linear(step);
        let steps: Vec<(&Step, Offline, Flights)> = plan
            .steps()
            .iter()
            .map(|step| {
                let (offline, online) = cost::step_cost(plan, step);
                (step, if is_lattice(step) { Offline::default() } else { offline }, online)
            })
            .collect();
        let mut session =
            SessionCost::of_use(&steps.iter().map(|(_, offline, _)| offline.ots).sum());
        let setup = session.setup().total(Phase::Setup);
        let setup = self.cost(setup, &Work::default(), Phase::Setup);
        let setup =
            Cost { bytes: self.shared(setup.bytes), nanoseconds: self.shared(setup.nanoseconds) };
        let offline = steps.iter().map(|(step, offline, _)| {
            let traffic = session.fill(&offline.ots) + offline.traffic;
            let work = self.work(plan, step, Phase::Offline).filter(|_| !is_lattice(step));
            self.cost(traffic, &work.unwrap_or_default(), Phase::Offline)
        });
        let offline = setup + offline.sum();
        let mut clocks = Clocks::default();
        let online = steps.iter().map(|(step, _, online)| {
            let work = self.work(plan, step, Phase::Online).unwrap_or_default();
            self.cost(clocks.pass(online), &work, Phase::Online)
        });
        self.price(offline, online.sum())
    }

    /// All steps, each by itself: a plan but for its setup, what pools of silent transfers leave over, and rounds that steps
    /// share. Unlike [`Self::plan`] it becomes less with every bit less, so that bits can be compared.
    pub(crate) fn steps(&self, draft: &Draft, lattice: &LatticeLayers) -> u64 {
        let plan = draft.plan();
        let price = |step: &Step| {
            let (offline, online) = cost::step_cost(plan, step);
            if is_linear(step) && lattice.contains(&draft.layer(step.id)) {
                let upload = lattice_upload(plan.fact(step.inputs[0]));
                let nothing = (&Offline::default(), &Work::default());
                return self.lattice((upload, 0)).0 + self.part(nothing, &online).0;
            }
            let work = self.work(plan, step, Phase::Offline).unwrap_or_default();
            self.part((&offline, &work), &online).0
        };
        plan.steps().iter().map(price).sum()
    }

    /// What a step has the parties compute, where that matters.
    fn work(&self, plan: &Plan, step: &Step, phase: Phase) -> Option<Work> {
        self.config.network.as_ref().map(|_| cost::step_work(plan, step, phase))
    }

    fn cost(&self, traffic: Traffic, work: &Work, phase: Phase) -> Cost {
        let seconds = self
            .config
            .network
            .as_ref()
            .map_or(0.0, |network| network.seconds(traffic, work, phase));
        // Saturates: what takes centuries is never chosen.
        Cost { bytes: traffic.bytes(), nanoseconds: (seconds * 1e9).round() as u64 }
    }

    /// The part of one inference in what all of a client's have in common.
    fn shared(&self, all: u64) -> u64 {
        all / self.config.inferences.max(1)
    }

    fn price(&self, offline: Cost, online: Cost) -> Price {
        let all = offline + online;
        match (self.config.objective, &self.config.network) {
            (Objective::Bytes, _) => (all.bytes, online.bytes),
            (Objective::Total, _) => (all.nanoseconds, all.bytes),
            (Objective::Online, Some(_)) => (online.nanoseconds, offline.nanoseconds),
            (Objective::Online, None) => (online.bytes, offline.bytes),
        }
    }
}

/// About what a lattice correlation takes for an input: each number with the bits that hide it.
fn lattice_upload(input: &Fact) -> u64 {
    const HIDING_BITS: u64 = 11;
    let bits = u64::from(input.ring.bits()) + HIDING_BITS;
    cost::packed(input.shape.elements() as u64, bits)
}

fn is_linear(step: &Step) -> bool {
    matches!(step.op, StepOp::Linear(_))
}

/// What filling the pools with the silent transfers drawn takes, by the largest set.
fn marginal_fill(offline: &Offline) -> Traffic {
    let [.., set] = SilentSet::ALL;
    let fill = |sender: Party| {
        let drawn = u128::from(offline.ots.silent(sender));
        let bytes = drawn * u128::from(set.message_bytes(set.trees)) / u128::from(set.gain());
        Traffic::one_way(sender.sends(), u64::try_from(bytes).unwrap_or(u64::MAX), 0)
    };
    fill(Party::Server) + fill(Party::Client)
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            nanoseconds: self.nanoseconds.saturating_add(other.nanoseconds),
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
