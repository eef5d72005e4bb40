//! How a search finds the gates to keep: one file a method.
//!
//! | method | what decides | file |
//! |---|---|---|
//! | `copriv` | alphas trained along with the weights, within the limits; the largest stay | `copriv.rs` |
//! | `dp` | the rise in loss when a gate is removed, measured beforehand; the set that loses least | `dp.rs`, `importance.rs` |
//! | `deepreduce` | the same of single layers, for each activated value saved; the least critical go | `deepreduce.rs` |
//! | `snl` | alphas of single channels or values, trained under a penalty until few enough are left | `snl.rs`, `parts.rs` |
//! | `senet` | the importance of layers gives each its share of the activated values, alphas say which | `senet.rs`, `parts.rs` |
//! | `uniform` | nothing but the cost: a narrower network of the largest channels | `uniform.rs` |

mod copriv;
mod deepreduce;
mod dp;
mod importance;
mod limits;
mod parts;
mod senet;
mod snl;
mod uniform;

pub use importance::{Answer, GateImportance, Importances};

pub(super) use copriv::{by_importance, project, select};
pub(super) use deepreduce::drop_layers;
pub(super) use dp::choose;
pub(super) use importance::Probe;
pub(super) use limits::Limits;
pub(super) use parts::{Choice, PartSpace, finest, hard};
pub(super) use senet::{allocate, within};
pub(super) use snl::{above, largest, next_weight};
pub(super) use uniform::narrow;

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a search finds the gates to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Weights and one alpha a block trained together under a loss that charges bytes (arXiv 2311.01737).
    Copriv,
    /// The importance of each block measured beforehand, then the set that loses least by dynamic
    /// programming over the table of bytes (after arXiv 2301.12187 and 2406.12837).
    Dp,
    /// Whole layers lose their activations, the least critical for each activated value first
    /// (after DeepReDuce, arXiv 2103.01396).
    DeepReduce,
    /// Single channels or values lose their activations as their alphas fall under a penalty on the number of activated
    /// values (arXiv 2202.02340).
    Snl,
    /// Every layer keeps as many activated channels or values as its importance asks for (after arXiv 2301.09254).
    SeNet,
    /// All layers narrowed alike, their largest channels kept.
    Uniform,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Copriv, Self::Dp, Self::DeepReduce, Self::Snl, Self::SeNet, Self::Uniform];

    /// The name in configurations and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copriv => "copriv",
            Self::Dp => "dp",
            Self::DeepReduce => "deepreduce",
            Self::Snl => "snl",
            Self::SeNet => "senet",
            Self::Uniform => "uniform",
        }
    }

    /// The keys of the limits that it knows.
    #[must_use]
    pub const fn limits(self) -> &'static [&'static str] {
        match self {
            Self::Copriv => &["budget", "budget_bytes", "threshold"],
            Self::Dp | Self::Uniform => &["budget", "budget_bytes"],
            Self::DeepReduce | Self::Snl | Self::SeNet => &["budget", "budget_relus"],
        }
    }

    /// Whether alphas of gates are trained in the search's epochs.
    #[must_use]
    pub const fn trains_alphas(self) -> bool {
        matches!(self, Self::Copriv)
    }

    /// Whether single channels or values are chosen, by alphas of their own.
    #[must_use]
    pub const fn chooses_parts(self) -> bool {
        matches!(self, Self::Snl | Self::SeNet)
    }

    /// Whether it decides in the search's epochs. Other methods can before the first, so that there may be none.
    #[must_use]
    pub const fn needs_epochs(self) -> bool {
        matches!(self, Self::Copriv | Self::Snl)
    }

    /// Whether whole layers lose their activations, so that each has a gate.
    #[must_use]
    pub const fn needs_layers(self) -> bool {
        matches!(self, Self::DeepReduce | Self::Snl | Self::SeNet)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
