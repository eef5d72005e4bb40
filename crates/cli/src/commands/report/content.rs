//! What a report shows, as its page reads it.

use copriv_ir::{Activation, FusedLayer, FusedModel, FusedOp};
use copriv_trainer::train::{EpochMetrics, SearchMetrics};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Everything on the page, in the order in which it was given.
#[derive(Default, Serialize)]
pub struct Content {
    pub trainings: Vec<Training>,
    pub networks: Vec<Drawing>,
    pub plans: Vec<PlanEntry>,
}

/// One training run: its epochs over all stages.
#[derive(Serialize)]
pub struct Training {
    pub name: String,
    pub epochs: Vec<EpochMetrics>,
    /// What its method measured and chose before it trained, if it did.
    pub search: Option<SearchMetrics>,
}

/// A plan as `inspect --json` prints it, each step with its block, and its accuracy where it was measured.
#[derive(Serialize)]
pub struct PlanEntry {
    pub name: String,
    pub plan: Value,
    /// One a step.
    pub blocks: Vec<String>,
    pub accuracy: Option<Evaluation>,
}

/// What `copriv eval --json` printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Evaluation {
    pub dataset: String,
    pub count: usize,
    pub top1: f64,
}

/// A fused network, block by block.
#[derive(Serialize)]
pub struct Drawing {
    pub name: String,
    pub network: String,
    pub mask: String,
    pub accuracy: Option<Evaluation>,
    pub blocks: Vec<Block>,
}

/// Layers with a common name.
#[derive(Serialize)]
pub struct Block {
    pub name: String,
    /// Whether a gate of the network governs it, and in what state: kept or fused.
    pub kept: Option<bool>,
    pub layers: Vec<Layer>,
    /// Of the last layer: channels, height, width.
    pub shape: String,
    pub mega_multiplications: f64,
}

#[derive(Serialize)]
pub struct Layer {
    pub kind: &'static str,
    pub text: String,
}

impl Content {
    pub fn is_empty(&self) -> bool {
        self.trainings.is_empty() && self.networks.is_empty() && self.plans.is_empty()
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trainings, networks, plans } = self;
        let counts = [(trainings.len(), "training run"), (networks.len(), "fused model")];
        for (count, what) in counts {
            write!(f, "{count} {what}{}, ", if count == 1 { "" } else { "s" })?;
        }
        write!(f, "{} plan{}", plans.len(), if plans.len() == 1 { "" } else { "s" })
    }
}

impl Drawing {
    pub fn new(name: String, model: &FusedModel, accuracy: Option<Evaluation>) -> Self {
        let layers = model.layers();
        let mut blocks: Vec<Block> = vec![];
        for layer in layers.iter().filter(|layer| layer.op != FusedOp::Input) {
            let name = block_name(&layer.name);
            if blocks.last().is_none_or(|block| block.name != name) {
                let kept = layer.block.and_then(|gate| model.mask().as_bytes().get(gate));
                let kept = kept.map(|&digit| digit == b'1');
                blocks.push(Block {
                    name,
                    kept,
                    layers: vec![],
                    shape: String::new(),
                    mega_multiplications: 0.0,
                });
            }
            let input = layer.inputs.first().map(|&input| layers[input.0].shape);
            if let (Some(block), Some(input)) = (blocks.last_mut(), input) {
                if let FusedOp::Conv(geometry) = &layer.op {
                    block.mega_multiplications += geometry.multiplications(input) as f64 / 1e6;
                }
                block.layers.push(Layer::new(layer));
                block.shape = layer.shape.to_string();
            }
        }
        let (network, mask) = (model.network().to_string(), model.mask().to_owned());
        Self { name, network, mask, accuracy, blocks }
    }
}

impl Layer {
    fn new(layer: &FusedLayer) -> Self {
        let (kind, text) = match &layer.op {
            FusedOp::Input => ("input", "input".into()),
            FusedOp::Conv(geometry) => ("conv", geometry.to_string()),
            FusedOp::Activation(function) => {
                let count = format!("{} {}", activation(*function), layer.activated());
                let text = match &layer.mask {
                    Some(mask) => format!("{count} of {}", mask.shape().elements()),
                    None => count,
                };
                ("activation", text)
            }
            FusedOp::Add => ("add", "+".into()),
            FusedOp::MaxPool { kernel, stride, .. } => {
                ("pool", format!("max {kernel}x{kernel} /{stride}"))
            }
            FusedOp::GlobalAveragePool => ("pool", "mean".into()),
        };
        Self { kind, text }
    }
}

fn activation(function: Activation) -> &'static str {
    match function {
        Activation::Relu => "ReLU",
        Activation::Relu6 => "ReLU6",
    }
}

/// The block that a layer's name stands in: its first two words, as in `features.4` or `layer1.0`.
pub fn block_name(layer: &str) -> String {
    layer.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_a_block_share_its_name() {
        for (layer, block) in [
            ("features.4.conv.1.0", "features.4"),
            ("layer1.0.conv2", "layer1.0"),
            ("input", "input"),
        ] {
            assert_eq!(block_name(layer), block);
        }
    }
}
