//! Equalising channels before fusing: of a network that is then fine-tuned for weights of few bits.
//!
//! The scales are those that [`crate::equalise`] finds for the fused model, put into batch norms and into the weights of the
//! convolutions that read their values. A shortcut that fusing takes into a kernel is still a sum here, so that what it
//! adds shares its scales as well. The network computes the same as before, bit for bit.

use crate::channel_groups::{channel_groups, root, unite};
use crate::equalise::{EqualisationReport, power, report, scale_weight, settings, shifts};
use crate::{FuseError, fuse};
use copriv_ir::cost::oracle;
use copriv_ir::{Checkpoint, ConvGeometry, FusedModel, Graph, Op, Provenance, Tensor};
use std::collections::BTreeMap;

/// The same network with channels equalised, and what that does to weights of `weight_bits` bits once it is fused
/// ([`fuse`]).
///
/// # Errors
/// [`FuseError::NotFinite`] where a scaled parameter is beyond single precision, and as [`fuse`].
///
/// # Panics
/// Where `weight_bits` is not between 2 and 32.
pub fn equalise_checkpoint(
    checkpoint: &Checkpoint,
    weight_bits: u32,
) -> Result<(Checkpoint, EqualisationReport), FuseError> {
    let (graph, fused) = (checkpoint.network().graph(), fuse(checkpoint)?);
    let sets = scaled_together(&graph);
    let layers = layers_of_nodes(checkpoint, &graph, &fused);
    let mut first_layer = BTreeMap::new();
    let tie = |(&set, layer): (&usize, &Option<usize>)| {
        let layer = (*layer)?;
        Some((*first_layer.entry(set).or_insert(layer), layer))
    };
    let ties: Vec<(usize, usize)> = sets.iter().zip(&layers).filter_map(tie).collect();
    let groups = channel_groups(&fused, &ties);
    let shifts = shifts(&fused, &groups, weight_bits);
    let shifts_of = |node: usize| {
        let layer = first_layer.get(&sets[node])?;
        let group = groups.iter().position(|group| group.members.contains(layer))?;
        Some(shifts[group].as_slice())
    };
    let equalised = scaled(checkpoint, &graph, shifts_of, weight_bits)?;
    let report = report(&fused, &fuse(&equalised)?, &groups, weight_bits);
    Ok((equalised, report))
}

/// For each node the first of those whose outputs have the same scales: whatever stands between them passes scales on.
fn scaled_together(graph: &Graph) -> Vec<usize> {
    let nodes = graph.nodes();
    let mut first: Vec<usize> = (0..nodes.len()).collect();
    for (id, node) in nodes.iter().enumerate() {
        if !matches!(node.op, Op::Conv(_) | Op::BatchNorm | Op::Linear { .. }) {
            node.inputs.iter().for_each(|input| unite(&mut first, id, input.0));
        }
    }
    (0..nodes.len()).map(|id| root(&first, id)).collect()
}

/// The layer of the fused model that gives the value of each node, if one does.
fn layers_of_nodes(
    checkpoint: &Checkpoint,
    graph: &Graph,
    fused: &FusedModel,
) -> Vec<Option<usize>> {
    let merged = oracle::merged_stretches(checkpoint.network(), checkpoint.gates());
    let layers = fused.layers().iter().enumerate();
    let numbers: BTreeMap<&str, usize> =
        layers.map(|(number, layer)| (layer.name.as_str(), number)).collect();
    let names = oracle::layer_names(graph, &merged);
    names.into_iter().map(|name| numbers.get(name?).copied()).collect()
}

/// Each node's output scaled by the powers of two that `shifts` gives, if any.
fn scaled<'a>(
    checkpoint: &Checkpoint,
    graph: &Graph,
    shifts: impl Fn(usize) -> Option<&'a [i32]>,
    weight_bits: u32,
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
    let mut config = settings();
    config["weight_bits"] = weight_bits.into();
    let provenance = Provenance::new("equalise", Some(checkpoint.digest()), config, None);
    let (network, gates) = (checkpoint.network().clone(), checkpoint.gates().clone());
    Checkpoint::new(network, gates, tensors, provenance).map_err(|found| FuseError::Graph {
        layer: "the equalised network".into(),
        expected: "a sound one",
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::equalise::testing::{checkpoint, image};
    use copriv_ir::evaluate::CheckpointEvaluator;
    use copriv_ir::{Activation, Architecture, Network};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Not a single bit, before fusing; and what is fused has weights of less noise.
        #[test]
        fn the_network_computes_the_same(
            architecture in prop::sample::select(vec![
                Architecture::MobileNetV2, Architecture::ResNet20, Architecture::ResNet50,
            ]),
            final_activation: bool, relu6: bool, seed: u64,
        ) {
            let activation = if relu6 { Activation::Relu6 } else { Activation::Relu };
            let network = Network::new(architecture, 0.15, 10, 20)
                .expect("small")
                .with_final_activation(final_activation)
                .with_activation(activation);
            let made = checkpoint(&network, seed);
            let (equalised, report) = equalise_checkpoint(&made, 8).expect("finite");
            prop_assert_eq!(made.gates(), equalised.gates());
            let image = image(&network);
            let logits = |made: &Checkpoint| CheckpointEvaluator::new(made).logits(&image);
            prop_assert_eq!(logits(&made), logits(&equalised));
            let noise = |pick: fn(&crate::LayerNoise) -> copriv_ir::WeightNoise| {
                report.mean(|layer| 10f64.powf(-pick(layer).channels / 10.0))
            };
            let (before, after) = (noise(|layer| layer.before), noise(|layer| layer.after));
            prop_assert!(after <= before * (1.0 + 1e-9), "{report}");
        }
    }

    #[test]
    fn small_channels_come_up_and_the_provenance_says_so() {
        let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
        let made = checkpoint(&network, 1);
        let (equalised, report) = equalise_checkpoint(&made, 8).expect("finite");
        let gain = report.mean(|layer| layer.after.channels - layer.before.channels);
        assert!(gain > 3.0, "{report}");
        assert_eq!(equalised.provenance().parent, Some(made.digest()));
        assert_eq!(equalised.provenance().stage, "equalise");
        // What is equal already stays.
        let (again, _) = equalise_checkpoint(&equalised, 8).expect("finite");
        let gain = equalise_checkpoint(&again, 8).expect("finite").1;
        let gain = gain.mean(|layer| (layer.after.channels - layer.before.channels).abs());
        assert!(gain < 1.0, "{gain}");
    }
}
