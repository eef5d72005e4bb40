//! On burn-ndarray the same functions are burn's own operations.

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
    tracked(Tensor::from_data(data, device))
}

fn tracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.require_grad() } else { tensor }
}

/// A loss that weighs every output differently.
fn loss(output: Tensor<4>) -> Tensor<1> {
    let weights = random(99, output.shape().num_elements());
    let weights = Tensor::from_data(TensorData::new(weights, output.dims()), &output.device());
    (output * weights).sum()
}

fn gradient<const D: usize>(tensor: &Tensor<D>, gradients: &burn::tensor::Gradients) -> Vec<f32> {
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
            assert!(difference < 5e-5 * scale, "{name}, list {list}: {fast}, {reference}");
        }
    }
}

fn gates(device: &Device) -> Vec<(Gate, Option<Tensor<1>>)> {
    let weight = tracked(Tensor::<1>::from_data([0.3], device));
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

/// Units of these geometries that all have one gate, and their leaves.
fn units(
    geometries: &[ConvGeometry],
    gate: &Gate,
    device: &Device,
) -> (Vec<Unit>, Vec<(Tensor<4>, [Tensor<1>; 2])>) {
    let unit = |(number, geometry): (usize, &ConvGeometry)| {
        let (seed, channels) = (10 * number as u64, geometry.out_channels);
        let weight = leaf(seed + 1, geometry.weight_shape(), device);
        let norm = [leaf(seed + 2, [channels], device), leaf(seed + 3, [channels], device)];
        // Scaled up, so that ReLU6 is cut off above too.
        let parameters = norm.clone().map(|leaf| leaf.mul_scalar(6.0));
        let constant = |list: Vec<f32>| Tensor::from_data(list.as_slice(), device);
        let variance = random(seed + 5, channels).into_iter().map(|x| x * x + 1e-8).collect();
        let running = [constant(random(seed + 4, channels)), constant(variance)];
        let unit = Unit {
            geometry: *geometry,
            weight: weight.clone(),
            parameters,
            running,
            gate: gate.clone(),
        };
        (unit, (weight, norm))
    };
    geometries.iter().enumerate().map(unit).unzip()
}

/// Output, moments and the gradients of all leaves.
fn results(
    geometries: &[ConvGeometry],
    shape: [usize; 4],
    by: NormaliseBy,
    case: usize,
    device: &Device,
) -> Vec<Vec<f32>> {
    let (gate, gate_leaf) = gates(device).swap_remove(case);
    let (units, leaves) = units(geometries, &gate, device);
    let x = leaf(0, shape, device);
    let (output, moments) = chain(x.clone(), &units, 1e-5, by);
    let mut lists = vec![values(output.clone())];
    lists.extend(moments.into_iter().flatten().map(values));
    let gradients = loss(output).backward();
    lists.push(gradient(&x, &gradients));
    for (weight, [scale, shift]) in &leaves {
        lists.push(gradient(weight, &gradients));
        lists.extend([gradient(scale, &gradients), gradient(shift, &gradients)]);
    }
    lists.extend(gate_leaf.iter().map(|leaf| gradient(leaf, &gradients)));
    lists
}

const WAYS: [NormaliseBy; 2] = [NormaliseBy::Batch, NormaliseBy::Running];

#[test]
fn single_convolutions_with_norm_and_gate_are_burns() {
    let depthwise = |channels, stride| ConvGeometry::depthwise(channels, 3, stride);
    let cases = [
        (depthwise(5, 1), [3, 5, 7, 18]),
        (depthwise(20, 2), [9, 20, 9, 8]),
        (depthwise(2, 1), [9, 2, 1, 1]),
        (depthwise(3, 2), [7, 3, 2, 2]),
        (ConvGeometry::same(6, 50, 1, 1), [11, 6, 5, 4]),
        (ConvGeometry::same(70, 17, 1, 1), [9, 70, 3, 5]),
        (ConvGeometry::same(3, 4, 1, 2), [2, 3, 6, 6]),
        (ConvGeometry::same(3, 4, 3, 1), [2, 3, 6, 6]),
        (ConvGeometry::same(19, 5, 3, 2), [9, 19, 7, 4]),
        (ConvGeometry::same(3, 4, 7, 2), [2, 3, 13, 12]),
    ];
    for (geometry, shape) in cases {
        for (by, case) in WAYS.into_iter().flat_map(|by| (0..6).map(move |case| (by, case))) {
            assert_same(&format!("{geometry}, {by:?}, gate {case}"), |device| {
                results(&[geometry], shape, by, case, device)
            });
        }
    }
}

/// An inverted residual block behind a first convolution, and more units than one operation holds.
fn long() -> ([ConvGeometry; 8], [usize; 4]) {
    let point = |inputs, outputs| ConvGeometry::same(inputs, outputs, 1, 1);
    let geometries = [
        ConvGeometry::same(3, 7, 3, 1),
        point(7, 34),
        ConvGeometry::depthwise(34, 3, 2),
        point(34, 6),
        point(6, 20),
        ConvGeometry::depthwise(20, 3, 1),
        point(20, 5),
        ConvGeometry::same(5, 4, 3, 2),
    ];
    (geometries, [10, 3, 9, 8])
}

#[test]
fn chains_are_burns() {
    let (geometries, shape) = long();
    for count in [2, 3, 5, 8] {
        for by in WAYS {
            assert_same(&format!("{count} units, {by:?}"), |device| {
                results(&geometries[..count], shape, by, 4, device)
            });
        }
    }
}

/// Compares the gradient of every leaf with the change of the loss along a direction.
fn assert_finite_differences<const N: usize>(
    name: &str,
    leaves: &[Tensor<1>; N],
    run: impl Fn(&[Tensor<1>; N]) -> Tensor<4>,
) {
    let size = 2e-3;
    let gradients = loss(run(leaves)).backward();
    for (number, leaf) in leaves.iter().enumerate() {
        let gradient = gradient(leaf, &gradients);
        let direction = random(77, gradient.len());
        let along = |step: f32| {
            let by: Vec<f32> = direction.iter().map(|d| step * d).collect();
            let mut moved = leaves.clone();
            moved[number] = leaf.clone() + Tensor::from_data(by.as_slice(), &leaf.device());
            f64::from(values(loss(run(&moved)))[0])
        };
        let found = (along(size) - along(-size)) / (2.0 * f64::from(size));
        let pairs = gradient.iter().zip(&direction);
        let expected: f64 = pairs.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let scale = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(scale > 0.0, "{name}, leaf {number}: no gradient");
        let difference = (found - expected).abs();
        assert!(difference < 0.02 * scale, "{name}, leaf {number}: {found}, {expected}, {scale}");
    }
}

/// Input, then weight, scale, shift and gate of two units.
#[test]
fn gradients_of_chains_are_finite_differences() {
    let device = Device::flex().autodiff();
    let [first, second] = [ConvGeometry::same(3, 20, 1, 1), ConvGeometry::depthwise(20, 3, 2)];
    let flat = |seed, count| leaf::<1>(seed, [count], &device);
    let weights = [first, second].map(|geometry| geometry.weight_elements());
    let leaves = [
        flat(1, 10 * 3 * 9 * 8),
        flat(2, weights[0]),
        flat(3, 20),
        flat(4, 20),
        flat(5, 1),
        flat(6, weights[1]),
        flat(7, 20),
        flat(8, 20),
        flat(9, 1),
    ];
    for by in WAYS {
        assert_finite_differences(&format!("{by:?}"), &leaves, |leaves| {
            let unit = |geometry: ConvGeometry, leaves: &[Tensor<1>]| Unit {
                geometry,
                weight: leaves[0].clone().reshape(geometry.weight_shape()),
                parameters: [leaves[1].clone().mul_scalar(4.0), leaves[2].clone().mul_scalar(4.0)],
                running: [0.1, 0.7].map(|value| Tensor::from_data([value; 20], &device)),
                gate: Gate {
                    activation: Activation::Relu6,
                    weight: GateWeight::Tensor(leaves[3].clone()),
                },
            };
            let units = [unit(first, &leaves[1..5]), unit(second, &leaves[5..])];
            chain(leaves[0].clone().reshape([10, 3, 9, 8]), &units, 1e-5, by).0
        });
    }
}

#[test]
fn gradients_of_dense_convolutions_are_finite_differences() {
    let device = Device::flex().autodiff();
    for geometry in [ConvGeometry::same(5, 4, 3, 1), ConvGeometry::same(5, 4, 3, 2)] {
        let weights = geometry.weight_elements();
        let leaves = [(1, 10 * 5 * 7 * 6), (2, weights), (3, 4), (4, 4)]
            .map(|(seed, count)| leaf::<1>(seed, [count], &device));
        assert_finite_differences(&geometry.to_string(), &leaves, |[x, weight, scale, shift]| {
            let unit = Unit {
                geometry,
                weight: weight.clone().reshape(geometry.weight_shape()),
                parameters: [scale.clone(), shift.clone()],
                running: [0.1, 0.7].map(|value| Tensor::from_data([value; 4], &device)),
                gate: Gate { activation: Activation::Relu, weight: GateWeight::None },
            };
            chain(x.clone().reshape([10, 5, 7, 6]), &[unit], 1e-5, NormaliseBy::Batch).0
        });
    }
}

#[test]
fn gradients_of_sums_parts_and_means_are_finite_differences() {
    let device = Device::flex().autodiff();
    let shape = [3, 5, 8, 6];
    let map = |x: &Tensor<1>| x.clone().mul_scalar(9.0).reshape(shape);
    let [a, b] = [11, 12].map(|seed| leaf::<1>(seed, [3 * 5 * 8 * 6], &device));
    for activation in [Activation::Relu, Activation::Relu6] {
        let leaves = [a.clone(), b.clone(), leaf(13, [1], &device)];
        assert_finite_differences("sum", &leaves, |[a, b, weight]| {
            let gate = Gate { activation, weight: GateWeight::Tensor(weight.clone()) };
            add(map(a), map(b), &gate)
        });
        for count in [5, 5 * 8 * 6] {
            let leaves = [a.clone(), leaf(14, [count], &device)];
            assert_finite_differences("parts", &leaves, |[a, weights]| {
                activate_in_part(map(a), activation, weights.clone())
            });
        }
    }
    assert_finite_differences("mean", &[a], |[a]| global_average(map(a)));
}

#[test]
fn results_do_not_depend_on_the_threads() {
    let (geometries, [_, channels, height, width]) = long();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let device = Device::flex().autodiff();
            results(&geometries, [41, channels, height, width], NormaliseBy::Batch, 4, &device)
        })
    };
    let alone = run(1);
    assert_eq!(run(2), alone);
    assert_eq!(run(5), alone);
}

