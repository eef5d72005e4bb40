//! What is known of a value while a plan runs.

use crate::{Ring, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Position of a value in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub usize);

/// What both parties know of a value without seeing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Channels, height, width.
    pub shape: Shape,
    /// The ring of its shares.
    pub ring: Ring,
    /// Fractional bits: the element `x` stands for `x / 2^scale`.
    pub scale: u32,
    /// Whether its sign is known.
    pub sign: Sign,
    /// Who may see it.
    pub visibility: Visibility,
}

/// Knowledge of a value's sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Every element is zero or more, as after a ReLU.
    NonNegative,
    /// Nothing is known.
    Any,
}

/// Who may see a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// The client alone knows it: the image and the logits. As a share, the server's part is zero.
    Client,
    /// Additively shared; neither party knows it.
    Shared,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} scale {}", self.shape, self.ring, self.scale)
    }
}
