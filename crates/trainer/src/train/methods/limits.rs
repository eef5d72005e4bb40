//! What the network must stay within.

use super::Method;
use super::uniform;
use crate::train::config::{ConfigError, SearchConfig};
use crate::train::gates::GateCosts;
use copriv_ir::Network;
use std::fmt;

/// What the network must stay within; all of it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::train) struct Limits {
    /// Searched gates that may stay.
    pub(super) gates: usize,
    /// Bytes of an inference.
    pub(super) bytes: f64,
    /// Activated values of an inference.
    pub(super) relus: u64,
    /// Smallest alpha that may stay.
    pub(super) threshold: f32,
}

impl Limits {
    /// Activated values of an inference.
    pub(in crate::train) fn relus(&self) -> u64 {
        self.relus
    }

    /// None.
    pub(super) const NONE: Self =
        Self { gates: usize::MAX, bytes: f64::INFINITY, relus: u64::MAX, threshold: 0.0 };

    /// As `search` says, for this network; without a search none.
    ///
    /// # Errors
    /// [`ConfigError`] where nothing is within the budget.
    pub(in crate::train) fn new(
        search: Option<&SearchConfig>,
        network: &Network,
        costs: &GateCosts,
    ) -> Result<Self, ConfigError> {
        let Some(search) = search else { return Ok(Self::NONE) };
        let found = costs.found();
        let fraction = search.budget.unwrap_or(1.0);
        let bytes = search.budget_bytes.unwrap_or(f64::INFINITY);
        let threshold = search.threshold.unwrap_or(0.0) as f32;
        match search.method {
            Method::Copriv | Method::Dp => {
                let searched = costs.searched().iter().filter(|&&searched| searched).count();
                let gates = (fraction * searched as f64).round() as usize;
                at_least("search.budget_bytes", bytes.floor(), costs.smallest().ceil(), REMOVED)?;
                Ok(Self { gates, bytes, threshold, ..Self::NONE })
            }
            Method::DeepReduce | Method::Snl | Method::SeNet => {
                let share = fraction * costs.relus(found.kept()) as f64;
                let relus = search.budget_relus.unwrap_or(u64::MAX).min(share as u64);
                let smallest = costs.relus(&costs.fixed());
                at_least("search.budget_relus", relus, smallest, REMOVED)?;
                Ok(Self { relus, ..Self::NONE })
            }
            Method::Uniform => {
                let bytes = bytes.min(fraction * costs.bytes(found.kept()).total());
                let smallest = uniform::smallest(network, found);
                at_least("search.budget", bytes.floor(), smallest.ceil(), "bytes at width 0.05")?;
                Ok(Self { bytes, ..Self::NONE })
            }
        }
    }
}

const REMOVED: &str = "with all searched gates removed";

fn at_least<T: PartialOrd + fmt::Display>(
    key: &str,
    found: T,
    smallest: T,
    when: &str,
) -> Result<(), ConfigError> {
    if found < smallest {
        let expected = format!("at least {smallest}, {when}");
        return Err(ConfigError::value(key, expected, found));
    }
    Ok(())
}
