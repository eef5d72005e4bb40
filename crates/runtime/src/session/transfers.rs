//! Oblivious transfer within a session: set up when it is first needed.

use crate::ot::{Ots, Prg};
use crate::{Channel, RuntimeError};
use copriv_ir::{Phase, Plan, StepId, cost};

/// A party's transfers. A session that runs only what waits in a store never needs them.
pub(super) enum Transfers {
    /// Not set up; the randomness to do it with, gone once somebody tried.
    Waiting(Option<Box<Prg>>),
    /// Ready.
    Ready(Box<Ots>),
}

impl Transfers {
    pub(super) fn new(rng: Prg) -> Self {
        Self::Waiting(Some(Box::new(rng)))
    }

    /// Runs the base transfers and whatever else the plan's OT extensions need, booked as setup on step 0; both parties call it at the same time.
    pub(super) fn setup(&mut self, channel: &mut Channel, plan: &Plan) -> Result<(), RuntimeError> {
        if let Self::Waiting(rng) = self {
            let rng = rng.take().ok_or(RuntimeError::SessionOver)?;
            channel.enter(StepId(0), Phase::Setup)?;
            *self = Self::Ready(Box::new(Ots::setup(channel, *rng, &cost::ot_use(plan))?));
            channel.flush()?;
        }
        Ok(())
    }

    /// The transfers, if they are set up.
    pub(super) fn ready(&mut self) -> Option<&mut Ots> {
        match self {
            Self::Waiting(_) => None,
            Self::Ready(ots) => Some(ots),
        }
    }
}
