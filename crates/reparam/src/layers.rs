//! The network between checkpoint and fused model: no batch norms, gates resolved.

use crate::FuseError;
use crate::convolution::Convolution;
use crate::fold_batch_norm::{BatchNorm, fold_batch_norm};
use crate::merge_branches::merge_branches;
use crate::merge_convs::merge_convs;
use copriv_ir::{
    BlockInfo, Checkpoint, ConvGeometry, FusedLayer, FusedModel, FusedOp, Graph, LayerId, Node, Op,
    Provenance, Shape,
};
use std::collections::BTreeMap;

/// Layers, inputs before users, the last one the logits. Merging leaves layers without users
/// behind; [`Layers::into_model`] passes over them.
pub(crate) struct Layers {
    layers: Vec<Layer>,
}

struct Layer {
    name: String,
    op: LayerOp,
    inputs: Vec<usize>,
    /// Of the output.
    shape: Shape,
    /// The block of the trained network that it belongs to.
    block: Option<usize>,
}

enum LayerOp {
    Conv(Convolution),
    /// Everything that fusing leaves as it is.
    Other(FusedOp),
}

/// The removed blocks that are worth fusing: those around a depthwise convolution, whose products have
/// no factor in common and therefore cost the most.
///
/// A ResNet's blocks have dense kernels. Two 3x3 kernels with padding are not one convolution (see
/// `merge_convs.rs`), and a bottleneck as one 3x3 convolution would multiply many times more.
pub(crate) fn removed_inverted_residuals(checkpoint: &Checkpoint) -> Vec<BlockInfo> {
    let is_depthwise =
        |node: &Node| matches!(&node.op, Op::Conv(geometry) if geometry.is_depthwise());
    let graph = checkpoint.network().graph();
    let blocks = graph.blocks().iter().filter(|block| {
        block.is_residual
            && !checkpoint.gates().is_kept(block.gate)
            && graph.nodes()[block.nodes.clone()].iter().any(is_depthwise)
    });
    blocks.cloned().collect()
}

impl Layers {
    /// The checkpoint's graph: batch norms folded, absent activations left out.
    pub(crate) fn with_folded_batch_norms(checkpoint: &Checkpoint) -> Result<Self, FuseError> {
        let graph = checkpoint.network().graph();
        let mut layers: Vec<Layer> = Vec::new();
        let mut layer_of_node: Vec<usize> = Vec::new();
        for (id, node) in graph.nodes().iter().enumerate() {
            let inputs: Vec<usize> =
                node.inputs.iter().map(|input| layer_of_node[input.0]).collect();
            match (&node.op, inputs.as_slice()) {
                (Op::BatchNorm, [conv]) => {
                    fold(&mut layers[*conv], &batch_norm(checkpoint, node)?, node)?;
                    layer_of_node.push(*conv);
                }
                (Op::Activation(condition), [input]) if !checkpoint.gates().admit(*condition) => {
                    layer_of_node.push(*input);
                }
                _ => {
                    let op = layer_op(checkpoint, &graph, node)?;
                    let block = graph.blocks().iter().position(|block| block.nodes.contains(&id));
                    let (name, shape) = (node.name.clone(), node.shape);
                    layers.push(Layer { name, op, inputs, shape, block });
                    layer_of_node.push(layers.len() - 1);
                }
            }
        }
        Ok(Self { layers })
    }

    /// Merges each convolution of the block into the next one, where nothing else uses it.
    pub(crate) fn merge_convs(&mut self, block: &BlockInfo) {
        for id in self.of_block(block) {
            let LayerOp::Conv(second) = &self.layers[id].op else { continue };
            let [input] = self.layers[id].inputs[..] else { continue };
            let before = &self.layers[input];
            let LayerOp::Conv(first) = &before.op else { continue };
            if before.block != Some(block.gate.0) || self.users(input) != 1 {
                continue;
            }
            let Some(merged) = merge_convs(first, second) else { continue };
            let inputs = std::mem::take(&mut self.layers[input].inputs);
            let layer = &mut self.layers[id];
            (layer.op, layer.inputs) = (LayerOp::Conv(merged), inputs);
            layer.name.clone_from(&block.name);
        }
    }

    /// Merges the block's sum of a convolution and that convolution's input.
    pub(crate) fn merge_shortcut(&mut self, block: &BlockInfo) {
        for id in self.of_block(block) {
            let LayerOp::Other(FusedOp::Add) = self.layers[id].op else { continue };
            let [branch, shortcut] = self.layers[id].inputs[..] else { continue };
            let LayerOp::Conv(conv) = &self.layers[branch].op else { continue };
            if self.layers[branch].inputs != [shortcut] || self.users(branch) != 1 {
                continue;
            }
            let Some(merged) = merge_branches(conv, &Convolution::identity(conv.input)) else {
                continue;
            };
            let inputs = std::mem::take(&mut self.layers[branch].inputs);
            let layer = &mut self.layers[id];
            (layer.op, layer.inputs) = (LayerOp::Conv(merged), inputs);
            layer.name.clone_from(&block.name);
        }
    }

