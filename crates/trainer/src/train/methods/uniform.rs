//! A narrower network: the same share of channels in every layer, those of the largest batch-norm weights.

use super::limits::Limits;
use crate::train::config::SearchedGates;
use crate::train::gates::GateCosts;
use copriv_ir::{
    Activated, BatchNormInit, Checkpoint, Condition, Gates, Granularity, Graph, Network, Node,
    NodeId, Op, Provenance, Tensor,
};
use std::collections::BTreeMap;

/// Widths that are tried, in hundredths.
const LEAST: usize = 5;

/// Bytes of the narrowest network with these gates kept.
pub(super) fn smallest(network: &Network, gates: &Gates) -> f64 {
    at(network, LEAST).map_or(0.0, |narrow| bytes(&narrow, gates))
}

/// `checkpoint` at the largest width within the limit; itself where it is within the limit already. Its gates stay as they
/// are, and of activations in part those channels that are left.
///
/// # Errors
/// In words, where a weight is not finite or an activation that no gate removes loses all of its values.
pub(in crate::train) fn narrow(
    checkpoint: &Checkpoint,
    limits: &Limits,
    provenance: Provenance,
) -> Result<Checkpoint, String> {
    let network = checkpoint.network();
    let hundredths = (network.width() * 100.0).floor() as usize;
    let widths = (LEAST..=hundredths).rev().filter_map(|width| at(network, width));
    let fits = |network: &Network| bytes(network, checkpoint.gates()) <= limits.bytes;
    let fitting = std::iter::once(network.clone()).chain(widths).find(fits);
    take_channels(checkpoint, fitting.unwrap_or_else(|| network.clone()), provenance)
}

fn at(network: &Network, hundredths: usize) -> Option<Network> {
    network.clone().with_width(hundredths as f64 / 100.0).ok()
}

fn bytes(network: &Network, gates: &Gates) -> f64 {
    GateCosts::new(network, SearchedGates::Blocks, gates).bytes(gates.kept()).total()
}

/// The network `narrow` with the largest channels of `checkpoint`. What has no counterpart there (a shortcut
/// that rounding of widths brings about) is initialised.
fn take_channels(
    checkpoint: &Checkpoint,
    narrow: Network,
    provenance: Provenance,
) -> Result<Checkpoint, String> {
    let (old, new) = (checkpoint.network().graph(), narrow.graph());
    let spaces = Spaces::of(&old);
    let scores = spaces.scores(&old, checkpoint);
    let largest = |node: NodeId, count: usize| {
        let scores = &scores[spaces.find(node.0)];
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(count);
        order.sort_unstable();
        order
    };
    let initial = Checkpoint::initialise(narrow.clone(), 0, BatchNormInit::Identity);
    let mut tensors: BTreeMap<String, Tensor> = initial.tensors().clone();
    for node in new.nodes() {
        let Some(id) = old.nodes().iter().position(|old| old.name == node.name) else { continue };
        let outputs = match node.op {
            Op::Linear { outputs, .. } => (0..outputs).collect(),
            _ => largest(NodeId(id), node.shape.channels),
        };
        let inputs = match (&node.op, node.inputs.first(), old.nodes()[id].inputs.first()) {
            (Op::Conv(geometry), Some(input), Some(old)) if geometry.groups == 1 => {
                largest(*old, new.nodes()[input.0].shape.channels)
            }
            (Op::Linear { inputs, .. }, _, Some(old)) => largest(*old, *inputs),
            _ => vec![0],
        };
        for suffix in ["weight", "bias", "running_mean", "running_var"] {
            let name = format!("{}.{suffix}", node.name);
            let (Some(from), Some(to)) = (checkpoint.tensor(&name), tensors.get_mut(&name)) else {
                continue;
            };
            if let Some(taken) = slice(from, &outputs, &inputs) {
                *to = taken;
            }
        }
    }
    let channels = |node: &Node| {
        let id = old.nodes().iter().position(|old| old.name == node.name)?;
        Some(largest(NodeId(id), node.shape.channels))
    };
    let gates = narrow_gates(checkpoint.gates(), &new, channels)?;
    Checkpoint::new(narrow, gates, tensors, provenance)
}

