//! Fine-tuning that rounds answers what the plan answers which is compiled from its network.

use copriv_compiler::{Calibration, CompileConfig, Preset, compile};
use copriv_ir::cost::oracle;
use copriv_ir::evaluate::{FusedEvaluator, PlanEvaluator, Rounding};
use copriv_ir::{
    Architecture, BatchNormInit, Checkpoint, FusedModel, FusedOp, Gates, Graph, LayerWidths,
    Network, Plan, StepOp, Widths,
};
use copriv_trainer::train::quantised_logits;

fn images(network: &Network, seed: usize, count: usize) -> Vec<Vec<f32>> {
    let elements = network.input().shape.elements();
    let value = |i: usize| (((i + 977 * seed) * 7919 % 10_007) as f32 / 10_007.0 - 0.5) * 4.0;
    (0..count).map(|image| (0..elements).map(|i| value(image * elements + i)).collect()).collect()
}

/// Random weights and batch norms.
fn checkpoint(network: &Network, mask: &str) -> Checkpoint {
    let made = Checkpoint::initialise(network.clone(), 3, BatchNormInit::Random);
    let gates = Gates::from_mask(network, mask).expect("its mask");
    let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
    Checkpoint::new(network.clone(), gates, tensors, provenance).expect("whole")
}

/// The same with batch norms that scale by powers of two and shift by multiples of 2^-6. All sums are then exact in single
/// precision, and what lies halfway between two numbers does so in every order of summation.
fn with_exact_sums(made: &Checkpoint) -> Checkpoint {
    let mut tensors = made.tensors().clone();
    for (name, tensor) in &mut tensors {
        let is_norm = made.tensors().contains_key(&norm_part(name, "running_var"));
        let value: fn(usize) -> f32 = match name.rsplit('.').next() {
            Some("weight") if is_norm => |i| [1.0, 0.5, -1.0, -0.5][i % 4],
            Some("bias") if is_norm => |i| (i * 37 % 64) as f32 / 64.0 - 0.5,
            Some("running_mean") => |i| (i * 29 % 32) as f32 / 32.0 - 0.5,
            Some("running_var") => |_| 1.0 - Graph::BATCH_NORM_EPSILON,
            _ => continue,
        };
        tensor.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = value(i));
    }
    let (network, gates) = (made.network().clone(), made.gates().clone());
    Checkpoint::new(network, gates, tensors, made.provenance().clone()).expect("whole")
}

/// Another parameter of the layer that has the one called `name`.
fn norm_part(name: &str, part: &str) -> String {
    let (layer, _) = name.rsplit_once('.').expect("a layer's");
    format!("{layer}.{part}")
}

/// The logits of a plan whose truncations all round to the nearest, halves to the even one, as training does.
fn nearest(plan: &Plan, evaluator: &PlanEvaluator<'_>, image: &[f32]) -> Vec<f64> {
    let mut values = vec![evaluator.quantise_input(image)];
    for step in &plan.steps()[1..] {
        let inputs: Vec<&[u64]> = step.inputs.iter().map(|v| values[v.0].as_slice()).collect();
        let shares: Vec<u64> = match step.op {
            StepOp::Truncate { shift, .. } => {
                // Rounds up from the share's low bits on.
                let half = 1u64 << (shift - 1);
                inputs[0].iter().map(|x| half + u64::from(x >> shift & 1 == 0)).collect()
            }
            _ => vec![],
        };
        let value = evaluator.step(step, &inputs, Rounding::ServerShares(&shares));
        values.push(value);
    }
    let fact = plan.values().last().expect("a value");
    let unit = (-f64::from(fact.scale)).exp2();
    let logits = values.pop().expect("a value");
    logits.into_iter().map(|logit| fact.ring.to_signed(logit) as f64 * unit).collect()
}

/// Logits of some images by each road.
struct Logits {
    /// Of the fused network, in floating point.
    float: Vec<Vec<f64>>,
    /// Of the plan of the preset `fast`, rounding to the nearest.
    plan: Vec<Vec<f64>>,
    /// Of the same plan as it is, rounding by chance.
    chance: Vec<Vec<f64>>,
    /// Of the network as fine-tuning has it, rounding to the nearest.
    trained: Vec<Vec<f64>>,
    /// And as it is, rounding by chance.
    trained_by_chance: Vec<Vec<f64>>,
}

