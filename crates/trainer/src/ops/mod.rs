//! The operations that decide the speed of training on a CPU, with hand-written backward passes.
//!
//! burn-flex runs element-wise operations, batch norms and the backward passes of depthwise and
//! pointwise convolutions on one thread or by way of many small convolutions. On the `cpu` device the
//! functions here do them in one or two threaded passes over memory; on every other device they are
//! burn's own operations. Both ways compute the same, to rounding.

mod depthwise;
mod host;
mod norm;
mod pointwise;
mod sum;
mod vector;

use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm, batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, TensorData};
use copriv_ir::{Activation, ConvGeometry};
use depthwise::Depthwise;
use host::{apply, constant};
use norm::{Normalise, Statistics};
use pointwise::Pointwise;
use sum::GatedSum;

/// `weight * act(x) + (1 - weight) * x`.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) activation: Activation,
    pub(crate) weight: GateWeight,
}

/// How much of the activation there is.
#[derive(Clone, Debug)]
pub(crate) enum GateWeight {
    /// None: the identity.
    None,
    /// All of it.
    Full,
    /// So much as this tensor of one element says; it receives a gradient.
    Tensor(Tensor<1>),
}

impl Gate {
    fn tensor<const D: usize>(&self, beside: &Tensor<D>) -> Tensor<1> {
        match &self.weight {
            GateWeight::None => constant([0.0], beside),
            GateWeight::Full => constant([1.0], beside),
            GateWeight::Tensor(weight) => weight.clone(),
        }
    }

    /// By burn's operations.
    fn compose(&self, x: Tensor<4>) -> Tensor<4> {
        let activated = |x: Tensor<4>| match self.activation {
            Activation::Relu => relu(x),
            Activation::Relu6 => x.clamp(0.0, 6.0),
        };
        match &self.weight {
            GateWeight::None => x,
            GateWeight::Full => activated(x),
            GateWeight::Tensor(weight) => {
                let difference = activated(x.clone()) - x.clone();
                x + difference * weight.clone().unsqueeze::<4>()
            }
        }
    }
}

/// A convolution without bias.
pub(crate) fn convolution(x: Tensor<4>, weight: Tensor<4>, geometry: &ConvGeometry) -> Tensor<4> {
    let fast = if let Some(op) = Depthwise::of(geometry) {
        apply(op, [(&x).into(), (&weight).into()])
    } else if let Some(op) = Pointwise::of(geometry) {
        apply(op, [(&x).into(), (&weight).into()])
    } else {
        None
    };
    fast.map_or_else(|| conv2d(x, weight, None, options(geometry)), |(output, ())| output)
}

fn options(geometry: &ConvGeometry) -> ConvOptions<2> {
    let ConvGeometry { stride, padding, groups, .. } = *geometry;
    ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups)
}

/// Batch norm by the given running statistics, then a gate.
pub(crate) fn normalise(
    x: Tensor<4>,
    [weight, bias, mean, variance]: [Tensor<1>; 4],
    epsilon: f64,
    gate: &Gate,
) -> Tensor<4> {
    let statistics = Statistics::Given;
    let op = Normalise { activation: gate.activation, epsilon: epsilon as f32, statistics };
    let gate_weight = gate.tensor(&x);
    let inputs = [&weight, &bias, &gate_weight, &mean, &variance].map(Into::into);
    let [w, b, g, m, v] = inputs;
    apply(op, [(&x).into(), w, b, g, m, v]).map_or_else(
        || gate.compose(batch_norm(x.clone(), weight, bias, mean, variance, epsilon)),
        |(output, _)| output,
    )
}

/// Batch norm by the statistics of the batch, then a gate; also the batch's mean and biased variance,
/// without autodiff.
pub(crate) fn normalise_batch(
    x: Tensor<4>,
    [weight, bias]: [Tensor<1>; 2],
    epsilon: f64,
    gate: &Gate,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    let statistics = Statistics::Batch;
    let op = Normalise { activation: gate.activation, epsilon: epsilon as f32, statistics };
    let gate_weight = gate.tensor(&x);
    let unused = constant([0.0], &x);
    let inputs = [&weight, &bias, &gate_weight, &unused, &unused].map(Into::into);
    let [w, b, g, m, v] = inputs;
    if let Some((output, moments)) = apply(op, [(&x).into(), w, b, g, m, v]) {
        let device = x.device().inner();
        let tensor = |values: Vec<f32>| {
            let channels = values.len();
            Tensor::from_data(TensorData::new(values, [channels]), &device)
        };
        return (output, tensor(moments.mean), tensor(moments.variance));
    }
    let result = batch_norm_train(x, weight, bias, epsilon);
    let plain = |tensor: Tensor<1>| if tensor.is_autodiff() { tensor.inner() } else { tensor };
    (gate.compose(result.output), plain(result.mean), plain(result.variance))
}

/// The sum of two maps, then a gate.
pub(crate) fn add(x: Tensor<4>, other: Tensor<4>, gate: &Gate) -> Tensor<4> {
    let weight = gate.tensor(&x);
    let op = GatedSum { activation: gate.activation };
    apply(op, [(&x).into(), (&other).into(), (&weight).into()])
        .map_or_else(|| gate.compose(x + other), |(output, ())| output)
}

/// A gate by itself.
pub(crate) fn activate(x: Tensor<4>, gate: &Gate) -> Tensor<4> {
    gate.compose(x)
}
