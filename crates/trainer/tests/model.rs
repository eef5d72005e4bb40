//! The burn network against the clear-text evaluator, and the gradients of the gates.

use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::evaluate::CheckpointEvaluator;
use copriv_ir::{
    Activated, Activation, Architecture, BatchNormInit, Checkpoint, Gates, Granularity, Network,
};
use copriv_trainer::model::{GateValue, Mode, Model};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const SIDE: usize = 16;

fn network(architecture: Architecture) -> Network {
    Network::new(architecture, 0.25, 7, SIDE).expect("a small network")
}

/// Random weights and statistics, and a random mask of one digit a gate.
fn checkpoint(network: Network, seed: u64, batch_norms: BatchNormInit) -> Checkpoint {
    let plain = Checkpoint::initialise(network.clone(), seed, batch_norms);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let gates = plain.gates().kept().len();
    let mask: String = (0..gates).map(|_| if random.random() { '1' } else { '0' }).collect();
    let gates = Gates::from_mask(&network, &mask).expect("a digit a gate");
    let (tensors, provenance) = (plain.tensors().clone(), plain.provenance().clone());
    Checkpoint::new(network, gates, tensors, provenance).expect("as it was")
}

/// The same with activations in part, by channel and by value, among those that the gates leave.
fn in_part(whole: &Checkpoint, seed: u64) -> Checkpoint {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (gates, mut parts) = (whole.gates(), BTreeMap::new());
    for node in whole.network().graph().nodes().iter().filter(|node| gates.activated(node) > 0) {
        let by = [Granularity::Channel, Granularity::Pixel][random.random_range(0..2)];
        let bits = (0..by.bits(node.shape)).map(|_| random.random()).collect();
        if let Ok(Activated::Part(mask)) = Activated::of_bits(node.shape, by, bits) {
            parts.insert(node.name.clone(), mask);
        }
    }
    assert!(!parts.is_empty());
    let gates = gates.clone().with_parts(parts);
    let (tensors, provenance) = (whole.tensors().clone(), whole.provenance().clone());
    Checkpoint::new(whole.network().clone(), gates, tensors, provenance)
        .expect("of its activations")
}

fn images(seed: u64, count: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut image = || (0..3 * SIDE * SIDE).map(|_| random.random_range(-2.0..2.0)).collect();
    (0..count).map(|_| image()).collect()
}

fn tensor(images: &[Vec<f32>], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(images.concat(), [images.len(), 3, SIDE, SIDE]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("floats")
}

#[test]
fn evaluation_equals_the_clear_text_evaluator() {
    let device = Device::flex();
    let cases = [
        (Architecture::MobileNetV2, Activation::Relu, true),
        (Architecture::MobileNetV2, Activation::Relu6, false),
        (Architecture::ResNet20, Activation::Relu, true),
        (Architecture::ResNet20, Activation::Relu6, false),
    ];
    for (seed, (architecture, activation, final_activation)) in (1..).zip(cases) {
        let network = network(architecture)
            .with_activation(activation)
            .with_final_activation(final_activation);
        let checkpoint = checkpoint(network, seed, BatchNormInit::Random);
        let images = images(seed, 3);
        for checkpoint in [in_part(&checkpoint, seed), checkpoint] {
            let model = Model::from_checkpoint(&checkpoint, &device);
            let gates = GateValue::fixed(checkpoint.gates().kept());
            let logits = values(model.forward(tensor(&images, &device), &gates, Mode::Evaluate));

            let expected = CheckpointEvaluator::new(&checkpoint).batch_logits(&images).concat();
            let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (found, expected) in logits.iter().zip(&expected) {
                let difference = (found - expected).abs();
                assert!(difference <= 1e-4 * largest, "{architecture}: {found} for {expected}");
            }
            assert_eq!(logits.len(), expected.len());
        }
    }
}

#[test]
fn weights_come_back_as_they_went_in() {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet20] {
        let whole = checkpoint(network(architecture), 3, BatchNormInit::Random);
        let checkpoint = in_part(&whole, 4);
        let model = Model::from_checkpoint(&checkpoint, &Device::flex().autodiff());
        let again = model
            .to_checkpoint(
                checkpoint.gates().kept(),
                checkpoint.gates().parts(),
                checkpoint.provenance().clone(),
            )
            .expect("finite");
        assert_eq!(again, checkpoint);
    }
}

/// A smooth function of the logits, different for every class.
fn loss(logits: Tensor<2>) -> Tensor<1> {
    let [_, classes] = logits.dims();
    let weights: Vec<f32> = (0..classes).map(|class| 0.1 * class as f32 - 0.2).collect();
    let weights = Tensor::<1>::from_data(weights.as_slice(), &logits.device());
    (logits * weights.unsqueeze()).sum()
}

