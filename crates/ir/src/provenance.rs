//! Where an artefact came from.

use crate::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Enough to make the artefact again: what from, by which version, with which settings and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Digest of the artefact it was made from. `None` for a first artefact, and for a public
    /// one whose parent is secret: a digest would let anyone confirm a guess of the parent.
    pub parent: Option<Digest>,
    /// What made it: `train`, `prune`, `fuse`, ...
    pub stage: String,
    /// The complete settings, defaults included.
    pub config: Value,
    /// Seed of whatever was random.
    pub seed: Option<u64>,
    /// Version of CoPriv.
    pub version: String,
}

impl Provenance {
    /// Made by `stage` of this version of CoPriv with the settings `config`.
    #[must_use]
    pub fn new(stage: &str, parent: Option<Digest>, config: Value, seed: Option<u64>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { parent, stage: stage.to_owned(), config, seed, version }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (copriv {})", self.stage, self.version)?;
        if let Some(parent) = &self.parent {
            write!(f, " from {}", parent.short())?;
        }
        match self.seed {
            Some(seed) => write!(f, ", seed {seed}"),
            None => Ok(()),
        }
    }
}
