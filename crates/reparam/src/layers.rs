//! The network between checkpoint and fused model: no batch norms, gates resolved.

use crate::FuseError;
use crate::convolution::Convolution;
use crate::fold_batch_norm::{BatchNorm, fold_batch_norm};
use copriv_ir::{ActivationMask, Checkpoint, ConvGeometry, FusedOp, Graph, Node, Op, Shape};
use rayon::prelude::*;

/// One operation, named after its parameters.
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) op: LayerOp,
    /// Earlier layers, by number.
    pub(crate) inputs: Vec<usize>,
    /// Of the output.
    pub(crate) shape: Shape,
    /// The block of the trained network that it belongs to.
    pub(crate) block: Option<usize>,
    /// The values that an activation applies to, where that is not all.
    pub(crate) mask: Option<ActivationMask>,
}

pub(crate) enum LayerOp {
    Conv(Convolution),
    /// Everything that fusing leaves as it is.
    Other(FusedOp),
}

/// The checkpoint's graph, inputs before users, the last one the logits: batch norms folded, absent
/// activations left out. An activation that applies to some values is there like any other.
pub(crate) fn layers(checkpoint: &Checkpoint) -> Result<Vec<Layer>, FuseError> {
    let graph = checkpoint.network().graph();
    let mut layers: Vec<Layer> = Vec::new();
    let mut norm_of_layer: Vec<Option<&Node>> = Vec::new();
    let mut layer_of_node: Vec<usize> = Vec::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let inputs: Vec<usize> = node.inputs.iter().map(|input| layer_of_node[input.0]).collect();
        match (&node.op, inputs.as_slice()) {
            (Op::BatchNorm, [conv]) => {
                norm_of_layer[*conv] = Some(node);
                layer_of_node.push(*conv);
            }
            (Op::Activation(condition), [input]) if !checkpoint.gates().admit(*condition) => {
                layer_of_node.push(*input);
            }
            _ => {
                let op = layer_op(checkpoint, &graph, node)?;
                let block = graph.blocks().iter().position(|block| block.nodes.contains(&id));
                let (name, shape) = (node.name.clone(), node.shape);
                let mask = checkpoint.gates().part(&name).cloned();
                layers.push(Layer { name, op, inputs, shape, block, mask });
                norm_of_layer.push(None);
                layer_of_node.push(layers.len() - 1);
            }
        }
    }
    let pairs = layers.par_iter_mut().zip(norm_of_layer);
    pairs.try_for_each(|(layer, norm)| match norm {
        Some(node) => fold(layer, &batch_norm(checkpoint, node)?, node),
        None => Ok(()),
    })?;
    Ok(layers)
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
