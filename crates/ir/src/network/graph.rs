//! The trained network as a list of operations, each named after its parameters.

use crate::{ConvGeometry, Shape};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Position of a node in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// Position of a gate: the stem first, then the blocks in network order, then the head if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateId(pub usize);

/// Position of a block in [`Graph::blocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub usize);

/// The non-linearity of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// The activation of one value.
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}

/// When an activation is part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// In every network.
    Always,
    /// While the gate is kept (alpha = 1); otherwise the identity.
    Kept(GateId),
    /// Once the gate is removed (alpha = 0): the activation after a fused block.
    Removed(GateId),
}

/// One operation of the trained network.
///
/// Parameters are found under `<node name>.<parameter>` with PyTorch's parameter names.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The normalised image.
    Input,
    /// Convolution without bias: `weight`.
    Conv(ConvGeometry),
    /// Batch normalisation over the channels: `weight`, `bias`, `running_mean`, `running_var`;
    /// epsilon [`Graph::BATCH_NORM_EPSILON`].
    BatchNorm,
    /// The network's activation, present or not by the state of a gate.
    Activation(Condition),
    /// Sum of the two inputs.
    Add,
    /// Maximum over windows of `kernel` x `kernel`, with `padding` (of minus infinity) and `stride`.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Step between windows.
        stride: usize,
        /// Border on each side.
        padding: usize,
    },
    /// Mean over each channel.
    GlobalAveragePool,
    /// Fully connected layer: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    Linear {
        /// Input values.
        inputs: usize,
        /// Output values.
        outputs: usize,
    },
}

/// An operation in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Prefix of its parameters' names (torchvision's); unique for nodes with parameters.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Earlier nodes, in the operation's order.
    pub inputs: Vec<NodeId>,
    /// Shape of its output.
    pub shape: Shape,
}

/// A unit of the network that is kept or fused as a whole: stem, residual block or head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Name for people and reports, the prefix of its nodes' names.
    pub name: String,
    /// The gate that its activations share.
    pub gate: GateId,
    /// The nodes that belong to it, as a range of [`Graph::nodes`].
    pub nodes: Range<usize>,
    /// True for residual blocks (fusable into one convolution), false for stem and head.
    pub is_residual: bool,
}

/// The trained network: a straight list of nodes, inputs before users, the last one the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) blocks: Vec<BlockInfo>,
}

impl Graph {
    /// Added to every running variance, as PyTorch does.
    pub const BATCH_NORM_EPSILON: f32 = 1e-5;

    /// All operations, inputs before users.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Stem, residual blocks and head, one for each gate, in the order of the gates.
    #[must_use]
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// Every parameter and running statistic: name and shape, in network order.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut parameters = Vec::new();
        for node in &self.nodes {
            let mut push = |suffix: &str, shape: Vec<usize>| {
                parameters.push((format!("{}.{suffix}", node.name), shape));
            };
            match &node.op {
                Op::Conv(geometry) => push("weight", geometry.weight_shape().to_vec()),
                Op::BatchNorm => {
                    for suffix in ["weight", "bias", "running_mean", "running_var"] {
                        push(suffix, vec![node.shape.channels]);
                    }
                }
                Op::Linear { inputs, outputs } => {
                    push("weight", vec![*outputs, *inputs]);
                    push("bias", vec![*outputs]);
                }
                Op::Input
                | Op::Activation(_)
                | Op::Add
                | Op::MaxPool { .. }
                | Op::GlobalAveragePool => {}
            }
        }
        parameters
    }

    /// Multiplications of one inference, unfused.
    #[must_use]
    pub fn multiplications(&self) -> u64 {
        let count = |node: &Node| match &node.op {
            Op::Conv(geometry) => geometry.multiplications(self.nodes[node.inputs[0].0].shape),
            Op::Linear { inputs, outputs } => (inputs * outputs) as u64,
            _ => 0,
        };
        self.nodes.iter().map(count).sum()
    }
}

/// Appends nodes and keeps track of shapes and blocks.
pub(super) struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    pub(super) fn new(input: Shape) -> (Self, NodeId) {
        let node = Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: input };
        (Self { graph: Graph { nodes: vec![node], blocks: vec![] } }, NodeId(0))
    }

    pub(super) fn shape(&self, node: NodeId) -> Shape {
        self.graph.nodes[node.0].shape
    }

    pub(super) fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        let input = self.shape(inputs[0]);
        let shape = match &op {
            Op::Conv(geometry) => geometry.output_shape(input),
            Op::MaxPool { kernel, stride, padding } => ConvGeometry {
                in_channels: input.channels,
                out_channels: input.channels,
                kernel: *kernel,
                stride: *stride,
                padding: *padding,
                groups: input.channels,
            }
            .output_shape(input),
            Op::GlobalAveragePool => Shape::vector(input.channels),
            Op::Linear { outputs, .. } => Shape::vector(*outputs),
            Op::Input | Op::BatchNorm | Op::Activation(_) | Op::Add => input,
        };
        self.graph.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec(), shape });
        NodeId(self.graph.nodes.len() - 1)
    }

    /// Convolution and batch norm.
    pub(super) fn conv_norm(
        &mut self,
        input: NodeId,
        conv: &str,
        norm: &str,
        geometry: ConvGeometry,
    ) -> NodeId {
        let conv = self.push(conv, Op::Conv(geometry), &[input]);
        self.push(norm, Op::BatchNorm, &[conv])
    }

    /// An activation; `name` is for reports, as it has no parameters.
    pub(super) fn activation(&mut self, name: &str, input: NodeId, when: Condition) -> NodeId {
        self.push(format!("{name}.activation"), Op::Activation(when), &[input])
    }

    /// The gate that the next block will have.
    pub(super) fn next_gate(&self) -> GateId {
        GateId(self.graph.blocks.len())
    }

    pub(super) fn len(&self) -> usize {
        self.graph.nodes.len()
    }

    /// Closes the block that began at node number `start`.
    pub(super) fn close_block(&mut self, name: &str, start: usize, is_residual: bool) {
        let block = BlockInfo {
            name: name.into(),
            gate: self.next_gate(),
            nodes: start..self.len(),
            is_residual,
        };
        self.graph.blocks.push(block);
    }

    pub(super) fn finish(self) -> Graph {
        self.graph
    }
}