#[test]
fn without_autodiff_they_are_the_same() {
    let (geometries, shape) = long();
    let run = |device: &Device| {
        let gate = gates(device).swap_remove(3).0;
        let (units, _) = units(&geometries, &gate, device);
        let x = leaf(0, shape, device);
        WAYS.map(|by| values(chain(x.clone(), &units, 1e-5, by).0))
    };
    assert_eq!(run(&Device::flex().autodiff()), run(&Device::flex()));
}

#[test]
fn gated_sums_are_burns() {
    for case in 0..6 {
        assert_same(&format!("gate {case}"), |device| {
            let (gate, gate_leaf) = gates(device).swap_remove(case);
            let [a, b] = [11, 12].map(|seed| leaf(seed, [3, 5, 30, 21], device));
            let output = add(a.clone(), b.clone().mul_scalar(9.0), &gate);
            let mut lists = vec![values(output.clone())];
            let gradients = loss(output).backward();
            lists.extend([gradient(&a, &gradients), gradient(&b, &gradients)]);
            lists.extend(gate_leaf.iter().map(|leaf| gradient(leaf, &gradients)));
            lists
        });
    }
}

#[test]
fn values_go_onto_the_grid_as_by_burns_operations() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut draw = |count| (0..count).map(|_| random.random()).collect();
    let chances = Arc::new(Chances { places: draw(5 * 4 * 21), maps: draw(3) });
    for chances in [None, Some(chances)] {
        for unit in [0.5, 8.0] {
            assert_same("grid", |device| {
                let x = leaf(11, [3, 21, 5, 4], device);
                let output = onto_grid(x.clone().mul_scalar(3.0), unit, chances.clone());
                let list = values(output.clone());
                assert!(list.iter().all(|y| (f64::from(*y) * unit).fract() == 0.0));
                vec![list, gradient(&x, &loss(output).backward())]
            });
        }
    }
}

