//! How many bits weights and values have where each layer may have its own.

use crate::Plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Bits of weights and values under mixed precision: what a plan is compiled with, and what fine-tuning rounds to that prepares a
/// network for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widths {
    /// Bits of a layer's largest weight, sign included.
    pub weight_bits: u32,
    /// Bits of a layer's largest calibrated value; head room and sign come on top.
    pub activation_bits: u32,
    /// Layers that have bits of their own, if there are any.
    #[serde(default, rename = "widths", skip_serializing_if = "Option::is_none")]
    pub layers: Option<LayerWidths>,
}

/// Bits by the names of a fused model's layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerWidths {
    /// Of a convolution's largest weight.
    pub weights: BTreeMap<String, u32>,
    /// Of the largest value of all layers that share a format, by the first of them.
    pub activations: BTreeMap<String, u32>,
}

impl Widths {
    /// What a width can be.
    pub const RANGE: RangeInclusive<u32> = 2..=24;

    /// The same for all layers.
    #[must_use]
    pub const fn uniform(weight_bits: u32, activation_bits: u32) -> Self {
        Self { weight_bits, activation_bits, layers: None }
    }

    /// Those that a plan was compiled with. `None` where precision is uniform, and of plans that another version made.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Option<Self> {
        let settings = plan.provenance().config.get("settings")?;
        if settings.get("precision")? != "mixed" {
            return None;
        }
        let widths: Self = serde_json::from_value(settings.clone()).ok()?;
        let is_possible = widths.all().all(|bits| Self::RANGE.contains(&bits));
        is_possible.then_some(widths)
    }

    /// Bits of the largest weight of the layer of this name.
    #[must_use]
    pub fn weight(&self, layer: &str) -> u32 {
        let own = self.layers.as_ref().and_then(|layers| layers.weights.get(layer));
        own.copied().unwrap_or(self.weight_bits)
    }

    /// Bits of the largest value among the layers that share a format, the first of which has this name.
    #[must_use]
    pub fn activation(&self, layer: &str) -> u32 {
        let own = self.layers.as_ref().and_then(|layers| layers.activations.get(layer));
        own.copied().unwrap_or(self.activation_bits)
    }

    /// A layer that has bits of its own but is none of those whose names satisfy `is_layer`.
    #[must_use]
    pub fn foreign_layer(&self, is_layer: impl Fn(&str) -> bool) -> Option<&str> {
        let layers = self.layers.iter();
        let mut names =
            layers.flat_map(|layers| layers.weights.keys().chain(layers.activations.keys()));
        names.find(|name| !is_layer(name)).map(String::as_str)
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        let layers = self.layers.iter();
        let own =
            layers.flat_map(|layers| layers.weights.values().chain(layers.activations.values()));
        [self.weight_bits, self.activation_bits].into_iter().chain(own.copied())
    }
}
