//! The trained network as a burn module, built from `ir`'s graph whatever its architecture.

mod forward;
mod layer;
mod links;
mod quantise;

pub(crate) use forward::Pass;
pub use forward::{GateValue, Mode};
pub(crate) use layer::{ParameterKind, ParameterVisitor};
pub(crate) use quantise::{Quantiser, Ranges};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::{Checkpoint, Gates, Graph, Network, Provenance};
use layer::Layer;
use std::collections::BTreeMap;

/// A network with its weights on a device: one layer for each node that has parameters, and one
/// alpha a gate.
#[derive(Module, Debug)]
pub struct Model {
    layers: Vec<Option<Layer>>,
    alphas: Param<Tensor<1>>,
    #[module(skip)]
    network: Network,
    #[module(skip)]
    graph: Graph,
}

impl Model {
    /// The network of `checkpoint`, with its weights and alphas, on `device`.
    ///
    /// For training, `device` is one with autodiff.
    #[must_use]
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Self {
        let network = checkpoint.network().clone();
        let graph = network.graph();
        let layer = |node| Layer::load(node, checkpoint, device);
        let layers = graph.nodes().iter().map(layer).collect();
        let alphas = checkpoint.gates().alphas().to_vec();
        let count = alphas.len();
        let alphas = Param::from_data(TensorData::new(alphas, [count]), device);
        Self { layers, alphas, network, graph }
    }

    /// Its weights and statistics as a checkpoint.
    ///
    /// `kept` says which gates survive.
    ///
    /// # Errors
    /// In words, where a weight or an alpha is not finite.
    pub fn to_checkpoint(
        &self,
        kept: &[bool],
        provenance: Provenance,
    ) -> Result<Checkpoint, String> {
        let gates = Gates::new(self.alphas(), kept.to_vec()).ok_or("an alpha is not finite")?;
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

    /// Shows `visitor` every trained parameter in a fixed order, alphas last.
    pub(crate) fn visit_parameters(&mut self, visitor: &mut impl ParameterVisitor) {
        for (layer, node) in self.layers.iter_mut().zip(self.graph.nodes()) {
            if let Some(layer) = layer {
                layer.visit(&node.name, visitor);
            }
        }
        visitor.visit("alphas", ParameterKind::Alpha, &mut self.alphas);
    }
}

/// A parameter with another value, trained like before.
pub(crate) fn replaced<const D: usize>(id: ParamId, value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(id, Tensor::from_inner(value).require_grad())
}

/// The elements of a tensor on the host.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().unwrap_or_default()
}
