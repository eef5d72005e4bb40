//! What an inference gave and what it cost.

use copriv_ir::{CommTable, Phase};
use std::fmt;

/// The outcome of an inference, known to the client alone. No `Debug` of the logits or the class.
pub struct Inference {
    pub(super) revealed: Vec<i64>,
    pub(super) class: Option<usize>,
    pub(super) scale: u32,
    pub(super) comm: CommTable,
    pub(super) seconds: [f64; 3],
}

impl Inference {
    /// The logits: [`Self::fixed_point`] over `2^scale`. None where the plan reveals the class alone.
    #[must_use]
    pub fn logits(&self) -> Vec<f64> {
        if self.class.is_some() {
            return Vec::new();
        }
        let unit = (-f64::from(self.scale)).exp2();
        self.revealed.iter().map(|&logit| logit as f64 * unit).collect()
    }

    /// The class, where the plan reveals that and no logits ([`copriv_ir::Answer::Class`]).
    #[must_use]
    pub fn class(&self) -> Option<usize> {
        self.class
    }

    /// What the plan reveals: the logits as signed integers with [`Self::scale`] fractional bits, or the class's digits
    /// as elements of `Z_2`, 0 or -1.
    #[must_use]
    pub fn fixed_point(&self) -> &[i64] {
        &self.revealed
    }

    /// Fractional bits of the logits.
    #[must_use]
    pub fn scale(&self) -> u32 {
        self.scale
    }

    /// The measured traffic of this inference; the session's setup is booked on its first one.
    #[must_use]
    pub fn comm(&self) -> &CommTable {
        &self.comm
    }

    /// Wall-clock seconds of this inference in a phase; the session's setup counts for its first one.
    #[must_use]
    pub fn seconds(&self, phase: Phase) -> f64 {
        match phase {
            Phase::Setup => self.seconds[0],
            Phase::Offline => self.seconds[1],
            Phase::Online => self.seconds[2],
        }
    }
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference")
            .field("scale", &self.scale)
            .field("comm", &self.comm)
            .field("seconds", &self.seconds)
            .finish_non_exhaustive()
    }
}