impl Logits {
    fn of(checkpoint: &Checkpoint, [weight_bits, activation_bits]: [u32; 2]) -> Self {
        Self::of_widths(checkpoint, &Widths::uniform(weight_bits, activation_bits))
    }

    fn of_widths(checkpoint: &Checkpoint, widths: &Widths) -> Self {
        Self::of_images(checkpoint, widths, 6)
    }

    fn of_images(checkpoint: &Checkpoint, widths: &Widths, count: usize) -> Self {
        let network = checkpoint.network();
        let (calibration, images) = (images(network, 1, 6), images(network, 2, count));
        let fused = copriv_reparam::fuse(checkpoint).expect("fuses");
        let ranges = Calibration::from_images(&fused, &calibration).expect("finite");
        let config = CompileConfig { widths: widths.clone(), ..CompileConfig::new(Preset::Fast) };
        let compiled = compile(&fused, &ranges, &config).expect("compiles");
        let found = Widths::of_plan(&compiled.plan).expect("of mixed precision");
        assert_eq!(found, *widths);
        let evaluator = PlanEvaluator::new(&compiled.plan, &compiled.weights).expect("belong");
        let trained =
            |chance| quantised_logits(checkpoint, &found, (&calibration, &images), chance);
        let double = |logits: Vec<Vec<f32>>| -> Vec<Vec<f64>> {
            logits.into_iter().map(|logits| logits.into_iter().map(f64::from).collect()).collect()
        };
        Self {
            float: double(FusedEvaluator::new(&fused).batch_logits(&images)),
            plan: images.iter().map(|image| nearest(&compiled.plan, &evaluator, image)).collect(),
            chance: evaluator.batch_logits(&images),
            trained: double(trained(None)),
            trained_by_chance: double(trained(Some(1))),
        }
    }
}

/// Root mean square of the differences.
fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a - b);
    let (count, sum) = differences.fold((0, 0.0), |(count, sum), x| (count + 1, sum + x * x));
    (sum / f64::from(count)).sqrt()
}

impl Logits {
    /// How much rounding to the nearest changes logits.
    fn rounding(&self) -> f64 {
        let rounding = distance(&self.plan, &self.float);
        assert!(rounding > 1e-3, "{rounding}");
        rounding
    }

    /// For how many images training answers as the plan does.
    fn equal(&self) -> usize {
        let limit = 1e-3 * self.rounding();
        let is_equal =
            |(a, b): &(&Vec<f64>, &Vec<f64>)| a.iter().zip(*b).all(|(a, b)| (a - b).abs() < limit);
        self.trained.iter().zip(&self.plan).filter(is_equal).count()
    }
}

/// Layers one to one: everything that is not merged, whether its activations are kept or not.
#[test]
fn a_network_is_trained_on_the_grid_of_its_plan() {
    for (architecture, side, mask) in [
        (Architecture::ResNet20, 16, "111111111"),
        // Two padded 3x3 kernels in a row are not one convolution.
        (Architecture::ResNet20, 16, "011001010"),
        (Architecture::MobileNetV2, 32, "11111111111111111"),
    ] {
        let network = Network::new(architecture, 0.25, 10, side).expect("small");
        let checkpoint = with_exact_sums(&checkpoint(&network, mask));
        for bits in [[8, 8], [6, 5]] {
            let logits = Logits::of(&checkpoint, bits);
            assert_eq!(logits.equal(), logits.plan.len(), "{network} {mask} {bits:?}");
            // By chance a value is up to a unit off, to the nearest up to half of one.
            let found = distance(&logits.trained, &logits.chance);
            assert!(found < 2.0 * logits.rounding(), "{network} {mask} {bits:?}: {found}");
        }
    }
}

/// By chance values are rounded with the odds of the plan: what that does to the logits is the same in the mean.
#[test]
fn values_are_rounded_by_chance_with_the_odds_of_the_plan() {
    for (architecture, side) in [(Architecture::ResNet20, 16), (Architecture::MobileNetV2, 32)] {
        let network = Network::new(architecture, 0.25, 10, side).expect("small");
        let mask = "1".repeat(network.graph().blocks().iter().filter(|b| b.is_residual).count());
        let logits = Logits::of_images(&checkpoint(&network, &mask), &Widths::uniform(16, 8), 48);
        let found = distance(&logits.trained_by_chance, &logits.float);
        let expected = distance(&logits.chance, &logits.float);
        assert!((0.75..1.33).contains(&(found / expected)), "{network}: {found} {expected}");
    }
}

