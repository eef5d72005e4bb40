//! The forward pass: one walk over the graph's nodes.

use super::layer::Layer;
use super::{Mismatch, Model, PartTensors, Quantiser};
use crate::ops::{self, Gate, GateWeight};
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use copriv_ir::{Condition, Graph, NodeId, Op};

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
    /// Weights of channels or values of activations, in place of the model's own; these receive gradients.
    pub(crate) parts: PartTensors,
    /// Takes note of what activations in part change.
    pub(crate) mismatch: Option<Mismatch>,
}

impl Pass {
    /// Nothing but the statistics that batch norms use.
    pub(crate) fn plain(mode: Mode) -> Self {
        let parts = PartTensors::new();
        Self { mode, dropout: None, quantiser: None, parts, mismatch: None }
    }

    /// The weight of node `id` as this pass uses it.
    pub(super) fn weight<const D: usize>(&self, id: usize, weight: Tensor<D>) -> Tensor<D> {
        match &self.quantiser {
            Some(quantiser) => quantiser.weight(id, weight),
            None => weight,
        }
    }

    /// The output of node `id` with the weights of the convolution rounded that it is the last node of, where there is
    /// one; `maps` are those of earlier nodes.
    fn merged(&self, id: usize, output: Tensor<4>, maps: &[Option<Tensor<4>>]) -> Tensor<4> {
        let Some(quantiser) = &self.quantiser else { return output };
        let source = quantiser.source(id).and_then(|source| maps.get(source)?.clone());
        match source {
            Some(x) => quantiser.merged(id, output, x),
            None => output,
        }
    }

