//! What a compilation weighed, and how much room its values have.

use crate::draft::Draft;
use crate::lattice::LatticeLayers;
use crate::lower::fitting;
use crate::{Allocation, CalibrationSource, Overflow, OverflowSummary};
use copriv_ir::{Correlation, LinearStep, Lowering, OtKind, Party, Ring, StepId, cost};
use std::fmt;

/// Beside the plan: for people and tests.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileReport {
    /// Where the ranges come from.
    pub calibration: CalibrationSource,
    /// How each layer's bits were chosen, where there was a budget.
    pub allocation: Option<Allocation>,
    /// Room of each value, by step.
    pub ranges: Vec<Range>,
    /// Why each value that is read stays in its ring, by step.
    pub overflows: Vec<Overflow>,
    /// What each linear step could have been, by step.
    pub choices: Vec<Choice>,
}

/// Bits that a step's value needs and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The step.
    pub step: StepId,
    /// Its layer.
    pub layer: String,
    /// Bits for the largest calibrated value, head room and sign included.
    pub needed: u32,
    /// The ring that it is in.
    pub ring: Ring,
}

/// The offline bytes of every way to do a linear step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The step.
    pub step: StepId,
    /// Its layer.
    pub layer: String,
    /// All ways: lowering, chooser, offline bytes. Every lowering that fits, whatever the settings allow.
    pub ways: Vec<(Lowering, Party, u64)>,
    /// Which of them the plan takes; none where it takes a lattice correlation.
    pub taken: Option<usize>,
}

impl CompileReport {
    /// The value with the least room.
    #[must_use]
    pub fn tightest(&self) -> Option<&Range> {
        self.ranges.iter().min_by_key(|range| range.ring.bits() - range.needed)
    }

    /// How sure it is that no value leaves its ring.
    #[must_use]
    pub fn overflow(&self) -> OverflowSummary {
        let images = match self.calibration {
            CalibrationSource::Images { count } | CalibrationSource::Noise { count, .. } => count,
        };
        OverflowSummary::of(&self.overflows, images)
    }
}

impl fmt::Display for CompileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Choice { layer, ways, taken, .. } in &self.choices {
            write!(f, "{layer:24}")?;
            for (number, (lowering, chooser, bytes)) in ways.iter().enumerate() {
                let mark = if Some(number) == *taken { '*' } else { ' ' };
                let megabytes = *bytes as f64 / 1e6;
                write!(f, " {mark}{lowering}, {chooser} chooses: {megabytes:.1} MB")?;
            }
            writeln!(f, "{}", if taken.is_none() { " *lattice" } else { "" })?;
        }
        for Overflow { step, layer, assurance } in &self.overflows {
            writeln!(f, "{layer:24} value {:3} stays in its ring: {assurance}", step.0)?;
        }
        match self.tightest() {
            Some(Range { layer, needed, ring, .. }) => {
                write!(f, "tightest: {layer} needs {needed} of {} bits", ring.bits())
            }
            None => Ok(()),
        }
    }
}

/// All ways to do each linear step of a finished draft.
pub(crate) fn choices(draft: &Draft, lattice: &LatticeLayers) -> Vec<Choice> {
    let choice = |(step, linear, input): (StepId, LinearStep, _)| {
        let ring = draft.plan().fact(draft.plan().steps()[step.0].inputs[0]).ring;
        let (kind, taken_chooser) = match linear.correlation {
            Correlation::Ot { kind, chooser } if !lattice.contains(&draft.layer(step)) => {
                (kind, Some(chooser))
            }
            Correlation::Ot { kind, .. } => (kind, None),
            Correlation::Lattice(_) | Correlation::Reply(_) => (OtKind::Iknp, None),
        };
        let options = fitting(&linear.geometry, input).into_iter().flat_map(|lowering| {
            [Party::Client, Party::Server].map(move |chooser| (lowering, chooser))
        });
        let ways: Vec<_> = options
            .map(|(lowering, chooser)| {
                let correlation = Correlation::Ot { kind, chooser };
                let way = LinearStep { lowering, correlation, ..linear };
                (lowering, chooser, cost::linear(&way, input, ring).0.traffic.bytes())
            })
            .collect();
        let is_taken =
            |way: &(Lowering, Party, u64)| (way.0, Some(way.1)) == (linear.lowering, taken_chooser);
        let taken = ways.iter().position(is_taken);
        Choice { step, layer: draft.plan().steps()[step.0].name.clone(), ways, taken }
    };
    draft.linear_steps().into_iter().map(choice).collect()
}
