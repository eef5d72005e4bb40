//! The forward pass: one walk over the graph's nodes.

use super::layer::{Layer, Norm};
use super::{Model, Quantiser, values};
use crate::ops::{self, Gate, GateWeight};
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use copriv_ir::{Condition, ConvGeometry, Graph, NodeId, Op};

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

/// How a forward pass goes, beside the gates.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) mode: Mode,
    /// Factors `[batch, features]` on what goes into the fully connected layer.
    pub(crate) dropout: Option<Tensor<2>>,
    /// Rounds weights and values as the compiler will.
    pub(crate) quantiser: Option<Quantiser>,
}

/// The state of one gate in a forward pass.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few dozen at a time")]
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

    /// The gates as a mask says in the forward pass; in the backward pass those that are `searched`
    /// as if each were its alpha (straight-through).
    #[must_use]
    pub fn straight_through(alphas: &Tensor<1>, kept: &[bool], searched: &[bool]) -> Vec<Self> {
        let mut values = Self::fixed(kept);
        for (gate, value) in values.iter_mut().enumerate() {
            if searched.get(gate) == Some(&true) {
                let hard = f32::from(u8::from(matches!(value, Self::Kept)));
                let alpha = alphas.clone().narrow(0, gate, 1);
                let difference = alpha.clone().detach().neg().add_scalar(hard);
                *value = Self::Weighted(alpha + difference);
            }
        }
        values
    }
}

