//! What must hold of a plan's lattice correlations.

use super::{Correlation, Fact, LatticeSection, Lowering, Step, StepOp};
use crate::lattice::{LatticeStep, MOST_SECRETS};

/// Largest expected number of outputs at risk under a secret: three draws on average.
const MOST_RISK: f64 = 1.1;

/// Largest roundings and norm that a plan may speak of, against hostile numbers.
const MOST_ROUNDING: u32 = 40;
const MOST_NORM: u32 = 120;

/// Sums up the risks of a plan's secrets while its steps are checked.
pub(super) struct LatticeCheck<'a> {
    section: Option<&'a LatticeSection>,
    risks: Vec<f64>,
    steps: usize,
}

impl<'a> LatticeCheck<'a> {
    /// For a plan with this section.
    pub(super) fn new(section: Option<&'a LatticeSection>) -> Result<Self, String> {
        let secrets = section.map_or(0, |section| section.secrets);
        if section.is_some_and(|section| {
            !(1..=MOST_SECRETS).contains(&section.secrets)
                || section.carrier_rounding > MOST_ROUNDING
        }) {
            return Err(format!(
                "lattice correlations take 1 to {MOST_SECRETS} secrets and carriers rounded by at most \
                 {MOST_ROUNDING} bits"
            ));
        }
        Ok(Self { section, risks: vec![0.0; secrets as usize], steps: 0 })
    }

    /// One step of the plan with the fact of its input.
    pub(super) fn step(&mut self, step: &Step, input: Option<&&Fact>) -> Result<(), String> {
        let (StepOp::Linear(linear), Some(input)) = (&step.op, input) else { return Ok(()) };
        let Correlation::Lattice(layer) = linear.correlation else { return Ok(()) };
        let section = self.section.ok_or("the plan says nothing of its lattice correlations")?;
        if linear.lowering != Lowering::Direct {
            return Err(format!("a lattice correlation has no lowering {}", linear.lowering));
        }
        let (set, ring) = (section.set, input.ring);
        let rounding = layer.input_rounding.max(layer.hint_rounding);
        if layer.first_secret >= section.secrets
            || rounding > MOST_ROUNDING
            || layer.log_norm > MOST_NORM
            || layer.slots == 0
            || ring.bits() + layer.input_rounding >= set.modulus_bits()
        {
            return Err(format!("{layer:?} does not fit {ring} in {set}"));
        }
        let place = (input.shape, ring);
        let step = LatticeStep::new(step.id, layer, section.shared(), &linear.geometry, place)
            .ok_or_else(|| {
                format!("{} on {} has no lattice layout", linear.geometry, input.shape)
            })?;
        if step.layout().tiles().len() > section.secrets as usize {
            let tiles = step.layout().tiles().len();
            return Err(format!("{tiles} tiles for {} secrets", section.secrets));
        }
        self.steps += 1;
        for (secret, risk) in step.risks() {
            self.risks[secret] += risk;
            if self.risks[secret] > MOST_RISK {
                return Err("too many outputs are at risk under one lattice secret".into());
            }
        }
        Ok(())
    }

    /// After all steps.
    pub(super) fn finish(self) -> Result<(), String> {
        if self.section.is_some() && self.steps == 0 {
            return Err("speaks of lattice correlations but has none".into());
        }
        Ok(())
    }
}
