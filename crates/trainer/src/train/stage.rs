//! The parts of a run.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Plain training.
    Pretrain,
    /// Weights and alphas together.
    Search,
    /// The gates fixed.
    Finetune,
}

impl Stage {
    /// All stages in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Search, Self::Finetune];

    /// The name in configurations, metrics and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Search => "search",
            Self::Finetune => "finetune",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