/// The gates for a narrow network, with these `channels` of each node's map.
fn narrow_gates(
    gates: &Gates,
    narrow: &Graph,
    channels: impl Fn(&Node) -> Option<Vec<usize>>,
) -> Result<Gates, String> {
    let (mut kept, mut parts) = (gates.kept().to_vec(), BTreeMap::new());
    for node in narrow.nodes() {
        let (Some(mask), Some(channels)) = (gates.part(&node.name), channels(node)) else {
            continue;
        };
        let values: Vec<bool> = mask.values().collect();
        let planes: Vec<&[bool]> = values.chunks(node.shape.area()).collect();
        let bits = channels.iter().flat_map(|&channel| planes[channel]).copied().collect();
        let activated = Activated::of_bits(node.shape, Granularity::Pixel, bits);
        match (activated.map_err(|fault| fault.to_string())?, &node.op) {
            (Activated::All, _) => {}
            (Activated::Part(mask), _) => drop(parts.insert(node.name.clone(), mask)),
            (Activated::None, Op::Activation(Condition::Kept(gate))) => kept[gate.0] = false,
            (Activated::None, _) => {
                return Err(format!("nothing of {} would be activated", node.name));
            }
        }
    }
    let gates = Gates::new(gates.alphas().to_vec(), kept).ok_or("an alpha is not finite")?;
    let is_left = |name: &str| {
        narrow.nodes().iter().any(|node| node.name == name && gates.activated(node) > 0)
    };
    parts.retain(|name, _| is_left(name));
    Ok(gates.with_parts(parts))
}

/// These rows of a tensor, and of each, where it has two or more dimensions, these columns.
fn slice(tensor: &Tensor, rows: &[usize], columns: &[usize]) -> Option<Tensor> {
    let (data, mut shape) = (tensor.data(), tensor.shape().to_vec());
    let (count, width) = (*shape.first()?, shape.get(1).copied().unwrap_or(1));
    let size = data.len() / (count * width).max(1);
    let is_matrix = shape.len() > 1;
    let columns = if is_matrix { columns } else { &[0] };
    let mut taken = Vec::with_capacity(rows.len() * columns.len() * size);
    for row in rows {
        for column in columns {
            let start = (row * width + column) * size;
            taken.extend_from_slice(data.get(start..start + size)?);
        }
    }
    shape[0] = rows.len();
    if is_matrix {
        shape[1] = columns.len();
    }
    Tensor::new(shape, taken)
}

/// Which nodes' outputs have the same channels: a shortcut ties its two ends.
struct Spaces(Vec<usize>);

impl Spaces {
    fn of(graph: &Graph) -> Self {
        let mut spaces = Self((0..graph.nodes().len()).collect());
        for (id, node) in graph.nodes().iter().enumerate() {
            for input in inherited(node) {
                let (a, b) = (spaces.find(id), spaces.find(input.0));
                spaces.0[a.max(b)] = a.min(b);
            }
        }
        spaces
    }

    /// The first node of the same channels.
    fn find(&self, mut node: usize) -> usize {
        while self.0[node] != node {
            node = self.0[node];
        }
        node
    }

    /// The size of each channel of a space: of its batch norms' weights together.
    fn scores(&self, graph: &Graph, checkpoint: &Checkpoint) -> Vec<Vec<f32>> {
        let zeros = |node: &Node| vec![0.0; node.shape.channels];
        let mut scores: Vec<Vec<f32>> = graph.nodes().iter().map(zeros).collect();
        for (id, node) in graph.nodes().iter().enumerate() {
            let weight = checkpoint.tensor(&format!("{}.weight", node.name));
            if let (Op::BatchNorm, Some(weight)) = (&node.op, weight) {
                let scores = &mut scores[self.find(id)];
                scores.iter_mut().zip(weight.data()).for_each(|(score, x)| *score += x.abs());
            }
        }
        scores
    }
}

