//! What alphas are when a search begins.

use super::check::{ConfigError, within};
use serde::{Deserialize, Serialize};

/// The searched alphas when the search begins: a number for every one, or `"importance"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Setting", into = "Setting")]
pub enum AlphaStart {
    /// All alike.
    Alike(f64),
    /// In proportion to how much the loss rises without each gate, the largest 1. Moved to the nearest ones within a limit of
    /// bytes they rank gates by rise less a price per byte, as the best set of `dp` does.
    Importance,
}

impl AlphaStart {
    const IMPORTANCE: &'static str = "importance";

    pub(super) fn check(self) -> Result<(), ConfigError> {
        match self {
            Self::Alike(alpha) => within("search.alpha_start", alpha, 0.0..=1.0),
            Self::Importance => Ok(()),
        }
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected 0 to 1 or \"importance\"")]
enum Setting {
    Number(f64),
    Name(String),
}

impl TryFrom<Setting> for AlphaStart {
    type Error = String;

    fn try_from(setting: Setting) -> Result<Self, String> {
        match setting {
            Setting::Number(alpha) => Ok(Self::Alike(alpha)),
            Setting::Name(name) if name == Self::IMPORTANCE => Ok(Self::Importance),
            Setting::Name(name) => {
                Err(format!("expected 0 to 1 or \"importance\", found {name:?}"))
            }
        }
    }
}

impl From<AlphaStart> for Setting {
    fn from(start: AlphaStart) -> Self {
        match start {
            AlphaStart::Alike(alpha) => Self::Number(alpha),
            AlphaStart::Importance => Self::Name(AlphaStart::IMPORTANCE.into()),
        }
    }
}
