//! What blocks, nodes and layers cost by the formulae: the trainer's loss and the tables of `inspect`.

use super::{Method, Oracle, convolution};
use crate::{
    BlockInfo, Condition, ConvGeometry, FusedModel, FusedOp, Gates, Graph, Network, Node, NodeId,
    Op, Shape,
};
use std::iter::Sum;
use std::ops::{Add, Range};

/// Offline and online bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bytes {
    /// Convolutions.
    pub offline: f64,
    /// Activations and truncation.
    pub online: f64,
}

impl Bytes {
    /// Of both phases together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.offline + self.online
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { offline: self.offline + other.offline, online: self.online + other.online }
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(bytes: I) -> Self {
        bytes.fold(Self::default(), Self::add)
    }
}

/// What a block costs in its two states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockCost {
    /// With its activations, unfused, as CrypTFlow2 does it.
    pub before: Bytes,
    /// Without its gated activations, by the cheapest lowerings: as one convolution where it is one and
    /// that is cheaper, convolution by convolution otherwise.
    pub after: Bytes,
}

/// The cost of each gate's block in both states, in the order of the gates, for
/// [`Oracle::PAPER`]. The trainer's loss charges `alpha (before - after)`.
#[must_use]
pub fn block_costs(network: &Network) -> Vec<BlockCost> {
    let (oracle, graph) = (Oracle::PAPER, network.graph());
    let before = node_costs(&oracle, Method::CrypTFlow2, network);
    let cost = |block: &BlockInfo| BlockCost {
        before: before[block.nodes.clone()].iter().copied().sum(),
        after: after(&oracle, network, &graph, block),
    };
    graph.blocks().iter().map(cost).collect()
}

/// The cost of each node of the unfused network with all gates kept, in the order of
/// [`Graph::nodes`]; every convolution is truncated.
#[must_use]
pub fn node_costs(oracle: &Oracle, method: Method, network: &Network) -> Vec<Bytes> {
    let graph = network.graph();
    let cost = |node| match convolution(&graph, node) {
        Some((geometry, input)) => oracle.linear(method, &geometry, input),
        None if matches!(node.op, Op::Activation(Condition::Always | Condition::Kept(_))) => {
            let online = oracle.activation(network.activation(), node.shape.elements());
            Bytes { offline: 0.0, online }
        }
        None => Bytes::default(),
    };
    graph.nodes().iter().map(cost).collect()
}

/// The cost of each layer of a fused model, in the order of [`FusedModel::layers`].
#[must_use]
pub fn layer_costs(oracle: &Oracle, method: Method, model: &FusedModel) -> Vec<Bytes> {
    let layers = model.layers().iter().map(|layer| match layer.op {
        FusedOp::Conv(geometry) => {
            oracle.linear(method, &geometry, model.layers()[layer.inputs[0].0].shape)
        }
        FusedOp::Activation(function) => {
            Bytes { offline: 0.0, online: oracle.activation(function, layer.activated()) }
        }
        _ => Bytes::default(),
    });
    layers.collect()
}

/// Neighbouring nodes that become one convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedStretch {
    /// What fusing calls it: the block's name, where all convolutions of the last block are inside, otherwise that of the last
    /// convolution.
    pub name: String,
    /// Which: the last one gives the only value that is left of them.
    pub nodes: Range<usize>,
    /// The convolution, of what the first one reads.
    pub geometry: ConvGeometry,
}

/// The stretches of nodes that become one convolution with these gates, in network order: several convolutions with nothing between them,
/// of one block or of neighbours, where one is cheaper and exactly the same. Fusing decides alike.
#[must_use]
pub fn merged_stretches(network: &Network, gates: &Gates) -> Vec<MergedStretch> {
    let graph = network.graph();
    let nodes = graph.nodes();
    let is_conv = |id: &usize| matches!(nodes[*id].op, Op::Conv(_));
    let is_end = |id: usize| matches!(nodes[id].op, Op::BatchNorm | Op::Add);
    // The cheapest way through the nodes before each.
    let mut ways = vec![Way { cost: 0.0, start: 0, one: None }];
    for last in 0..nodes.len() {
        let cost = ways[last].cost + apart(&Oracle::PAPER, &graph, &(last..last + 1)).total();
        let mut best = Way { cost, start: last, one: None };
        let linear_before = (0..=last).rev().take_while(|&id| is_linear(&nodes[id], gates));
        for start in linear_before.filter(is_conv).filter(|_| is_end(last)) {
            let Some(one) = as_one(&graph, start..last + 1) else { continue };
            let cost = ways[start].cost + linear(&Oracle::PAPER, one).total();
            // Of two as cheap the longer one: a sum costs nothing.
            if cost <= best.cost {
                best = Way { cost, start, one: Some(one.0) };
            }
        }
        ways.push(best);
    }
    let mut stretches = vec![];
    let mut end = nodes.len();
    while end > 0 {
        let Way { start, one, .. } = ways[end];
        stretches.extend(one.map(|geometry| MergedStretch {
            name: merged_name(&graph, &(start..end)),
            nodes: start..end,
            geometry,
        }));
        end = start;
    }
    stretches.reverse();
    stretches
}

