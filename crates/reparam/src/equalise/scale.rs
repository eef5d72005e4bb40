//! Scales in a network before it is fused: put into batch norms, and taken out of the weights that read their values.

use super::channel_groups::{root, unite};
use super::shifts::{power, scale_weight};
use crate::FuseError;
use copriv_ir::{Checkpoint, ConvGeometry, FusedLayer, FusedModel, Graph, Op, Provenance, Tensor};

/// For each node the first of those whose outputs have the same scales: whatever stands between them passes scales on.
pub(super) fn scaled_together(graph: &Graph) -> Vec<usize> {
    let nodes = graph.nodes();
    let mut first: Vec<usize> = (0..nodes.len()).collect();
    for (id, node) in nodes.iter().enumerate() {
        if !matches!(node.op, Op::Conv(_) | Op::BatchNorm | Op::Linear { .. }) {
            node.inputs.iter().for_each(|input| unite(&mut first, id, input.0));
        }
    }
    (0..nodes.len()).map(|id| root(&first, id)).collect()
}

/// For each layer of the fused model a node whose output has the same scales.
///
/// # Errors
/// [`FuseError::Graph`] for a layer that has no name of the network's.
pub(super) fn nodes_of_layers(graph: &Graph, fused: &FusedModel) -> Result<Vec<usize>, FuseError> {
    let nodes = graph.nodes();
    let of_block = |name: &str| {
        let block = graph.blocks().iter().find(|block| block.name == name)?;
        Some(block.nodes.end - 1)
    };
    let of_node = |name: &str| {
        let id = nodes.iter().position(|node| node.name == name)?;
        // What fusing calls by its convolution is what the batch norm after that makes of it.
        let is_normalised = nodes.get(id + 1).is_some_and(|next| next.op == Op::BatchNorm);
        Some(id + usize::from(is_normalised && matches!(nodes[id].op, Op::Conv(_))))
    };
    let node = |layer: &FusedLayer| {
        let known = of_block(&layer.name).or_else(|| of_node(&layer.name));
        known.ok_or_else(|| FuseError::Graph {
            layer: layer.name.clone(),
            expected: "a name of the network",
            found: "none".into(),
        })
    };
    fused.layers().iter().map(node).collect()
}

/// Each node's output scaled by the powers of two that `shifts` gives, if any.
pub(super) fn scaled<'a>(
    checkpoint: &Checkpoint,
    graph: &Graph,
    shifts: impl Fn(usize) -> Option<&'a [i32]>,
    settings: serde_json::Value,
) -> Result<Checkpoint, FuseError> {
    let mut tensors = checkpoint.tensors().clone();
    for (id, node) in graph.nodes().iter().enumerate() {
        let mut scale = |part: &str, change: &dyn Fn(&mut Tensor)| {
            let Some(tensor) = tensors.get_mut(&format!("{}.{part}", node.name)) else {
                return Ok(());
            };
            change(tensor);
            let is_finite = tensor.data().iter().all(|value| value.is_finite());
            is_finite.then_some(()).ok_or_else(|| FuseError::NotFinite { layer: node.name.clone() })
        };
        let geometry = match &node.op {
            Op::Conv(geometry) => *geometry,
            Op::Linear { inputs, outputs } => ConvGeometry::fully_connected(*inputs, *outputs),
            Op::BatchNorm => {
                let Some(shifts) = shifts(id) else { continue };
                for part in ["weight", "bias"] {
                    scale(part, &|tensor| {
                        let channels = tensor.data_mut().iter_mut().zip(shifts);
                        channels.for_each(|(value, &shift)| *value *= power(shift));
                    })?;
                }
                continue;
            }
            _ => continue,
        };
        if let Some(shifts) = shifts(node.inputs[0].0) {
            let outputs = vec![0; geometry.out_channels];
            scale("weight", &|tensor| scale_weight(&geometry, tensor, shifts, &outputs))?;
        }
    }
    let provenance = Provenance::new("equalise", Some(checkpoint.digest()), settings, None);
    let (network, gates) = (checkpoint.network().clone(), checkpoint.gates().clone());
    Checkpoint::new(network, gates, tensors, provenance).map_err(|found| FuseError::Graph {
        layer: "the equalised network".into(),
        expected: "a sound one",
        found,
    })
}