#[test]
fn means_are_burns() {
    assert_same("mean", |device| {
        let x = leaf(11, [3, 21, 5, 4], device);
        let output = global_average(x.clone());
        let list = values(output.clone());
        vec![list, gradient(&x, &loss(output).backward())]
    });
}

/// A constant gradient is broadcast, so it is no contiguous tensor.
#[test]
fn gradients_and_inputs_need_not_be_contiguous() {
    let geometry = ConvGeometry::same(3, 2, 1, 1);
    assert_same("transposed input, summed output", |device| {
        let gate = gates(device).swap_remove(1).0;
        let (units, leaves) = units(&[geometry], &gate, device);
        let x = leaf(1, [2, 3, 4, 5], device);
        let (output, _) = chain(x.clone().swap_dims(2, 3), &units, 1e-5, NormaliseBy::Running);
        let gradients = output.sum().backward();
        vec![gradient(&x, &gradients), gradient(&leaves[0].0, &gradients)]
    });
}

#[test]
fn activations_in_part_are_burns() {
    for activation in [Activation::Relu, Activation::Relu6] {
        for (count, shape) in
            [(5, [3, 5, 6, 7]), (210, [3, 5, 6, 7]), (4, [9, 4, 1, 1]), (3, [2, 3, 40, 33])]
        {
            assert_same(&format!("{activation:?}, {count} weights"), |device| {
                let (x, weights) = (leaf(21, shape, device), leaf(22, [count], device));
                // Some of them are whole or absent.
                let choice: Vec<f32> = (0..count).map(|i| (i % 3) as f32 / 2.0).collect();
                let choice = Tensor::<1>::from_data(TensorData::new(choice, [count]), device);
                let shifted = weights.clone().mul_scalar(0.1) + choice;
                let output = activate_in_part(x.clone().mul_scalar(9.0), activation, shifted);
                let list = values(output.clone());
                let gradients = loss(output).backward();
                vec![list, gradient(&x, &gradients), gradient(&weights, &gradients)]
            });
        }
    }
}

/// What is whole or absent is so in every bit.
#[test]
fn weights_of_zero_and_one_choose() {
    let device = Device::flex();
    let list: Vec<f32> = random(5, 48).iter().map(|x| 9.0 * x).collect();
    let x = Tensor::<4>::from_data(TensorData::new(list.clone(), [2, 3, 2, 4]), &device);
    let mask: Vec<f32> = (0..24).map(|i| (i * 7 % 3 % 2) as f32).collect();
    let weights = Tensor::<1>::from_data(TensorData::new(mask.clone(), [24]), &device);
    for activation in [Activation::Relu, Activation::Relu6] {
        let found = values(activate_in_part(x.clone(), activation, weights.clone()));
        for (position, (found, &x)) in found.iter().zip(&list).enumerate() {
            let expected = if mask[position % 24] == 1.0 { activation.apply(x) } else { x };
            assert_eq!(*found, expected, "{position}");
        }
    }
}
