//! What a plan says of its lattice correlations with a reply.

use super::sharing::window;
use super::{Correlation, Plan, PlanError, Step, StepId, StepOp};
use crate::lattice::{PublicSeed, ReplyLayer, ReplyStep};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What all correlations with a reply of a plan share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplySection {
    /// Low bits that the client leaves out of its carrier.
    pub carrier_rounding: u32,
    /// Seed of the public polynomials.
    pub seed: PublicSeed,
}

/// The correlations with a reply of a plan, laid out. Made once and used for many inferences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyPlan {
    /// What they share.
    pub section: ReplySection,
    /// The steps, in the order of the plan. The carrier travels with the first.
    pub steps: Vec<ReplyStep>,
}

impl ReplyPlan {
    /// Bytes of the upload of step number `number` of [`Self::steps`], and of the reply to it.
    #[must_use]
    pub fn bytes(&self, number: usize) -> [u64; 2] {
        let step = &self.steps[number];
        [step.upload_bytes(number == 0), step.reply_bytes()]
    }

    /// The number of a step of the plan in [`Self::steps`].
    #[must_use]
    pub fn number(&self, id: StepId) -> Option<usize> {
        self.steps.iter().position(|step| step.id() == id)
    }
}

impl Plan {
    /// What its correlations with a reply share, if it has any.
    #[must_use]
    pub fn reply(&self) -> Option<&ReplySection> {
        self.fields.reply.as_ref()
    }

    /// Its correlations with a reply, laid out.
    #[must_use]
    pub fn reply_plan(&self) -> Option<ReplyPlan> {
        let section = *self.reply()?;
        let step = |step: &Step| {
            let StepOp::Linear(linear) = &step.op else { return None };
            let Correlation::Reply(layer) = linear.correlation else { return None };
            let input = self.fact(step.inputs[0]);
            let place = (input.shape, input.ring);
            let window = window(self.steps(), self.values(), step.id)?;
            let kernel = (&linear.geometry, window);
            ReplyStep::new(step.id, layer, section.carrier_rounding, kernel, place).ok()
        };
        Some(ReplyPlan { section, steps: self.steps().iter().filter_map(step).collect() })
    }

    /// The plan with correlations with a reply for these steps.
    ///
    /// # Errors
    /// [`PlanError`] where one of them does not fit.
    pub fn with_reply(
        mut self,
        section: ReplySection,
        layers: &BTreeMap<StepId, ReplyLayer>,
    ) -> Result<Self, PlanError> {
        self.fields.reply = Some(section);
        for step in &mut self.fields.steps {
            if let (StepOp::Linear(linear), Some(layer)) = (&mut step.op, layers.get(&step.id)) {
                linear.correlation = Correlation::Reply(*layer);
            }
        }
        Self::try_from(self.fields)
    }
}