#[test]
fn alphas_receive_the_gradient_of_the_gates_weights() {
    let device = Device::flex().autodiff();
    let checkpoint = checkpoint(network(Architecture::MobileNetV2), 11, BatchNormInit::Random);
    let kept = checkpoint.gates().kept();
    let model = Model::from_checkpoint(&checkpoint, &device);
    let images = tensor(&images(5, 2), &device);
    let forward = |gates: &[GateValue]| model.forward(images.clone(), gates, Mode::Evaluate);

    // All alphas are 0 or 1 here, so move them to where they differ from the mask.
    let alphas = Tensor::<1>::full([kept.len()], 0.3, &device).require_grad();
    let logits = forward(&GateValue::straight_through(&alphas, kept, &vec![true; kept.len()]));
    let fixed = values(forward(&GateValue::fixed(kept)));
    let largest = fixed.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let close = |(a, b): (f32, &f32)| (a - b).abs() <= 1e-5 * largest;
    assert!(values(logits.clone()).into_iter().zip(&fixed).all(close), "hard in the forward pass");
    let found = values(alphas.grad(&loss(logits).backward()).expect("alphas are trained"));

    let weights: Vec<f32> = kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
    let weights = Tensor::<1>::from_data(weights.as_slice(), &device).require_grad();
    let gate = |gate| GateValue::Weighted(weights.clone().narrow(0, gate, 1));
    let gates: Vec<GateValue> = (0..kept.len()).map(gate).collect();
    let logits = forward(&gates);
    let expected = values(weights.grad(&loss(logits).backward()).expect("a leaf"));
    let scale = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-4 * scale));
    assert!(expected.iter().all(|gradient| *gradient != 0.0));
}

/// Between a gate and the logits the network is smooth almost everywhere; behind the last two gates
/// it is so nearly linear that finite differences show it.
#[test]
fn gradients_of_the_last_gates_are_finite_differences() {
    let checkpoint = checkpoint(network(Architecture::MobileNetV2), 11, BatchNormInit::Random);
    let kept = checkpoint.gates().kept();
    let images = images(5, 8);
    let at = |device: &Device, gate: usize, weight: &Tensor<1>| {
        let model = Model::from_checkpoint(&checkpoint, device);
        let mut gates = GateValue::fixed(kept);
        gates[gate] = GateValue::Weighted(weight.clone());
        loss(model.forward(tensor(&images, device), &gates, Mode::Evaluate))
    };
    let (plain, trained) = (Device::flex(), Device::flex().autodiff());
    for (gate, tolerance) in [(17, 0.1), (18, 0.01)] {
        for weight in [0.0, 0.4, 1.0f32] {
            let value = |shift: f32| {
                values(at(&plain, gate, &Tensor::from_data([weight + shift], &plain)))[0]
            };
            let expected = (value(0.01) - value(-0.01)) / 0.02;
            let leaf = Tensor::<1>::from_data([weight], &trained).require_grad();
            let gradients = at(&trained, gate, &leaf).backward();
            let found = values(leaf.grad(&gradients).expect("a leaf"))[0];
            let difference = (found - expected).abs();
            assert!(
                difference < tolerance * found.abs().max(0.1),
                "gate {gate}: {found} against {expected}"
            );
        }
    }
}

#[test]
fn training_mode_normalises_by_the_batch_and_moves_the_statistics() {
    let checkpoint =
        Checkpoint::initialise(network(Architecture::ResNet20), 2, BatchNormInit::Identity);
    let device = Device::flex().autodiff();
    let model = Model::from_checkpoint(&checkpoint, &device);
    let kept = checkpoint.gates().kept();
    let images = tensor(&images(8, 4), &device);
    let once = values(model.forward(images.clone(), &GateValue::fixed(kept), Mode::Train));
    let again = values(model.forward(images, &GateValue::fixed(kept), Mode::Train));
    assert_eq!(once, again, "statistics of the batch do not depend on the running ones");

    let moved = model
        .to_checkpoint(kept, checkpoint.gates().parts(), checkpoint.provenance().clone())
        .expect("finite");
    let conv = CheckpointStem::new(&checkpoint, &self::images(8, 4));
    let mean = moved.tensor("bn1.running_mean").expect("a statistic").data();
    let var = moved.tensor("bn1.running_var").expect("a statistic").data();
    for channel in 0..mean.len() {
        // Two updates with a tenth of the new value: 1 - 0.9^2 of it.
        let (expected_mean, expected_var) = conv.statistics(channel);
        assert!((f64::from(mean[channel]) - 0.19 * expected_mean).abs() < 1e-4);
        assert!((f64::from(var[channel]) - (0.81 + 0.19 * expected_var)).abs() < 1e-3);
    }
}

/// The output of a ResNet's first convolution, computed the plain way.
struct CheckpointStem {
    channels: Vec<Vec<f64>>,
}

impl CheckpointStem {
    fn new(checkpoint: &Checkpoint, images: &[Vec<f32>]) -> Self {
        let weight = checkpoint.tensor("conv1.weight").expect("the stem");
        let pixel = |image: &[f32], c: usize, y: isize, x: isize| {
            let side = SIDE as isize;
            let inside = (0..side).contains(&y) && (0..side).contains(&x);
            if inside { f64::from(image[(c * SIDE + y as usize) * SIDE + x as usize]) } else { 0.0 }
        };
        let output = |k: usize, image: &[f32], y: isize, x: isize| -> f64 {
            let taps = (0..27).map(|tap| (tap / 9, (tap % 9 / 3) as isize, (tap % 3) as isize));
            taps.map(|(c, dy, dx)| {
                let weight = weight.data()[k * 27 + c * 9 + (dy * 3 + dx) as usize];
                f64::from(weight) * pixel(image, c, y + dy - 1, x + dx - 1)
            })
            .sum()
        };
        let map = |k: usize| {
            let mut outputs = Vec::new();
            for image in images {
                for (y, x) in (0..SIDE * SIDE).map(|i| ((i / SIDE) as isize, (i % SIDE) as isize)) {
                    outputs.push(output(k, image, y, x));
                }
            }
            outputs
        };
        Self { channels: (0..weight.shape()[0]).map(map).collect() }
    }

    /// Mean and unbiased variance.
    fn statistics(&self, channel: usize) -> (f64, f64) {
        let values = &self.channels[channel];
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (mean, squares / (count - 1.0))
    }
}
