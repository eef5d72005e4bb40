//! What an inference gave and what it cost.

use copriv_ir::{CommTable, Phase};
use std::fmt;

/// The outcome of an inference, known to the client alone. No `Debug` of the logits.
pub struct Inference {
    pub(super) logits: Vec<i64>,
    pub(super) scale: u32,
    pub(super) comm: CommTable,
    pub(super) seconds: [f64; 3],
}

impl Inference {
    /// The logits: [`Self::fixed_point`] over `2^scale`.
    #[must_use]
    pub fn logits(&self) -> Vec<f64> {
        let unit = (-f64::from(self.scale)).exp2();
        self.logits.iter().map(|&logit| logit as f64 * unit).collect()
    }

    /// The logits as the plan computes them: signed integers with [`Self::scale`] fractional bits.
    #[must_use]
    pub fn fixed_point(&self) -> &[i64] {
        &self.logits
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
