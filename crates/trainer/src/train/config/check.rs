//! What is wrong with a configuration.

use std::fmt;
use std::ops::RangeInclusive;

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("{name} is no training configuration: {reason}")]
    Parse { name: String, reason: String },
    #[error("`--set {setting}`: {reason}")]
    Override { setting: String, reason: String },
    #[error("{key}: expected {expected}, found {found}")]
    Value { key: String, expected: String, found: String },
}

impl ConfigError {
    pub(in crate::train) fn value(
        key: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Value { key: key.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Refuses what lies outside the range, NaN included.
pub(super) fn within(key: &str, found: f64, range: RangeInclusive<f64>) -> Result<(), ConfigError> {
    if range.contains(&found) {
        return Ok(());
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(ConfigError::value(key, expected, found))
}
