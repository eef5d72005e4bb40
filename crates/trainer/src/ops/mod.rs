//! The operations that decide the speed of training on a CPU, with hand-written backward passes.
//!
//! burn-flex runs element-wise operations, batch norms and the backward passes of depthwise and
//! pointwise convolutions on one thread or by way of many small convolutions. On the `cpu` device the
//! functions here do them in one or two threaded passes over memory; on every other device they are
//! burn's own operations. Both ways compute the same, to rounding.

mod depthwise;
mod element;
mod host;
mod norm;
mod pointwise;
mod sum;
mod vector;

pub(crate) use element::{AdamStep, SgdStep, adam_step, mixed, sgd_step, square_sum};

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
#[expect(clippy::large_enum_variant, reason = "there are a few dozen at a time")]
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

/// Batch norm by the given running statistics, which are constants, then a gate.
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

/// On burn-ndarray the same functions are burn's own operations.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use burn::tensor::Device;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    #[allow(deprecated)] // It is the reference here.
    fn devices() -> [Device; 2] {
        [Device::flex().autodiff(), Device::ndarray().autodiff()]
    }

    /// Values off zero, so that rounding does not decide on which side of the kink they are.
    fn random(seed: u64, count: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    fn leaf<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
        let data = TensorData::new(random(seed, shape.iter().product()), shape);
        Tensor::from_data(data, device).require_grad()
    }

    /// A loss that weighs every output differently.
    fn backward(output: Tensor<4>) -> burn::tensor::Gradients {
        let weights = random(99, output.shape().num_elements());
        let weights = Tensor::from_data(TensorData::new(weights, output.dims()), &output.device());
        (output * weights).sum().backward()
    }

    fn gradient<const D: usize>(
        tensor: &Tensor<D>,
        gradients: &burn::tensor::Gradients,
    ) -> Vec<f32> {
        values(tensor.grad(gradients).expect("a leaf that was used"))
    }

    /// Runs on both devices and compares every list of values.
    fn assert_same(name: &str, run: impl Fn(&Device) -> Vec<Vec<f32>>) {
        let [fast, reference] = devices().map(|device| run(&device));
        assert_eq!(fast.len(), reference.len());
        for (list, (fast, reference)) in fast.iter().zip(&reference).enumerate() {
            assert_eq!(fast.len(), reference.len(), "{name}, list {list}");
            let scale = reference.iter().fold(1e-3f32, |max, x| max.max(x.abs()));
            for (fast, reference) in fast.iter().zip(reference) {
                let difference = (fast - reference).abs();
                assert!(difference < 2e-5 * scale, "{name}, list {list}: {fast}, {reference}");
            }
        }
    }

    #[test]
    fn convolutions_are_burns() {
        let depthwise = |channels, stride| ConvGeometry::depthwise(channels, 3, stride);
        let cases = [
            (depthwise(5, 1), [3, 5, 7, 18]),
            (depthwise(4, 2), [2, 4, 9, 8]),
            (depthwise(2, 1), [2, 2, 1, 1]),
            (depthwise(3, 2), [2, 3, 2, 2]),
            (ConvGeometry::same(6, 11, 1, 1), [11, 6, 5, 4]),
            (ConvGeometry::same(3, 4, 1, 2), [2, 3, 6, 6]),
            (ConvGeometry::same(3, 4, 3, 1), [2, 3, 6, 6]),
        ];
        for (geometry, shape) in cases {
            assert_same(&geometry.to_string(), |device| {
                let (x, weight) =
                    (leaf(1, shape, device), leaf(2, geometry.weight_shape(), device));
                let output = convolution(x.clone(), weight.clone(), &geometry);
                let list = values(output.clone());
                let gradients = backward(output);
                vec![list, gradient(&x, &gradients), gradient(&weight, &gradients)]
            });
        }
    }

    fn gates(device: &Device) -> Vec<(Gate, Option<Tensor<1>>)> {
        let weight = Tensor::<1>::from_data([0.3], device).require_grad();
        let weights = [
            (GateWeight::None, None),
            (GateWeight::Full, None),
            (GateWeight::Tensor(weight.clone()), Some(weight)),
        ];
        let each = |(weight, leaf): (GateWeight, Option<Tensor<1>>)| {
            [Activation::Relu, Activation::Relu6]
                .map(|activation| (Gate { activation, weight: weight.clone() }, leaf.clone()))
        };
        weights.into_iter().flat_map(each).collect()
    }

    #[test]
    fn batch_norms_with_gates_are_burns() {
        for case in 0..6 {
            assert_same(&format!("statistics of the batch, gate {case}"), |device| {
                let (gate, gate_leaf) = gates(device).swap_remove(case);
                let x = leaf(3, [4, 6, 5, 7], device);
                // Scaled up, so that ReLU6 is cut off above too.
                let parameters = [leaf(4, [6], device), leaf(5, [6], device)];
                let [w, b] = parameters.clone();
                let scaled = [w.mul_scalar(6.0), b.mul_scalar(6.0)];
                let (output, mean, variance) = normalise_batch(x.clone(), scaled, 1e-5, &gate);
                let mut lists = vec![values(output.clone()), values(mean), values(variance)];
                let gradients = backward(output);
                lists.push(gradient(&x, &gradients));
                lists.extend(parameters.iter().map(|leaf| gradient(leaf, &gradients)));
                lists.extend(gate_leaf.iter().map(|leaf| gradient(leaf, &gradients)));
                lists
            });
            assert_same(&format!("given statistics, gate {case}"), |device| {
                let (gate, gate_leaf) = gates(device).swap_remove(case);
                let x = leaf(6, [3, 4, 6, 3], device);
                let [w, b] = [7, 8].map(|seed| leaf(seed, [4], device));
                let mean = Tensor::from_data([0.1, -0.2, 0.3, 0.0], device);
                let variance = Tensor::from_data([0.5, 0.01, 2.0, 1e-8], device);
                let statistics = [w.clone(), b.clone(), mean, variance];
                let output = normalise(x.clone(), statistics, 1e-5, &gate);
                let mut lists = vec![values(output.clone())];
                let gradients = backward(output);
                lists.extend([gradient(&x, &gradients), gradient(&w, &gradients)]);
                lists.push(gradient(&b, &gradients));
                lists.extend(gate_leaf.iter().map(|leaf| gradient(leaf, &gradients)));
                lists
            });
        }
    }

    #[test]
    fn gated_sums_are_burns() {
        for case in 0..6 {
            assert_same(&format!("gate {case}"), |device| {
                let (gate, gate_leaf) = gates(device).swap_remove(case);
                let [a, b] = [11, 12].map(|seed| leaf(seed, [3, 5, 30, 21], device));
                let output = add(a.clone(), b.clone().mul_scalar(9.0), &gate);
                let mut lists = vec![values(output.clone())];
                let gradients = backward(output);
                lists.extend([gradient(&a, &gradients), gradient(&b, &gradients)]);
                lists.extend(gate_leaf.iter().map(|leaf| gradient(leaf, &gradients)));
                lists
            });
        }
    }

    #[test]
    fn without_autodiff_they_are_the_same() {
        let geometry = ConvGeometry::depthwise(3, 3, 1);
        let [tracked, plain] = [Device::flex().autodiff(), Device::flex()].map(|device| {
            let x = Tensor::from_data(TensorData::new(random(1, 96), [2, 3, 4, 4]), &device);
            let weight = Tensor::from_data(TensorData::new(random(2, 27), [3, 1, 3, 3]), &device);
            values(convolution(x, weight, &geometry))
        });
        assert_eq!(tracked, plain);
    }

    /// A constant gradient is broadcast, so it is no contiguous tensor.
    #[test]
    fn gradients_and_inputs_need_not_be_contiguous() {
        let geometry = ConvGeometry::same(3, 2, 1, 1);
        assert_same("transposed input, summed output", |device| {
            let (x, weight) = (leaf(1, [2, 3, 4, 5], device), leaf(2, [2, 3, 1, 1], device));
            let output = convolution(x.clone().swap_dims(2, 3), weight.clone(), &geometry);
            let gradients = output.sum().backward();
            vec![gradient(&x, &gradients), gradient(&weight, &gradients)]
        });
    }
}
