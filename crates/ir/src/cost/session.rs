//! What a session costs: its set-up, then inference after inference.

use super::ot::{BASE_OTS, SEED_FIELD, SOFT_SPOKEN_FIELDS};
use super::{Clocks, OtUse, SilentPool, lattice, ot_use, step_cost};
use crate::{CommTable, Party, Phase, Plan, StepId, Traffic};

/// Predicts a session's traffic. It has a state because silent transfers are made in bulk: what one step or
/// inference leaves over serves the next.
#[derive(Clone, Debug)]
pub struct SessionCost {
    setup: Traffic,
    pools: [Option<SilentPool>; 2],
}

impl SessionCost {
    /// A session for inferences of `plan`.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self::of_use(&ot_use(plan))
    }

    /// A session for inferences that draw so many transfers.
    #[must_use]
    pub fn of_use(ots: &OtUse) -> Self {
        let pools = PARTIES.map(|sender| SilentPool::new(sender, ots.silent(sender)));
        let soft_spoken = PARTIES.into_iter().zip(&pools).flat_map(|(sender, pool)| {
            let fields = SOFT_SPOKEN_FIELDS
                .into_iter()
                .filter(move |&k| ots.soft_spoken(sender, k) || k == SEED_FIELD && pool.is_some());
            fields.map(move |k| Traffic::one_way(sender.peer().sends(), soft_spoken_setup(k), 1))
        });
        let soft_spoken = soft_spoken.fold(Traffic::default(), Traffic::beside);
        let silent = pools.iter().flatten().map(SilentPool::setup);
        let silent = silent.fold(Traffic::default(), Traffic::beside);
        Self { setup: base() + soft_spoken + silent, pools }
    }

    /// What is sent before the first inference, booked on step 0.
    #[must_use]
    pub fn setup(&self) -> CommTable {
        let mut table = CommTable::new();
        table.book(StepId(0), Phase::Setup, self.setup);
        table
    }

    /// What the next inference sends. Silent transfers are filled up at the start of each step that needs more
    /// than are left.
    pub fn inference(&mut self, plan: &Plan) -> CommTable {
        let (mut table, mut clocks) = (CommTable::new(), Clocks::default());
        lattice::book(plan, &mut table);
        for step in plan.steps() {
            let (offline, online) = step_cost(plan, step);
            let filled = self.fill(&offline.ots);
            table.book(step.id, Phase::Offline, filled + offline.traffic);
            table.book(step.id, Phase::Online, clocks.pass(&online));
        }
        table
    }

    /// Traffic of filling the pools for a step, which then draws what it uses.
    pub fn fill(&mut self, ots: &OtUse) -> Traffic {
        let pools = PARTIES.into_iter().zip(&mut self.pools);
        let fill = |(sender, pool): (Party, &mut Option<SilentPool>)| {
            pool.as_mut().map_or_else(Traffic::default, |pool| {
                let filled = pool.fill(ots.silent(sender));
                pool.draw(ots.silent(sender));
                filled
            })
        };
        pools.map(fill).fold(Traffic::default(), Traffic::beside)
    }
}

const PARTIES: [Party; 2] = [Party::Server, Party::Client];

/// The handshake: all the set-up that a session takes that runs only what waits in stores.
#[must_use]
pub const fn handshake() -> Traffic {
    Traffic { server_to_client: 48, client_to_server: 48, rounds: 1 }
}

/// The handshake and both directions' base OTs.
fn base() -> Traffic {
    const BASE_OT: u64 = 32 + BASE_OTS * 32;
    let base = Traffic { server_to_client: BASE_OT, client_to_server: BASE_OT, rounds: 2 };
    handshake() + base
}

/// Bytes that SoftSpoken's set-up over `2^field_bits` elements takes: two blocks for each level of its
/// `128 / field_bits` trees but the first.
const fn soft_spoken_setup(field_bits: u32) -> u64 {
    (128 / field_bits as u64) * (field_bits as u64 - 1) * 32
}