impl Model {
    /// Logits `[batch, classes]` of normalised images `[batch, 3, height, width]`.
    ///
    /// `gates` holds one value for each gate.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>, gates: &[GateValue], mode: Mode) -> Tensor<2> {
        self.forward_with(images, gates, &Pass { mode, dropout: None, quantiser: None })
    }

    /// The same, with all that training may want.
    pub(crate) fn forward_with(
        &self,
        images: Tensor<4>,
        gates: &[GateValue],
        pass: &Pass,
    ) -> Tensor<2> {
        let nodes = self.graph.nodes();
        let readers = readers(&self.graph);
        let mut maps: Vec<Option<Tensor<4>>> = Vec::with_capacity(nodes.len());
        while maps.len() < nodes.len() {
            let id = maps.len();
            let mut take = |input: &NodeId| take(&mut maps, input.0, readers[input.0].last == id);
            let mut inputs = nodes[id].inputs.iter().filter_map(&mut take);
            let fused = self.fused_activation(id, &readers);
            let gate = self.gate(fused, gates);
            let output = match (inputs.next(), inputs.next()) {
                (Some(x), Some(other)) => ops::add(x, other, &gate),
                (Some(x), None) => self.apply(id, x, &gate, gates, pass),
                (None, _) => images.clone(),
            };
            let quantiser =
                pass.quantiser.as_ref().filter(|_| self.is_rounded(id, &gate, &readers));
            let output = match quantiser {
                Some(quantiser) => quantiser.value(id, output),
                None => output,
            };
            // Where the activation is already done, nobody reads what was before it.
            maps.extend(fused.map(|_| None));
            maps.push(Some(output));
        }
        let logits = maps.pop().flatten().unwrap_or(images);
        logits.flatten(1, 3)
    }

    /// The condition of the activation that is computed along with node `id`: the next node, if it
    /// alone reads this one.
    fn fused_activation(&self, id: usize, readers: &[Readers]) -> Option<Condition> {
        let nodes = self.graph.nodes();
        let next = nodes.get(id + 1)?;
        let fits = matches!(nodes[id].op, Op::BatchNorm | Op::Add)
            && next.inputs == [NodeId(id)]
            && readers[id].count == 1;
        match next.op {
            Op::Activation(condition) if fits => Some(condition),
            _ => None,
        }
    }

    /// Whether the output of node `id`, with the activation behind it, is a value of the fused network.
    fn is_rounded(&self, id: usize, gate: &Gate, readers: &[Readers]) -> bool {
        let node = &self.graph.nodes()[id];
        let is_activated = !matches!(gate.weight, GateWeight::None);
        match node.op {
            Op::Input | Op::Add => true,
            // What is added next is rounded with the sum; what has no activation left is no value.
            Op::BatchNorm => {
                let next = self.graph.nodes().get(readers[id].last).map(|node| &node.op);
                is_activated || !matches!(next, Some(Op::Add | Op::Activation(_)))
            }
            _ => false,
        }
    }

    /// By how much the batch norm after convolution `id` scales each channel.
    fn norm_factors(&self, id: usize, geometry: &ConvGeometry) -> Vec<f32> {
        let Some(Some(Layer::Norm(norm))) = self.layers.get(id + 1) else {
            return vec![1.0; geometry.out_channels];
        };
        let variance = values(norm.running_var.value_sync());
        let factor =
            |(weight, variance): (f32, f32)| weight / (variance + Graph::BATCH_NORM_EPSILON).sqrt();
        values(norm.weight.val()).into_iter().zip(variance).map(factor).collect()
    }

    /// The output of a node of one input; vectors are maps of one pixel.
    fn apply(
        &self,
        id: usize,
        x: Tensor<4>,
        gate: &Gate,
        gates: &[GateValue],
        pass: &Pass,
    ) -> Tensor<4> {
        match (&self.graph.nodes()[id].op, &self.layers[id]) {
            (Op::Conv(geometry), Some(Layer::Conv(conv))) => {
                let weight = conv.weight.val();
                let weight = match &pass.quantiser {
                    Some(quantiser) => quantiser.weight(weight, &self.norm_factors(id, geometry)),
                    None => weight,
                };
                ops::convolution(x, weight, geometry)
            }
            (Op::BatchNorm, Some(Layer::Norm(norm))) => norm.forward(x, gate, pass.mode),
            (Op::Linear { .. }, Some(Layer::Linear(linear))) => {
                let x = x.flatten::<2>(1, 3);
                let x = pass.dropout.iter().fold(x, |x, factors| x * factors.clone());
                let product = x.matmul(linear.weight.val().transpose());
                (product + linear.bias.val().unsqueeze()).unsqueeze_dims(&[2, 3])
            }
            (Op::Activation(condition), _) => ops::activate(x, &self.gate(Some(*condition), gates)),
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

    /// What an activation of this condition does; without one nothing.
    fn gate(&self, condition: Option<Condition>, gates: &[GateValue]) -> Gate {
        let value = |gate: usize| gates.get(gate).unwrap_or(&GateValue::Kept);
        let when = |present| if present { GateWeight::Full } else { GateWeight::None };
        let weight = match condition {
            None => GateWeight::None,
            Some(Condition::Always) => GateWeight::Full,
            Some(Condition::Kept(gate)) => match value(gate.0) {
                GateValue::Weighted(weight) => GateWeight::Tensor(weight.clone()),
                value => when(matches!(value, GateValue::Kept)),
            },
            Some(Condition::Removed(gate)) => match value(gate.0) {
                GateValue::Weighted(weight) => {
                    GateWeight::Tensor(weight.clone().neg().add_scalar(1.0))
                }
                value => when(matches!(value, GateValue::Removed)),
            },
        };
        Gate { activation: self.network.activation(), weight }
    }
}

impl Norm {
    fn forward(&self, x: Tensor<4>, gate: &Gate, mode: Mode) -> Tensor<4> {
        let epsilon = f64::from(Graph::BATCH_NORM_EPSILON);
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let (mean, var) = (self.running_mean.value_sync(), self.running_var.value_sync());
        if mode == Mode::Evaluate {
            return ops::normalise(x, [weight, bias, mean, var], epsilon, gate);
        }
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let (output, batch_mean, batch_var) =
            ops::normalise_batch(x, [weight, bias], epsilon, gate);
        // PyTorch keeps the unbiased variance and normalises by the biased one.
        let unbiased = batch_var.mul_scalar(count / (count - 1.0).max(1.0));
        let blend = |old: Tensor<1>, new: Tensor<1>| {
            let is_autodiff = old.is_autodiff();
            let old = if is_autodiff { old.inner() } else { old };
            let mixed =
                old.mul_scalar(1.0 - STATISTICS_MOMENTUM) + new.mul_scalar(STATISTICS_MOMENTUM);
            if is_autodiff { Tensor::from_inner(mixed) } else { mixed }
        };
        self.running_mean.update(blend(mean, batch_mean));
        self.running_var.update(blend(var, unbiased));
        output
    }
}

/// A node's output, moved out where nobody needs it afterwards.
fn take(maps: &mut [Option<Tensor<4>>], node: usize, is_last: bool) -> Option<Tensor<4>> {
    let map = maps.get_mut(node)?;
    if is_last { map.take() } else { map.clone() }
}

/// Who reads a node's output.
#[derive(Clone, Copy, Default)]
struct Readers {
    count: usize,
    last: usize,
}

fn readers(graph: &Graph) -> Vec<Readers> {
    let mut readers = vec![Readers::default(); graph.nodes().len()];
    for (id, node) in graph.nodes().iter().enumerate() {
        for input in &node.inputs {
            readers[input.0] = Readers { count: readers[input.0].count + 1, last: id };
        }
    }
    readers
}
