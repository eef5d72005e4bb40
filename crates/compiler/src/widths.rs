//! Bits of weights and activations, layer by layer.

use copriv_ir::LayerId;
use serde::Serialize;

/// What mixed precision gives each layer of a model in place of the settings for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Widths {
    /// Bits of a convolution's largest weight, sign included; of no meaning for other layers.
    pub weights: Vec<u32>,
    /// Bits of a layer's largest calibrated value. Layers whose values share a format take the first one's.
    pub activations: Vec<u32>,
}

impl Widths {
    /// The same for all of so many layers.
    #[must_use]
    pub fn uniform(layers: usize, weight_bits: u32, activation_bits: u32) -> Self {
        Self { weights: vec![weight_bits; layers], activations: vec![activation_bits; layers] }
    }

    /// Bits of a layer's largest weight, if it is one of these.
    #[must_use]
    pub fn weight(&self, layer: LayerId) -> Option<u32> {
        self.weights.get(layer.0).copied()
    }

    /// Bits of a layer's largest value, if it is one of these.
    #[must_use]
    pub fn activation(&self, layer: LayerId) -> Option<u32> {
        self.activations.get(layer.0).copied()
    }
}