/// The inputs whose channels a node's output has.
fn inherited(node: &Node) -> &[NodeId] {
    match &node.op {
        Op::Input | Op::Linear { .. } => &[],
        Op::Conv(geometry) if geometry.groups == 1 => &[],
        _ => &node.inputs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::Architecture;
    use copriv_ir::evaluate::CheckpointEvaluator;

    fn checkpoint(architecture: Architecture, width: f64) -> Checkpoint {
        let network = Network::new(architecture, width, 10, 32).expect("a usual size");
        Checkpoint::initialise(network, 3, BatchNormInit::Random)
    }

    #[test]
    fn the_widest_network_within_the_limit_is_taken() {
        for architecture in Architecture::ALL {
            let whole = checkpoint(architecture, 0.5);
            let gates = whole.gates();
            let (full, least) = (bytes(whole.network(), gates), smallest(whole.network(), gates));
            for share in [0.3, 0.6, 1.0] {
                let bytes = least + share * (full - least);
                let limits = Limits { bytes, ..Limits::NONE };
                let made = narrow(&whole, &limits, whole.provenance().clone()).expect("finite");
                assert!(
                    super::bytes(made.network(), gates) <= limits.bytes,
                    "{architecture} {share}"
                );
                let width = made.network().width();
                assert_eq!(width == 0.5, share == 1.0, "{architecture} {width}");
                let wider =
                    at(made.network(), (width * 100.0).round() as usize + 1).expect("usual");
                assert!(
                    share == 1.0 || super::bytes(&wider, gates) > limits.bytes,
                    "{architecture} {width}"
                );
            }
            assert!(least < full);
        }
    }

    /// Every third gate removed, and of the other activations two values of three.
    fn in_part(whole: &Checkpoint) -> Gates {
        let graph = whole.network().graph();
        let kept: Vec<bool> = (0..graph.blocks().len()).map(|gate| gate % 3 != 1).collect();
        let gates = Gates::new(vec![0.5; kept.len()], kept).expect("finite");
        let mut parts = BTreeMap::new();
        for node in graph.nodes().iter().filter(|node| gates.activated(node) > 0) {
            let bits = (0..node.shape.elements()).map(|value| value % 3 != 1).collect();
            if let Ok(Activated::Part(mask)) =
                Activated::of_bits(node.shape, Granularity::Pixel, bits)
            {
                parts.insert(node.name.clone(), mask);
            }
        }
        gates.with_parts(parts)
    }

    #[test]
    fn a_gate_of_which_nothing_is_left_is_removed() {
        let network = Network::new(Architecture::ResNet20, 1.0, 10, 16).expect("a usual size");
        let whole = Checkpoint::initialise(network, 3, BatchNormInit::Random);
        let narrow = whole.network().clone().with_width(0.5).expect("usual");
        let graph = whole.network().graph();
        let node =
            |node: &&Node| matches!(node.op, Op::Activation(Condition::Kept(gate)) if gate.0 == 1);
        let node = graph.nodes().iter().find(node).expect("a block has one");
        // One channel alone, the first that goes.
        let taken = |checkpoint: &Checkpoint| {
            take_channels(checkpoint, narrow.clone(), whole.provenance().clone()).expect("finite")
        };
        let masked = |channel: usize| {
            let bits = (0..node.shape.channels).map(|other| other == channel).collect();
            let Ok(Activated::Part(mask)) =
                Activated::of_bits(node.shape, Granularity::Channel, bits)
            else {
                panic!("one of several");
            };
            let parts = BTreeMap::from([(node.name.clone(), mask)]);
            let gates = whole.gates().clone().with_parts(parts);
            let (tensors, provenance) = (whole.tensors().clone(), whole.provenance().clone());
            let network = whole.network().clone();
            taken(&Checkpoint::new(network, gates, tensors, provenance).expect("whole"))
        };
        let states: Vec<(bool, usize)> = (0..node.shape.channels)
            .map(|channel| {
                let gates = masked(channel).gates().clone();
                (gates.kept()[1], gates.parts().len())
            })
            .collect();
        let half = node.shape.channels / 2;
        assert_eq!(states.iter().filter(|state| **state == (true, 1)).count(), half);
        assert_eq!(states.iter().filter(|state| **state == (false, 0)).count(), half);
    }

    #[test]
    fn channels_that_are_zero_are_not_missed() {
        for architecture in [Architecture::MobileNetV2, Architecture::ResNet20] {
            // Batch norms without weight or bias in all channels but those that the narrow network has.
            // Of widths where no shortcut comes about by rounding.
            let network = Network::new(architecture, 1.0, 10, 16).expect("a usual size");
            let whole = Checkpoint::initialise(network, 3, BatchNormInit::Identity);
            let narrow = whole.network().clone().with_width(0.5).expect("usual");
            let graph = narrow.graph();
            let mut tensors = whole.tensors().clone();
            for node in graph.nodes().iter().filter(|node| node.op == Op::BatchNorm) {
                for suffix in ["weight", "bias"] {
                    let tensor = &whole.tensors()[&format!("{}.{suffix}", node.name)];
                    let first = tensor.data().len() - node.shape.channels;
                    let data = tensor.data().iter().enumerate();
                    let value = |(channel, &x)| if channel >= first { x } else { 0.0 };
                    let made = Tensor::new(tensor.shape().to_vec(), data.map(value).collect());
                    tensors.insert(format!("{}.{suffix}", node.name), made.expect("same size"));
                }
            }
            let (gates, provenance) = (in_part(&whole), whole.provenance().clone());
            let whole =
                Checkpoint::new(whole.network().clone(), gates, tensors, provenance.clone());
            let whole = whole.expect("whole");
            let taken = take_channels(&whole, narrow, provenance).expect("finite");
            assert_eq!(taken.gates().kept(), whole.gates().kept());
            assert!(!taken.gates().parts().is_empty());
            let image: Vec<f32> =
                (0..3 * 16 * 16).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let logits =
                |checkpoint: &Checkpoint| CheckpointEvaluator::new(checkpoint).logits(&image);
            let (expected, found) = (logits(&whole), logits(&taken));
            let size = expected.iter().fold(0.0f32, |size, x| size.max(x.abs()));
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() < 1e-3 * size, "{architecture}: {a} {b}");
            }
        }
    }
}