/// Where sums are not exact, what lies halfway may go either way, and what follows from it with that: seldom where the weights
/// have many bits.
#[test]
fn any_batch_norms_are_folded_as_the_plan_has_them() {
    let network = Network::new(Architecture::ResNet20, 0.25, 10, 16).expect("small");
    let logits = Logits::of(&checkpoint(&network, "011001010"), [16, 6]);
    assert!(2 * logits.equal() > logits.plan.len(), "{}", logits.equal());
}

/// A block that is merged has its values on the plan's grid where it ends, and none inside. Its sums are not exact, but with weights of
/// many bits next to none lies halfway.
#[test]
fn a_merged_block_is_trained_on_the_grid_of_its_plan_where_it_ends() {
    // At stride 1 with and without shortcut, and at stride 2.
    let mask = "11111001010110101";
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 16).expect("small");
    let checkpoint = with_exact_sums(&checkpoint(&network, mask));
    let merged = oracle::merged_stretches(&network, checkpoint.gates());
    assert_eq!(merged.len(), 6, "all that are removed");
    let logits = Logits::of(&checkpoint, [16, 4]);
    assert!(2 * logits.equal() > logits.plan.len(), "{}", logits.equal());
}

/// With weights of few bits and values of many it is the weights' rounding that shows.
#[test]
fn the_weights_of_merged_blocks_are_rounded_as_the_plan_has_them() {
    for mask in ["01001011000101010", "00000000000000000"] {
        let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("small");
        let checkpoint = checkpoint(&network, mask);
        let logits = Logits::of(&checkpoint, [5, 14]);
        let found = distance(&logits.trained, &logits.plan);
        assert!(found < 0.02 * logits.rounding(), "{mask}: {found}");
    }
}

/// Bits for each layer of its own, from those at hand.
fn widths_by_layer(fused: &FusedModel, weights: [u32; 3], activations: [u32; 3]) -> Widths {
    let mut layers = LayerWidths::default();
    for (number, layer) in fused.layers().iter().enumerate() {
        if matches!(layer.op, FusedOp::Conv(_)) {
            layers.weights.insert(layer.name.clone(), weights[number * 7 % 3]);
        }
        layers.activations.insert(layer.name.clone(), activations[number * 5 % 3]);
    }
    Widths { layers: Some(layers), ..Widths::uniform(2, 2) }
}

#[test]
fn each_layer_is_trained_on_the_grid_of_its_own_bits() {
    for (architecture, side, mask) in [
        (Architecture::ResNet20, 16, "011001010"),
        (Architecture::MobileNetV2, 32, "11111111111111111"),
    ] {
        let network = Network::new(architecture, 0.25, 10, side).expect("small");
        let checkpoint = with_exact_sums(&checkpoint(&network, mask));
        let fused = copriv_reparam::fuse(&checkpoint).expect("fuses");
        let widths = widths_by_layer(&fused, [5, 8, 6], [6, 5, 8]);
        let logits = Logits::of_widths(&checkpoint, &widths);
        assert_eq!(logits.equal(), logits.plan.len(), "{network} {mask}");
    }
}

/// Also where convolutions of a block, of several blocks, or some of a block's (as in bottlenecks) become one.
#[test]
fn merged_convolutions_are_trained_on_the_grid_of_their_own_bits() {
    for (architecture, mask) in [
        (Architecture::MobileNetV2, "01001011000101010"),
        (Architecture::MobileNetV2, "00000000000000000"),
        (Architecture::ResNet50, "0110010010101101"),
    ] {
        let network = Network::new(architecture, 0.25, 10, 32).expect("small");
        let checkpoint = checkpoint(&network, mask);
        let merged = oracle::merged_stretches(&network, checkpoint.gates());
        let graph = network.graph();
        let is_block = |name: &str| graph.blocks().iter().any(|block| block.name == name);
        let is_cut = merged.iter().any(|stretch| !is_block(&stretch.name));
        assert_eq!(is_cut, architecture == Architecture::ResNet50, "{network} {mask}");
        let fused = copriv_reparam::fuse(&checkpoint).expect("fuses");
        let widths = widths_by_layer(&fused, [4, 7, 5], [14, 14, 14]);
        let logits = Logits::of_widths(&checkpoint, &widths);
        let found = distance(&logits.trained, &logits.plan);
        assert!(found < 0.02 * logits.rounding(), "{network} {mask}: {found}");
    }
}
