//! The forward pass: one walk over the graph's nodes.

use super::Model;
use super::layer::{Layer, Norm};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm, batch_norm_train, conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use copriv_ir::{Activation, Condition, ConvGeometry, Graph, Node, NodeId, Op};

/// Share of the newest batch in the running statistics, as in PyTorch.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// Which statistics batch norms use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those of the batch; running statistics are brought up to date.
    Train,
    /// The running statistics.
    Evaluate,
}

/// The state of one gate in a forward pass.
#[derive(Clone, Debug)]
pub enum GateValue {
    /// Its activations are part of the network.
    Kept,
    /// They are not.
    Removed,
    /// `m * act(x) + (1 - m) * x` for this tensor of one element, which receives a gradient.
    Weighted(Tensor<1>),
}

impl GateValue {
    /// The gates as a mask says, without gradients.
    #[must_use]
    pub fn fixed(kept: &[bool]) -> Vec<Self> {
        kept.iter().map(|&kept| if kept { Self::Kept } else { Self::Removed }).collect()
    }

    /// The gates as a mask says in the forward pass; in the backward pass as if each were its
    /// alpha (straight-through).
    #[must_use]
    pub fn straight_through(alphas: &Tensor<1>, kept: &[bool]) -> Vec<Self> {
        let value = |(gate, &kept): (usize, &bool)| {
            let alpha = alphas.clone().narrow(0, gate, 1);
            let hard = alpha.clone().detach().mul_scalar(0.0).add_scalar(f32::from(u8::from(kept)));
            Self::Weighted(alpha.clone() - alpha.detach() + hard)
        };
        kept.iter().enumerate().map(value).collect()
    }
}

impl Model {
    /// Logits `[batch, classes]` of normalised images `[batch, 3, height, width]`.
    ///
    /// `gates` holds one value for each gate.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>, gates: &[GateValue], mode: Mode) -> Tensor<2> {
        let nodes = self.graph.nodes();
        let last_use = last_uses(&self.graph);
        let mut maps: Vec<Option<Tensor<4>>> = Vec::with_capacity(nodes.len());
        for (id, node) in nodes.iter().enumerate() {
            let mut take = |input: &NodeId| take(&mut maps, input.0, last_use[input.0] == id);
            let mut inputs = node.inputs.iter().filter_map(&mut take);
            let output = match (inputs.next(), inputs.next()) {
                (Some(x), Some(other)) => x + other,
                (Some(x), None) => self.apply(id, node, x, gates, mode),
                (None, _) => images.clone(),
            };
            maps.push(Some(output));
        }
        let logits = maps.pop().flatten().unwrap_or(images);
        logits.flatten(1, 3)
    }

    /// The output of a node of one input; vectors are maps of one pixel.
    fn apply(
        &self,
        id: usize,
        node: &Node,
        x: Tensor<4>,
        gates: &[GateValue],
        mode: Mode,
    ) -> Tensor<4> {
        match (&node.op, &self.layers[id]) {
            (Op::Conv(geometry), Some(Layer::Conv(conv))) => {
                conv2d(x, conv.weight.val(), None, options(geometry))
            }
            (Op::BatchNorm, Some(Layer::Norm(norm))) => norm.forward(x, mode),
            (Op::Linear { .. }, Some(Layer::Linear(linear))) => {
                let product = x.flatten::<2>(1, 3).matmul(linear.weight.val().transpose());
                (product + linear.bias.val().unsqueeze()).unsqueeze_dims(&[2, 3])
            }
            (Op::Activation(condition), _) => {
                activate(x, *condition, gates, self.network.activation())
            }
            (Op::MaxPool { kernel, stride, padding }, _) => {
                let options = MaxPoolOptions::new([*kernel; 2])
                    .with_stride([*stride; 2])
                    .with_padding([*padding; 2]);
                max_pool2d(x, options)
            }
            (Op::GlobalAveragePool, _) => x.mean_dim(3).mean_dim(2),
            _ => x,
        }
    }
}

impl Norm {
    fn forward(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        let epsilon = f64::from(Graph::BATCH_NORM_EPSILON);
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let (mean, var) = (self.running_mean.value_sync(), self.running_var.value_sync());
        if mode == Mode::Evaluate {
            return batch_norm(x, weight, bias, mean, var, epsilon);
        }
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let result = batch_norm_train(x, weight, bias, epsilon);
        // PyTorch keeps the unbiased variance and normalises by the biased one.
        let unbiased = result.variance.mul_scalar(count / (count - 1.0).max(1.0));
        let blend = |old: Tensor<1>, new: Tensor<1>| {
            old.mul_scalar(1.0 - STATISTICS_MOMENTUM) + new.mul_scalar(STATISTICS_MOMENTUM)
        };
        self.running_mean.update(blend(mean, result.mean).detach());
        self.running_var.update(blend(var, unbiased).detach());
        result.output
    }
}

fn activate(
    x: Tensor<4>,
    condition: Condition,
    gates: &[GateValue],
    activation: Activation,
) -> Tensor<4> {
    let (gate, kept_when) = match condition {
        Condition::Always => return activated(x, activation),
        Condition::Kept(gate) => (gate, true),
        Condition::Removed(gate) => (gate, false),
    };
    match gates.get(gate.0).unwrap_or(&GateValue::Kept) {
        GateValue::Kept if kept_when => activated(x, activation),
        GateValue::Removed if !kept_when => activated(x, activation),
        GateValue::Kept | GateValue::Removed => x,
        GateValue::Weighted(weight) => {
            let weight =
                if kept_when { weight.clone() } else { weight.clone().neg().add_scalar(1.0) };
            let difference = activated(x.clone(), activation) - x.clone();
            x + difference * weight.unsqueeze::<4>()
        }
    }
}

fn activated(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    match activation {
        Activation::Relu => relu(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
    }
}

fn options(geometry: &ConvGeometry) -> ConvOptions<2> {
    let ConvGeometry { stride, padding, groups, .. } = *geometry;
    ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups)
}

/// A node's output, moved out where nobody needs it afterwards.
fn take(maps: &mut [Option<Tensor<4>>], node: usize, is_last: bool) -> Option<Tensor<4>> {
    let map = maps.get_mut(node)?;
    if is_last { map.take() } else { map.clone() }
}

/// The last node that reads each node's output.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![0; graph.nodes().len()];
    for (id, node) in graph.nodes().iter().enumerate() {
        node.inputs.iter().for_each(|input| last[input.0] = id);
    }
    last
}
