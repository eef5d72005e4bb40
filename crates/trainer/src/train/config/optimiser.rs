//! How weights move, and what keeps them from learning the training images by heart.

use super::check::{ConfigError, within};
use serde::{Deserialize, Serialize};

/// What makes a step out of a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Nesterov momentum.
    Sgd,
    /// Adam with decoupled weight decay (arXiv 1711.05101); alphas move by SGD all the same.
    AdamW,
}

/// The optimiser, and the loss on labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// `sgd` or `adamw`.
    pub algorithm: Algorithm,
    /// Nesterov momentum of SGD.
    pub momentum: f64,
    /// Decay of AdamW's mean gradient.
    pub beta1: f64,
    /// Decay of AdamW's mean squared gradient.
    pub beta2: f64,
    /// Added to the root of AdamW's mean squared gradient.
    pub epsilon: f64,
    /// Decay of the weights of convolutions and fully connected layers; nothing else decays.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; a larger one is scaled down. 0 for no limit.
    pub clip_norm: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Share of the features before the last layer that is left out.
    pub dropout: f64,
    /// What a running mean of the weights keeps at each step; 0 for none. With one, it is the mean that is
    /// measured, kept in checkpoints, and taken on to the next stage.
    pub ema: f64,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Sgd,
            momentum: 0.9,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 1e-5,
            clip_norm: 0.0,
            label_smoothing: 0.1,
            dropout: 0.0,
            ema: 0.0,
        }
    }
}

impl OptimiserConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("optimiser.momentum", self.momentum, 0.0..=0.999)?;
        within("optimiser.beta1", self.beta1, 0.0..=0.9999)?;
        within("optimiser.beta2", self.beta2, 0.0..=0.999_999)?;
        within("optimiser.epsilon", self.epsilon, 1e-16..=1.0)?;
        within("optimiser.weight_decay", self.weight_decay, 0.0..=1.0)?;
        within("optimiser.clip_norm", self.clip_norm, 0.0..=1e9)?;
        within("optimiser.label_smoothing", self.label_smoothing, 0.0..=0.9)?;
        within("optimiser.dropout", self.dropout, 0.0..=0.9)?;
        within("optimiser.ema", self.ema, 0.0..=0.999_999)
    }
}