/// A way through the first nodes of a network.
struct Way {
    cost: f64,
    /// First node of its last step.
    start: usize,
    /// What that step is, where it is more than one node.
    one: Option<ConvGeometry>,
}

fn merged_name(graph: &Graph, nodes: &Range<usize>) -> String {
    let is_conv = |id: &usize| matches!(graph.nodes()[*id].op, Op::Conv(_));
    let block = graph.blocks().iter().find(|block| block.nodes.contains(&(nodes.end - 1)));
    let is_whole =
        |block: &&BlockInfo| block.nodes.clone().filter(is_conv).all(|id| nodes.contains(&id));
    let last = nodes.clone().rfind(is_conv).map(|id| &graph.nodes()[id].name);
    block.filter(is_whole).map(|block| &block.name).or(last).cloned().unwrap_or_default()
}

/// A convolution and the shape of its input.
type OnMap = (ConvGeometry, Shape);

fn is_linear(node: &Node, gates: &Gates) -> bool {
    match node.op {
        Op::Conv(_) | Op::BatchNorm | Op::Add => true,
        Op::Activation(condition) => !gates.admit(condition),
        _ => false,
    }
}

/// The convolution that linear nodes are: if they are several, of one value, and nothing else reads what is inside.
fn as_one(graph: &Graph, nodes: Range<usize>) -> Option<OnMap> {
    let (inner, after) = (&graph.nodes()[nodes.clone()], &graph.nodes()[nodes.end..]);
    let is_inner = |input: &NodeId| nodes.contains(&input.0) && input.0 + 1 != nodes.end;
    let source = inner.first()?.inputs.first()?;
    let is_foreign = |input: &NodeId| !nodes.contains(&input.0) && input != source;
    if after.iter().flat_map(|node| &node.inputs).any(is_inner)
        || inner.iter().flat_map(|node| &node.inputs).any(is_foreign)
    {
        return None;
    }
    let several = inner.iter().filter(|node| matches!(node.op, Op::Conv(_))).count() > 1;
    merged(graph, &nodes).filter(|_| several)
}

fn after(oracle: &Oracle, network: &Network, graph: &Graph, block: &BlockInfo) -> Bytes {
    let nodes = &graph.nodes()[block.nodes.clone()];
    let activated = nodes.iter().filter(|node| {
        matches!(node.op, Op::Activation(Condition::Always | Condition::Removed(_)))
    });
    let online =
        activated.map(|node| oracle.activation(network.activation(), node.shape.elements())).sum();
    let apart = apart(oracle, graph, &block.nodes);
    let merged = merged(graph, &block.nodes).map_or(apart, |conv| linear(oracle, conv));
    let cheaper = if merged.total() < apart.total() { merged } else { apart };
    cheaper + Bytes { offline: 0.0, online }
}

/// A convolution on a map of this shape by its cheapest lowering.
fn linear(oracle: &Oracle, (geometry, input): OnMap) -> Bytes {
    oracle.linear(Method::WinogradStride2, &geometry, input)
}

/// The convolutions among some nodes one by one.
fn apart(oracle: &Oracle, graph: &Graph, nodes: &Range<usize>) -> Bytes {
    let nodes = graph.nodes()[nodes.clone()].iter();
    nodes.filter_map(|node| convolution(graph, node)).map(|conv| linear(oracle, conv)).sum()
}

/// The one convolution that the nodes of a block without activations are, and the shape of its input; `None`
/// where it is none. A shortcut lies within the main branch's kernel.
pub(super) fn merged(graph: &Graph, nodes: &Range<usize>) -> Option<OnMap> {
    let mut node = NodeId(nodes.end.checked_sub(1)?);
    let mut convolutions = Vec::new();
    while nodes.contains(&node.0) {
        let inner = &graph.nodes()[node.0];
        convolutions.extend(convolution(graph, inner));
        node = *inner.inputs.first()?;
    }
    let (first, input) = convolutions.pop()?;
    let mut following = convolutions.into_iter().rev();
    let merged = following.try_fold(first, |run, (next, _)| run.then(&next, input))?;
    Some((merged, input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;

    fn merged_of(architecture: Architecture, block: usize) -> Option<(ConvGeometry, Shape)> {
        let graph = Network::new(architecture, 1.0, 100, 32).expect("usual").graph();
        merged(&graph, &graph.blocks()[block].nodes)
    }

    #[test]
    fn inverted_residuals_and_bottlenecks_are_one_convolution() {
        let (inverted, input) = merged_of(Architecture::MobileNetV2, 2).expect("is one");
        assert_eq!((inverted, input), (ConvGeometry::same(16, 24, 3, 1), Shape::new(16, 32, 32)));
        let (bottleneck, _) = merged_of(Architecture::ResNet50, 4).expect("is one");
        assert_eq!(bottleneck, ConvGeometry::same(256, 512, 3, 2));
        for block in [1, 3] {
            assert_eq!(merged_of(Architecture::ResNet18, block), None, "3x3 after 3x3, padded");
        }
    }

    #[test]
    fn removing_a_gate_never_costs_more() {
        for architecture in Architecture::ALL {
            for resolution in [32, 224] {
                let network = Network::new(architecture, 1.0, 100, resolution).expect("usual");
                for cost in block_costs(&network) {
                    assert!(cost.after.total() <= cost.before.total(), "{network}");
                }
            }
        }
    }
}
