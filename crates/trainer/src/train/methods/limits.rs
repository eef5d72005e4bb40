//! What the kept gates must stay within.

use crate::train::config::{ConfigError, SearchConfig};
use crate::train::gates::GateCosts;

/// What the kept gates must stay within; all of it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::train) struct Limits {
    /// Searched gates that may stay.
    pub(super) gates: usize,
    /// Bytes of an inference.
    pub(super) bytes: f64,
    /// Smallest alpha that may stay.
    pub(super) threshold: f32,
}

impl Limits {
    /// As `search` says, for a network of these costs; without a search none.
    ///
    /// # Errors
    /// [`ConfigError`] where no set of gates is within the budget.
    pub(in crate::train) fn new(
        search: Option<&SearchConfig>,
        costs: &GateCosts,
    ) -> Result<Self, ConfigError> {
        let searched = costs.searched().iter().filter(|&&searched| searched).count();
        let fraction = search.and_then(|search| search.budget).unwrap_or(1.0);
        let bytes = search.and_then(|search| search.budget_bytes).unwrap_or(f64::INFINITY);
        let smallest = costs.smallest();
        if bytes < smallest {
            let expected =
                format!("at least {:.0}, with all searched gates removed", smallest.ceil());
            return Err(ConfigError::value("search.budget_bytes", expected, bytes));
        }
        Ok(Self {
            gates: (fraction * searched as f64).round() as usize,
            bytes,
            threshold: search.and_then(|search| search.threshold).unwrap_or(0.0) as f32,
        })
    }
}
