//! The trained network as a burn module, built from `ir`'s graph whatever its architecture.

mod forward;
mod layer;
mod links;
mod merge;
mod mismatch;
mod quantise;

pub(crate) use forward::Pass;
pub use forward::{GateValue, Mode};
pub(crate) use layer::{ParameterKind, ParameterVisitor};
pub(crate) use mismatch::Mismatch;
pub(crate) use quantise::{Quantiser, Ranges, foreign_layer};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::{ActivationMask, Checkpoint, Gates, Graph, Network, NodeId, Provenance};
use layer::Layer;
use std::collections::BTreeMap;

/// A network with its weights on a device: one layer for each node that has parameters, one alpha a gate, and, for
/// activations that apply in part, weights of their channels or values.
#[derive(Module, Debug)]
pub struct Model {
    layers: Vec<Option<Layer>>,
    alphas: Param<Tensor<1>>,
    /// By node: one for each channel of its map, or for each value. Where there are none, all are activated.
    parts: Vec<Option<Param<Tensor<1>>>>,
    /// Whether those are trained; else they are masks.
    #[module(skip)]
    trains_parts: bool,
    #[module(skip)]
    network: Network,
    #[module(skip)]
    graph: Graph,
}

impl Model {
    /// The network of `checkpoint`, with its weights, alphas and masks, on `device`.
    ///
    /// For training, `device` is one with autodiff.
    #[must_use]
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Self {
        let network = checkpoint.network().clone();
        let graph = network.graph();
        let layer = |node| Layer::load(node, checkpoint, device);
        let layers = graph.nodes().iter().map(layer).collect();
        let alphas = vector(checkpoint.gates().alphas().to_vec(), device);
        let part = |node: &copriv_ir::Node| {
            let mask = checkpoint.gates().part(&node.name)?;
            let weights = mask.bits().iter().map(|&bit| f32::from(u8::from(bit))).collect();
            Some(vector(weights, device))
        };
        let parts = graph.nodes().iter().map(part).collect();
        Self { layers, alphas, parts, trains_parts: false, network, graph }
    }

    /// Its weights and statistics as a checkpoint.
    ///
    /// `kept` says which gates survive, `masks` which of their activations apply in part, and where; masks of others
    /// are left out.
    ///
    /// # Errors
    /// In words, where a weight or an alpha is not finite.
    pub fn to_checkpoint(
        &self,
        kept: &[bool],
        masks: &Masks,
        provenance: Provenance,
    ) -> Result<Checkpoint, String> {
        let gates = Gates::new(self.alphas(), kept.to_vec()).ok_or("an alpha is not finite")?;
        let nodes = self.graph.nodes().iter().filter(|node| gates.activated(node) > 0);
        let parts =
            nodes.filter_map(|node| Some((node.name.clone(), masks.get(&node.name)?.clone())));
        let parts = parts.collect();
        let gates = gates.with_parts(parts);
        let mut tensors = BTreeMap::new();
        for (layer, node) in self.layers.iter().zip(self.graph.nodes()) {
            if let Some(layer) = layer {
                layer.save(&node.name, &mut tensors);
            }
        }
        Checkpoint::new(self.network.clone(), gates, tensors, provenance)
    }

    /// Which network this is.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its operations.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Importance of each gate.
    #[must_use]
    pub fn alphas(&self) -> Vec<f32> {
        values(self.alphas.val())
    }

    /// The alphas as a tensor that gradients reach.
    #[must_use]
    pub fn alpha_tensor(&self) -> Tensor<1> {
        self.alphas.val()
    }

    /// Replaces all alphas; one for each gate.
    pub fn set_alphas(&mut self, alphas: &[f32]) {
        let data = TensorData::new(alphas.to_vec(), [alphas.len()]);
        self.alphas = Param::from_data(data, &self.alphas.val().device());
    }

    /// The weights of single channels or values, by node, as tensors that gradients reach.
    pub(crate) fn part_tensors(&self) -> PartTensors {
        let parts = self.parts.iter().enumerate();
        parts.filter_map(|(id, part)| Some((NodeId(id), part.as_ref()?.val()))).collect()
    }

    /// The same on the host.
    pub(crate) fn part_weights(&self) -> PartWeights {
        self.part_tensors().into_iter().map(|(id, weights)| (id, values(weights))).collect()
    }

    /// Replaces all weights of single channels or values, to be trained or not.
    pub(crate) fn set_parts(&mut self, weights: &PartWeights, trained: bool) {
        let device = self.alphas.val().device();
        let part = |id| Some(vector(weights.get(&NodeId(id))?.clone(), &device));
        self.parts = (0..self.parts.len()).map(part).collect();
        self.trains_parts = trained;
    }

    /// Running mean and variance of every batch norm, in a fixed order.
    pub(crate) fn statistics(&self) -> Vec<Tensor<1>> {
        let layers = self.layers.iter().flatten();
        layers.flat_map(Layer::statistics).map(|state| state.value_sync()).collect()
    }

    /// Replaces what [`Self::statistics`] gave; also those of clones, which share them.
    pub(crate) fn set_statistics(&self, values: Vec<Tensor<1>>) {
        let layers = self.layers.iter().flatten();
        for (state, value) in layers.flat_map(Layer::statistics).zip(values) {
            state.update(value);
            state.value_sync();
        }
    }

    /// A copy on another device, for training, that shares nothing with this one.
    pub(crate) fn replica(&self, device: &Device) -> Self {
        self.valid().to_device(&device.clone().inner()).train()
    }

    /// Shows `visitor` every trained parameter in a fixed order, alphas and weights of single channels or values last.
    pub(crate) fn visit_parameters(&mut self, visitor: &mut impl ParameterVisitor) {
        for (layer, node) in self.layers.iter_mut().zip(self.graph.nodes()) {
            if let Some(layer) = layer {
                layer.visit(&node.name, visitor);
            }
        }
        visitor.visit("alphas", ParameterKind::Alpha, &mut self.alphas);
        if !self.trains_parts {
            return;
        }
        for (part, node) in self.parts.iter_mut().zip(self.graph.nodes()) {
            if let Some(part) = part {
                visitor.visit(&format!("{}.alphas", node.name), ParameterKind::Part, part);
            }
        }
    }
}

/// Masks of activations in part, by the activation's name.
pub type Masks = BTreeMap<String, ActivationMask>;

/// The weights of the channels or values of activations, by node.
pub(crate) type PartWeights = BTreeMap<NodeId, Vec<f32>>;

/// The same as tensors.
pub(crate) type PartTensors = BTreeMap<NodeId, Tensor<1>>;

fn vector(values: Vec<f32>, device: &Device) -> Param<Tensor<1>> {
    let count = values.len();
    Param::from_data(TensorData::new(values, [count]), device)
}

/// A parameter with another value, trained like before.
pub(crate) fn replaced<const D: usize>(id: ParamId, value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(id, Tensor::from_inner(value).require_grad())
}

/// The elements of a tensor on the host.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().unwrap_or_default()
}
