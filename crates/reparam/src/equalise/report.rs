//! What equalising does to rounded weights.

use super::channel_groups::{ChannelGroup, Fixed};
use copriv_ir::{FusedModel, WeightNoise, WeightScales};
use std::fmt;

/// What equalising did to the weights, layer by layer.
#[derive(Clone, Debug, PartialEq)]
pub struct EqualisationReport {
    /// Bits of a weight that the ratios are for.
    pub weight_bits: u32,
    /// Every convolution, in the model's order.
    pub layers: Vec<LayerNoise>,
    /// Layers whose output channels could not be scaled, and why; image and logits are not listed.
    pub skipped: Vec<(String, Fixed)>,
}

/// Signal-to-noise ratios of a layer's rounded weights, one scale for the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNoise {
    /// The layer.
    pub layer: String,
    /// As given.
    pub before: WeightNoise,
    /// Equalised.
    pub after: WeightNoise,
    /// As given, but with a scale for each output channel: what no change of the weights gives more of.
    pub per_channel: WeightNoise,
}

/// What equalising did to the weights of `before`.
pub(super) fn report(
    before: &FusedModel,
    after: &FusedModel,
    groups: &[ChannelGroup],
    weight_bits: u32,
) -> EqualisationReport {
    let noise = |model: &FusedModel, id: usize, scales: fn(&[f32], usize, u32) -> WeightScales| {
        let (geometry, weight, _) = model.conv(&model.layers()[id])?;
        let scales = scales(weight.data(), geometry.out_channels, weight_bits);
        Some(scales.noise(weight.data()))
    };
    let layer = |id: usize| {
        Some(LayerNoise {
            layer: before.layers()[id].name.clone(),
            before: noise(before, id, WeightScales::per_layer)?,
            after: noise(after, id, WeightScales::per_layer)?,
            per_channel: noise(before, id, WeightScales::per_channel)?,
        })
    };
    let skipped = groups.iter().filter_map(|group| match group.fixed {
        Some(Fixed::Relu6) => Some((group, Fixed::Relu6)),
        _ => None,
    });
    let names = skipped.flat_map(|(group, reason)| {
        group.producers.iter().map(move |&id| (before.layers()[id].name.clone(), reason))
    });
    EqualisationReport {
        weight_bits,
        layers: (0..before.layers().len()).filter_map(layer).collect(),
        skipped: names.collect(),
    }
}

impl EqualisationReport {
    /// The mean over the layers of one of the ratios.
    #[must_use]
    pub fn mean(&self, ratio: impl Fn(&LayerNoise) -> f64) -> f64 {
        self.layers.iter().map(ratio).sum::<f64>() / self.layers.len().max(1) as f64
    }
}

impl fmt::Display for EqualisationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] =
            [self.mean(|layer| layer.before.channels), self.mean(|layer| layer.after.channels)];
        write!(
            f,
            "weights of {} bits: a channel's signal-to-noise ratio {before:.1} dB before and {after:.1} dB \
             after equalising",
            self.weight_bits
        )
    }
}