    /// The fused model: the layers that the logits depend on.
    pub(crate) fn into_model(self, checkpoint: &Checkpoint) -> Result<FusedModel, FuseError> {
        let is_used = self.ancestors_of_the_last();
        let (mut layers, mut tensors) = (Vec::new(), BTreeMap::new());
        let mut new_id = vec![LayerId(0); self.layers.len()];
        for (id, layer) in self.layers.into_iter().enumerate().filter(|(id, _)| is_used[*id]) {
            let Layer { name, op, inputs, shape, block } = layer;
            let op = match op {
                LayerOp::Other(op) => op,
                LayerOp::Conv(conv) => {
                    let not_finite = || FuseError::NotFinite { layer: name.clone() };
                    let (weight, bias) = conv.tensors().ok_or_else(not_finite)?;
                    tensors.insert(format!("{name}.weight"), weight);
                    tensors.insert(format!("{name}.bias"), bias);
                    FusedOp::Conv(conv.geometry)
                }
            };
            let inputs = inputs.iter().map(|&input| new_id[input]).collect();
            new_id[id] = LayerId(layers.len());
            layers.push(FusedLayer { name, op, inputs, shape, block });
        }
        let network = checkpoint.network().clone();
        let settings = serde_json::json!({});
        let provenance = Provenance::new("fuse", Some(checkpoint.digest()), settings, None);
        let mask = checkpoint.gates().mask();
        FusedModel::new(network, mask, layers, tensors, provenance).map_err(|found| {
            FuseError::Graph { layer: "the fused model".into(), expected: "a sound one", found }
        })
    }

    fn ancestors_of_the_last(&self) -> Vec<bool> {
        let mut is_used = vec![false; self.layers.len()];
        if let Some(last) = is_used.last_mut() {
            *last = true;
        }
        for (id, layer) in self.layers.iter().enumerate().rev() {
            if is_used[id] {
                layer.inputs.iter().for_each(|&input| is_used[input] = true);
            }
        }
        is_used
    }

    fn of_block(&self, block: &BlockInfo) -> Vec<usize> {
        let belongs = |id: &usize| self.layers[*id].block == Some(block.gate.0);
        (0..self.layers.len()).filter(belongs).collect()
    }

    fn users(&self, id: usize) -> usize {
        self.layers.iter().flat_map(|layer| &layer.inputs).filter(|&&input| input == id).count()
    }
}

fn layer_op(checkpoint: &Checkpoint, graph: &Graph, node: &Node) -> Result<LayerOp, FuseError> {
    let op = match &node.op {
        Op::Conv(geometry) => {
            let weight = parameter(checkpoint, node, "weight")?;
            let bias = vec![0.0; geometry.out_channels];
            let input = graph.nodes()[node.inputs[0].0].shape;
            return Ok(LayerOp::Conv(Convolution::new(*geometry, input, double(weight), &bias)));
        }
        Op::Linear { inputs, outputs } => {
            let geometry = ConvGeometry::fully_connected(*inputs, *outputs);
            let weight = double(parameter(checkpoint, node, "weight")?);
            let bias = double(parameter(checkpoint, node, "bias")?);
            let input = Shape::vector(*inputs);
            return Ok(LayerOp::Conv(Convolution::new(geometry, input, weight, &bias)));
        }
        Op::Input => FusedOp::Input,
        Op::Activation(_) => FusedOp::Activation(checkpoint.network().activation()),
        Op::Add => FusedOp::Add,
        Op::MaxPool { kernel, stride, padding } => {
            FusedOp::MaxPool { kernel: *kernel, stride: *stride, padding: *padding }
        }
        Op::GlobalAveragePool => FusedOp::GlobalAveragePool,
        Op::BatchNorm => return Err(lone_batch_norm(node)),
    };
    Ok(LayerOp::Other(op))
}

fn fold(layer: &mut Layer, norm: &BatchNorm, node: &Node) -> Result<(), FuseError> {
    let LayerOp::Conv(conv) = &mut layer.op else { return Err(lone_batch_norm(node)) };
    fold_batch_norm(conv, norm);
    Ok(())
}

fn lone_batch_norm(node: &Node) -> FuseError {
    let (layer, found) = (node.name.clone(), "a batch norm elsewhere".into());
    FuseError::Graph { layer, expected: "a batch norm after a convolution", found }
}

fn batch_norm<'a>(checkpoint: &'a Checkpoint, node: &Node) -> Result<BatchNorm<'a>, FuseError> {
    Ok(BatchNorm {
        weight: parameter(checkpoint, node, "weight")?,
        bias: parameter(checkpoint, node, "bias")?,
        running_mean: parameter(checkpoint, node, "running_mean")?,
        running_var: parameter(checkpoint, node, "running_var")?,
        epsilon: Graph::BATCH_NORM_EPSILON,
    })
}

fn parameter<'a>(
    checkpoint: &'a Checkpoint,
    node: &Node,
    suffix: &str,
) -> Result<&'a [f32], FuseError> {
    let name = format!("{}.{suffix}", node.name);
    checkpoint.tensor(&name).map(copriv_ir::Tensor::data).ok_or_else(|| FuseError::Graph {
        layer: name,
        expected: "a tensor",
        found: "none".into(),
    })
}

fn double(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}
