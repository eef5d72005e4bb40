//! What a plan says of its lattice correlations.

use super::sharing::window;
use super::{Correlation, Plan, StepId, StepOp};
use crate::Digest;
use crate::lattice::{Hint, LatticeLayer, LatticeSet, LatticeStep, PublicSeed, Shared};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What all lattice correlations of a plan share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatticeSection {
    /// The parameter set.
    pub set: LatticeSet,
    /// The client's secrets for one inference.
    pub secrets: u32,
    /// Low bits that the client leaves out of a carrier.
    pub carrier_rounding: u32,
    /// Seed of the public polynomials.
    pub seed: PublicSeed,
    /// SHA-256 of the hint file.
    pub hint: Digest,
}

impl LatticeSection {
    /// The part of it that parameters depend on.
    #[must_use]
    pub const fn shared(&self) -> Shared {
        let Self { set, secrets, carrier_rounding, .. } = *self;
        Shared { set, secrets, carrier_rounding }
    }
}

/// The lattice correlations of a plan, laid out. Made once and used for many inferences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatticePlan {
    /// What they share.
    pub section: LatticeSection,
    /// The steps, in the order of the plan.
    pub steps: Vec<LatticeStep>,
    /// The secrets whose carriers travel with each step: those that no earlier step uses.
    pub carriers: Vec<Vec<usize>>,
}

impl LatticePlan {
    /// Bytes of the upload of step number `number` of [`Self::steps`]: a tag, carriers, inputs; none where it takes an earlier
    /// step's.
    #[must_use]
    pub fn upload_bytes(&self, number: usize) -> u64 {
        self.steps[number].message_bytes(self.carriers[number].len())
    }

    /// Bytes of the hint file.
    #[must_use]
    pub fn hint_bytes(&self) -> u64 {
        Hint::predicted_size(&self.steps)
    }
}

impl Plan {
    /// What its lattice correlations share, if it has any.
    #[must_use]
    pub fn lattice(&self) -> Option<&LatticeSection> {
        self.fields.lattice.as_ref()
    }

    /// Its lattice correlations, laid out.
    #[must_use]
    pub fn lattice_plan(&self) -> Option<LatticePlan> {
        let section = *self.lattice()?;
        let step = |step: &super::Step| {
            let StepOp::Linear(linear) = &step.op else { return None };
            let Correlation::Lattice(layer) = linear.correlation else { return None };
            let input = self.fact(step.inputs[0]);
            let place = (input.shape, input.ring);
            let window = window(self.steps(), self.values(), step.id)?;
            let kernel = (&linear.geometry, window);
            LatticeStep::new(step.id, layer, section.shared(), kernel, place)
        };
        let steps: Vec<_> = self.steps().iter().filter_map(step).collect();
        let mut carried = vec![false; section.secrets as usize];
        let carriers = steps.iter().map(|step| {
            let tiles = 0..step.layout().tiles().len();
            let secrets = tiles.map(|tile| step.secret_of(tile));
            secrets.filter(|&secret| !std::mem::replace(&mut carried[secret], true)).collect()
        });
        let carriers = carriers.collect();
        Some(LatticePlan { section, steps, carriers })
    }

    /// The plan with lattice correlations for these steps.
    ///
    /// # Errors
    /// [`super::PlanError`] where one of them does not fit.
    pub fn with_lattice(
        mut self,
        section: LatticeSection,
        layers: &BTreeMap<StepId, LatticeLayer>,
    ) -> Result<Self, super::PlanError> {
        self.fields.lattice = Some(section);
        for step in &mut self.fields.steps {
            if let (StepOp::Linear(linear), Some(layer)) = (&mut step.op, layers.get(&step.id)) {
                linear.correlation = Correlation::Lattice(*layer);
            }
        }
        Self::try_from(self.fields)
    }
}
