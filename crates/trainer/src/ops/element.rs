//! Functions of several values at the same place, in one threaded pass over memory: the optimisers' steps.

use super::host::{HostTensor, plain};
use super::vector::vectorised;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Values a task handles; small enough to stay in a core's own cache.
const CHUNK: usize = 1 << 13;

/// The settings of one step of SGD with Nesterov momentum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdStep {
    pub(crate) rate: f32,
    pub(crate) momentum: f32,
    pub(crate) decay: f32,
    /// Factor on the gradient.
    pub(crate) gradient_scale: f32,
}

/// The new value and velocity, as PyTorch's SGD computes them.
pub(crate) fn sgd_step(
    value: Tensor<1>,
    gradient: Tensor<1>,
    velocity: Option<Tensor<1>>,
    step: SgdStep,
) -> [Tensor<1>; 2] {
    let velocity = velocity.unwrap_or_else(|| gradient.zeros_like());
    let SgdStep { rate, momentum, decay, gradient_scale } = step;
    let inputs = [&value, &gradient, &velocity];
    let fast = zip(inputs, |[value, gradient, velocity]| {
        let gradient = gradient_scale * gradient + decay * value;
        let velocity = momentum * velocity + gradient;
        [value - rate * (gradient + momentum * velocity), velocity]
    });
    fast.unwrap_or_else(|| {
        let gradient = gradient.mul_scalar(gradient_scale) + value.clone().mul_scalar(decay);
        let velocity = velocity.mul_scalar(momentum) + gradient.clone();
        let direction = gradient + velocity.clone().mul_scalar(momentum);
        [value - direction.mul_scalar(rate), velocity]
    })
}

/// The settings of one step of AdamW (arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    pub(crate) rate: f32,
    pub(crate) betas: [f32; 2],
    pub(crate) epsilon: f32,
    pub(crate) decay: f32,
    /// `1 - beta^t` of both moments at step t, counted from 1.
    pub(crate) corrections: [f32; 2],
    /// Factor on the gradient.
    pub(crate) gradient_scale: f32,
}

/// The new value and moments, as PyTorch's AdamW computes them.
pub(crate) fn adam_step(
    value: Tensor<1>,
    gradient: Tensor<1>,
    moments: Option<[Tensor<1>; 2]>,
    step: AdamStep,
) -> [Tensor<1>; 3] {
    let zeros = || gradient.zeros_like();
    let [first, second] = moments.unwrap_or_else(|| [zeros(), zeros()]);
    let AdamStep { rate, betas: [b1, b2], epsilon, decay, corrections, gradient_scale } = step;
    let (size, root) = (rate / corrections[0], corrections[1].sqrt());
    let fast = zip([&value, &gradient, &first, &second], |[value, gradient, first, second]| {
        let gradient = gradient_scale * gradient;
        let first = b1 * first + (1.0 - b1) * gradient;
        let second = b2 * second + (1.0 - b2) * gradient * gradient;
        let decayed = value * (1.0 - rate * decay);
        [decayed - size * first / (second.sqrt() / root + epsilon), first, second]
    });
    fast.unwrap_or_else(|| {
        let gradient = gradient.mul_scalar(gradient_scale);
        let first = first.mul_scalar(b1) + gradient.clone().mul_scalar(1.0 - b1);
        let square = gradient.clone() * gradient;
        let second = second.mul_scalar(b2) + square.mul_scalar(1.0 - b2);
        let divisor = second.clone().sqrt().div_scalar(root).add_scalar(epsilon);
        let direction = first.clone().mul_scalar(size) / divisor;
        [value.mul_scalar(1.0 - rate * decay) - direction, first, second]
    })
}

/// `share * old + (1 - share) * new`.
pub(crate) fn mixed(old: Tensor<1>, new: Tensor<1>, share: f32) -> Tensor<1> {
    let fast = zip([&old, &new], |[old, new]| [share * old + (1.0 - share) * new]);
    fast.map_or_else(|| old.mul_scalar(share) + new.mul_scalar(1.0 - share), |[mixed]| mixed)
}

/// The sum of squares.
pub(crate) fn square_sum(tensor: &Tensor<1>) -> f64 {
    let Some(host) = plain(tensor) else {
        let sum = (tensor.clone() * tensor.clone()).sum();
        return sum.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
    };
    // Collected before they are added, so that the sum does not depend on the threads.
    let sum = |chunk: &[f32]| chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let sums: Vec<f64> = host.values().par_chunks(CHUNK).map(sum).collect();
    sums.iter().sum()
}