    /// The output of node `id`, perhaps with an activation behind it, as others read it in this pass.
    fn value(&self, id: usize, output: Tensor<4>) -> Tensor<4> {
        match &self.quantiser {
            Some(quantiser) => quantiser.value(id, output),
            None => output,
        }
    }
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
        self.forward_with(images, gates, &Pass::plain(mode))
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
            let is_kept = |node| pass.quantiser.as_ref().is_some_and(|q| q.is_source(node));
            let mut take = |input: &NodeId| {
                let is_last = readers[input.0].last == id && !is_kept(input.0);
                take(&mut maps, input.0, is_last)
            };
            let links = self.links(id, &readers, gates, pass);
            if let (Some(last), [input]) = (links.last(), nodes[id].inputs.as_slice())
                && let Some(x) = take(input)
            {
                let output = pass.merged(last.norm, self.chain(x, &links, pass), &maps);
                let output = self.activate_late(last.end, output, &last.late, pass);
                maps.extend((id..last.end).map(|_| None));
                maps.push(Some(pass.value(last.norm, output)));
                continue;
            }
            let mut inputs = nodes[id].inputs.iter().filter_map(&mut take);
            let fused = self.fused_activation(id, &readers);
            let (gate, late) = self.gate_and_late(id, fused, gates, pass);
            let output = match (inputs.next(), inputs.next()) {
                (Some(x), Some(other)) => ops::add(x, other, &gate),
                (Some(x), None) => self.apply(id, x, gates, pass),
                (None, _) => images.clone(),
            };
            let output = pass.merged(id, output, &maps);
            let output = self.activate_late(id + 1, output, &late, pass);
            // Where the activation is already done, nobody reads what was before it.
            maps.extend(fused.map(|_| None));
            maps.push(Some(pass.value(id, output)));
        }
        let logits = maps.pop().flatten().unwrap_or(images);
        logits.flatten(1, 3)
    }

    /// The condition of the activation that is computed along with node `id`: the next node, if it
    /// alone reads this one.
    pub(super) fn fused_activation(&self, id: usize, readers: &[Readers]) -> Option<Condition> {
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

    /// The output of a node of one input; vectors are maps of one pixel.
    fn apply(&self, id: usize, x: Tensor<4>, gates: &[GateValue], pass: &Pass) -> Tensor<4> {
        match (&self.graph.nodes()[id].op, &self.layers[id]) {
            (Op::Linear { .. }, Some(Layer::Linear(linear))) => {
                let x = x.flatten::<2>(1, 3);
                let x = pass.dropout.iter().fold(x, |x, factors| x * factors.clone());
                let product = x.matmul(pass.weight(id, linear.weight.val()).transpose());
                (product + linear.bias.val().unsqueeze()).unsqueeze_dims(&[2, 3])
            }
            (Op::Activation(condition), _) => {
                let gate = self.gate(Some(*condition), gates);
                match self.part(id, &gate, pass) {
                    Some(weights) => self.activate_in_part(id, x, &weights, pass),
                    None => ops::activate(x, &gate),
                }
            }
            (Op::MaxPool { kernel, stride, padding }, _) => {
                let options = MaxPoolOptions::new([*kernel; 2])
                    .with_stride([*stride; 2])
                    .with_padding([*padding; 2]);
                max_pool2d(x, options)
            }
            (Op::GlobalAveragePool, _) => ops::global_average(x),
            _ => x,
        }
    }

    /// The weights of the channels or values of activation `id`, where its gate leaves it and it applies in part.
    pub(super) fn part(&self, id: usize, gate: &Gate, pass: &Pass) -> Option<Tensor<1>> {
        let own = || Some(self.parts.get(id)?.as_ref()?.val().detach());
        let weights = pass.parts.get(&NodeId(id)).cloned().or_else(own)?;
        match &gate.weight {
            GateWeight::None => None,
            GateWeight::Full => Some(weights),
            GateWeight::Tensor(weight) => Some(weights * weight.clone()),
        }
    }

    /// The gate of the activation behind node `id`, as it is computed along with the node, and as it comes after it: that
    /// of an activation in part, or where the node's output is not yet complete.
    pub(super) fn gate_and_late(
        &self,
        id: usize,
        fused: Option<Condition>,
        gates: &[GateValue],
        pass: &Pass,
    ) -> (Gate, Late) {
        let gate = self.gate(fused, gates);
        let nothing = || Gate { weight: GateWeight::None, ..gate.clone() };
        if let Some(weights) = fused.and_then(|_| self.part(id + 1, &gate, pass)) {
            return (nothing(), Late::Part(weights));
        }
        match pass.quantiser.as_ref().and_then(|quantiser| quantiser.source(id)) {
            Some(_) => (nothing(), Late::Whole(gate)),
            None => (gate, Late::None),
        }
    }

    fn activate_late(&self, id: usize, x: Tensor<4>, late: &Late, pass: &Pass) -> Tensor<4> {
        match late {
            Late::None => x,
            Late::Whole(gate) => ops::activate(x, gate),
            Late::Part(weights) => self.activate_in_part(id, x, weights, pass),
        }
    }

    fn activate_in_part(
        &self,
        id: usize,
        x: Tensor<4>,
        weights: &Tensor<1>,
        pass: &Pass,
    ) -> Tensor<4> {
        let activation = self.network.activation();
        if let Some(mismatch) = &pass.mismatch {
            mismatch.add(id, activation, x.clone());
        }
        ops::activate_in_part(x, activation, weights.clone())
    }

    /// What an activation of this condition does; without one nothing.
    pub(super) fn gate(&self, condition: Option<Condition>, gates: &[GateValue]) -> Gate {
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

/// An activation that is not computed along with the node before it.
pub(super) enum Late {
    None,
    Whole(Gate),
    /// By weights of its channels or values.
    Part(Tensor<1>),
}

/// A node's output, moved out where nobody needs it afterwards.
fn take(maps: &mut [Option<Tensor<4>>], node: usize, is_last: bool) -> Option<Tensor<4>> {
    let map = maps.get_mut(node)?;
    if is_last { map.take() } else { map.clone() }
}

/// Who reads a node's output.
#[derive(Clone, Copy, Default)]
pub(super) struct Readers {
    pub(super) count: usize,
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
