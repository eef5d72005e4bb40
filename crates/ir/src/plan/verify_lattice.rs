//! What must hold of a plan's lattice correlations.

use super::sharing::window;
use super::{Correlation, Fact, LatticeSection, Lowering, ReplySection, Step, StepId, StepOp};
use crate::ConvGeometry;
use crate::lattice::{
    LatticeLayer, LatticeSet, LatticeStep, MOST_SECRETS, ReplyLayer, ReplyStep, Window,
};

/// Largest expected number of outputs at risk under a secret: three draws on average.
const MOST_RISK: f64 = 1.1;

/// Largest roundings and norm that a plan may speak of, against hostile numbers.
const MOST_ROUNDING: u32 = LatticeLayer::MOST_ROUNDING;
const MOST_REPLY_ROUNDING: u32 = 104;
const MOST_NORM: u32 = 120;

/// Sums up the risks of a plan's secrets while its steps are checked.
pub(super) struct LatticeCheck<'a> {
    section: Option<&'a LatticeSection>,
    reply: Option<&'a ReplySection>,
    risks: Vec<f64>,
    steps: usize,
    replies: usize,
}

impl<'a> LatticeCheck<'a> {
    /// For a plan with these sections.
    pub(super) fn new(
        section: Option<&'a LatticeSection>,
        reply: Option<&'a ReplySection>,
    ) -> Result<Self, String> {
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
        if let Some(section) = section.filter(|one| !LatticeSet::HINTS.contains(&one.set)) {
            return Err(format!("there are no hints of {}", section.set));
        }
        if reply.is_some_and(|reply| reply.carrier_rounding > MOST_REPLY_ROUNDING) {
            return Err(format!(
                "carriers of correlations with a reply are rounded by at most {MOST_REPLY_ROUNDING} bits"
            ));
        }
        let risks = vec![0.0; secrets as usize];
        Ok(Self { section, reply, risks, steps: 0, replies: 0 })
    }

    /// One step of these with the fact of its input.
    pub(super) fn step(
        &mut self,
        (steps, values): (&[Step], &[Fact]),
        step: &Step,
        input: Option<&&Fact>,
    ) -> Result<(), String> {
        let (StepOp::Linear(linear), Some(input)) = (&step.op, input) else { return Ok(()) };
        if !matches!(linear.correlation, Correlation::Ot { .. })
            && linear.lowering != Lowering::Direct
        {
            return Err(format!("a lattice correlation has no lowering {}", linear.lowering));
        }
        let window = window(steps, values, step.id);
        let kernel = (&linear.geometry, window.unwrap_or(Window::own(step.id, &linear.geometry)));
        match linear.correlation {
            Correlation::Ot { .. } => Ok(()),
            Correlation::Lattice(layer) => self.hinted((step.id, kernel), layer, input),
            Correlation::Reply(layer) => self.replied((step.id, kernel), layer, input),
        }
    }

    fn hinted(
        &mut self,
        (id, kernel): (StepId, (&ConvGeometry, Window)),
        layer: LatticeLayer,
        input: &Fact,
    ) -> Result<(), String> {
        let section = self.section.ok_or("the plan says nothing of its lattice correlations")?;
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
        let step = LatticeStep::new(id, layer, section.shared(), kernel, place)
            .ok_or_else(|| format!("{} on {} has no lattice layout", kernel.0, input.shape))?;
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

    fn replied(
        &mut self,
        (id, kernel): (StepId, (&ConvGeometry, Window)),
        layer: ReplyLayer,
        input: &Fact,
    ) -> Result<(), String> {
        let section = self.reply.ok_or("the plan says nothing of its correlations with a reply")?;
        if layer.input_rounding > MOST_REPLY_ROUNDING || layer.log_norm > MOST_NORM {
            return Err(format!("{layer:?} is absurd"));
        }
        let place = (input.shape, input.ring);
        ReplyStep::new(id, layer, section.carrier_rounding, kernel, place)
            .map_err(|unfit| format!("has no correlation with a reply: {unfit}"))?;
        self.replies += 1;
        Ok(())
    }

    /// After all steps.
    pub(super) fn finish(self) -> Result<(), String> {
        if self.section.is_some() && self.steps == 0 {
            return Err("speaks of lattice correlations but has none".into());
        }
        if self.reply.is_some() && self.replies == 0 {
            return Err("speaks of correlations with a reply but has none".into());
        }
        Ok(())
    }
}