/// `f` of the values at each place, if all tensors are on the host and without autodiff.
fn zip<const N: usize, const M: usize>(
    inputs: [&Tensor<1>; N],
    f: impl Fn([f32; N]) -> [f32; M] + Sync,
) -> Option<[Tensor<1>; M]> {
    let hosts = inputs.map(plain);
    let inputs: Vec<&[f32]> = hosts.iter().flatten().map(HostTensor::values).collect();
    let inputs: [&[f32]; N] = inputs.try_into().ok()?;
    let len = inputs.first().map_or(0, |values| values.len());
    if inputs.iter().any(|values| values.len() != len) {
        return None;
    }
    let mut outputs: [Vec<f32>; M] = std::array::from_fn(|_| vec![0.0; len]);
    let mut parts = outputs.each_mut().map(|output| output.chunks_mut(CHUNK));
    let chunks: Vec<[&mut [f32]; M]> = (0..len.div_ceil(CHUNK))
        .map(|_| parts.each_mut().map(|part| part.next().unwrap_or_default()))
        .collect();
    chunks.into_par_iter().enumerate().for_each(|(number, mut outputs)| {
        let start = number * CHUNK;
        let end = (start + CHUNK).min(len);
        let inputs = inputs.map(|values| &values[start..end]);
        vectorised(|| {
            for i in 0..end - start {
                let results = f(inputs.map(|values| values[i]));
                for (output, result) in outputs.iter_mut().zip(results) {
                    output[i] = result;
                }
            }
        });
    });
    Some(outputs.map(|values| HostTensor::new(values, vec![len]).into_tensor()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use burn::tensor::Device;

    /// Both paths, on some numbers that span several chunks.
    #[allow(deprecated)] // burn-ndarray is the reference here.
    fn assert_same(run: impl Fn(&dyn Fn(f32) -> Tensor<1>) -> Vec<Tensor<1>>) {
        let results = [Device::flex(), Device::ndarray()].map(|device| {
            let tensor = |phase: f32| {
                let list: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
                Tensor::<1>::from_floats(list.as_slice(), &device)
            };
            run(&tensor).into_iter().map(values).collect::<Vec<_>>()
        });
        let [fast, reference] = results;
        for (fast, reference) in fast.concat().iter().zip(reference.concat()) {
            assert!((fast - reference).abs() < 1e-5, "{fast}, {reference}");
        }
    }

    #[test]
    fn fused_steps_are_burns() {
        let sgd = SgdStep { rate: 0.1, momentum: 0.9, decay: 0.01, gradient_scale: 0.5 };
        assert_same(|tensor| sgd_step(tensor(0.0), tensor(1.0), Some(tensor(2.0)), sgd).into());
        assert_same(|tensor| sgd_step(tensor(0.0), tensor(1.0), None, sgd).into());
        let adam = AdamStep {
            rate: 0.01,
            betas: [0.9, 0.99],
            epsilon: 1e-3,
            decay: 0.1,
            corrections: [0.3, 0.1],
            gradient_scale: 2.0,
        };
        assert_same(|tensor| {
            let moments = [tensor(2.0), tensor(3.0).abs()];
            adam_step(tensor(0.0), tensor(1.0), Some(moments), adam).into()
        });
        assert_same(|tensor| vec![mixed(tensor(0.0), tensor(1.0), 0.75)]);
        assert_same(|tensor| {
            let sum = square_sum(&tensor(0.0)) as f32 / 1e4;
            vec![tensor(0.0).mul_scalar(sum)]
        });
    }

    /// Three steps by hand.
    #[test]
    fn steps_follow_their_definitions() {
        let tensor = |x: f32| Tensor::<1>::from_floats([x], &Device::flex());
        let value = |tensor: &Tensor<1>| values(tensor.clone())[0];
        let step = SgdStep { rate: 0.5, momentum: 0.5, decay: 0.0, gradient_scale: 1.0 };
        let [a, v] = sgd_step(tensor(1.0), tensor(0.2), None, step);
        assert!((value(&a) - (1.0 - 0.5 * 0.3)).abs() < 1e-6 && (value(&v) - 0.2).abs() < 1e-6);
        let [b, v] = sgd_step(a, tensor(0.2), Some(v), step);
        assert!((value(&b) - (0.85 - 0.5 * (0.2 + 0.15))).abs() < 1e-6);
        assert!((value(&v) - 0.3).abs() < 1e-6);
        // The first step of Adam is the rate, whatever the gradient.
        let adam = AdamStep {
            rate: 0.01,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            decay: 0.1,
            corrections: [0.1, 0.001],
            gradient_scale: 1.0,
        };
        for gradient in [-7.0, 1e-3] {
            let [a, ..] = adam_step(tensor(2.0), tensor(gradient), None, adam);
            let expected = 2.0 * (1.0 - 0.001) - 0.01 * gradient.signum();
            assert!((value(&a) - expected).abs() < 1e-5, "{}", value(&a));
        }
    }
}
