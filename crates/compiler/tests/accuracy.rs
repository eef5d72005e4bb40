//! What the integers of a plan lose against the model's floating point.

mod support;

use copriv_compiler::{Calibration, Compilation, CompileConfig, CompileError, Preset, compile};
use copriv_ir::evaluate::{FusedEvaluator, PlanEvaluator, reference_convolution};
use copriv_ir::{
    Activation, Architecture, ConvGeometry, FusedModel, FusedOp, Granularity, LayerId, Network,
    Plan, Shape, Step, StepOp, TruncateMethod, ValueId,
};
use support::ModelBuilder;

/// Every operation once: border maps, stride 2, depthwise, a shortcut, a pool of `9 = 16 * 9/16` values.
fn model(activation: Activation) -> FusedModel {
    model_with(activation, &[])
}

/// The same, those of its activations that are named in part: by what, and which bits over and over.
fn model_with(activation: Activation, parts: &[(&str, Granularity, &[bool])]) -> FusedModel {
    let (size, classes) = (18, 5);
    let mut model = ModelBuilder::new(Shape::new(3, size, size), 3);
    let conv = FusedOp::Conv;
    let relu = FusedOp::Activation(activation);
    let x = model.push("stem", conv(ConvGeometry::same(3, 12, 3, 1)), &[LayerId(0)]);
    let shortcut = model.push("stem.relu", relu, &[x]);
    let x = model.push("depthwise", conv(ConvGeometry::depthwise(12, 3, 1)), &[shortcut]);
    let x = model.push("project", conv(ConvGeometry::same(12, 12, 1, 1)), &[x]);
    let x = model.push("add", FusedOp::Add, &[x, shortcut]);
    let x = model.push("down1", conv(ConvGeometry::same(12, 16, 3, 2)), &[x]);
    let x = model.push("down1.relu", relu, &[x]);
    let x = model.push("down2", conv(ConvGeometry::same(16, 16, 3, 2)), &[x]);
    let x = model.push("same", conv(ConvGeometry::same(16, 16, 3, 1)), &[x]);
    let x = model.push("same.relu", relu, &[x]);
    let x = model.push("down3", conv(ConvGeometry::same(16, 24, 3, 2)), &[x]);
    let x = model.push("pool", FusedOp::GlobalAveragePool, &[x]);
    model.push("fc", conv(ConvGeometry::fully_connected(24, classes)), &[x]);
    for (layer, by, bits) in parts {
        model.mask(layer, *by, bits);
    }
    let network = Network::new(Architecture::ResNet20, 1.0, classes, size).expect("a usual size");
    model.finish(network)
}

fn image(seed: usize, elements: usize) -> Vec<f32> {
    (0..elements).map(|i| (((i * 7919 + seed * 104_729) % 997) as f32 / 250.0) - 2.0).collect()
}

fn config(preset: Preset, settings: &[(&str, &str)]) -> CompileConfig {
    let mut config = CompileConfig::new(preset);
    for (key, value) in settings {
        config.set(key, value).expect("a known setting");
    }
    config
}

/// What a step's value must be, in real numbers, and how far off it may be.
fn expected(model: &FusedModel, plan: &Plan, step: &Step, inputs: &[Vec<f64>]) -> (Vec<f64>, f64) {
    let unit = |value: ValueId| (-f64::from(plan.fact(value).scale)).exp2();
    match &step.op {
        StepOp::Linear(linear) => {
            let layer = model.layers().iter().find(|layer| layer.name == step.name);
            let (geometry, weight, bias) = model.conv(layer.expect("named")).expect("convolution");
            let before = &plan.steps()[step.inputs[0].0];
            let shape = plan.fact(before.output).shape;
            // A pooled sum has the scale of a mean of 16 values where there are 9.
            let mean = if before.op == StepOp::SumPool { 16.0 / 9.0 } else { 1.0 };
            let weight: Vec<f64> = weight.data().iter().map(|&w| f64::from(w) * mean).collect();
            let mut y = reference_convolution(&geometry, shape, &weight, &inputs[0]);
            let columns = geometry.border_classes(shape.width);
            let rows = geometry.border_classes(shape.height);
            let output = geometry.output_shape(shape);
            for (position, y) in y.iter_mut().enumerate() {
                let (channel, at) = (position / output.area(), position % output.area());
                let row = rows.class_of_output()[at / output.width];
                let column = columns.class_of_output()[at % output.width];
                let class = row * columns.count() + column;
                *y += f64::from(bias.data()[class * output.channels + channel]);
            }
            // Half a unit of each weight and of the bias.
            let weight_unit = (-f64::from(linear.weight_scale)).exp2();
            let largest = inputs[0].iter().fold(0.0, |max: f64, x| max.max(x.abs()));
            let error = geometry.fan_in() as f64 * largest * weight_unit / 2.0;
            (y, error + unit(step.output) / 2.0 + 1e-9)
        }
        StepOp::Truncate { method: TruncateMethod::Reduce, .. } => {
            // Up or down to the next unit.
            (inputs[0].clone(), unit(step.output))
        }
        StepOp::Truncate { .. } => {
            // Down to the unit below, so half a unit around what is half a unit less.
            let half = unit(step.output) / 2.0;
            (inputs[0].iter().map(|x| x - half).collect(), half)
        }
        StepOp::Extend { .. } | StepOp::Reduce { .. } => (inputs[0].clone(), 0.0),
        StepOp::Activation { function, mask, .. } => {
            let activated = |x: f64| match function {
                Activation::Relu => x.max(0.0),
                Activation::Relu6 => x.clamp(0.0, 6.0),
            };
            let mask: Vec<bool> = match mask {
                Some(mask) => mask.values().collect(),
                None => vec![true; inputs[0].len()],
            };
            let value = |(&x, on): (&f64, &bool)| if *on { activated(x) } else { x };
            (inputs[0].iter().zip(&mask).map(value).collect(), 0.0)
        }
        StepOp::Add => (std::iter::zip(&inputs[0], &inputs[1]).map(|(a, b)| a + b).collect(), 0.0),
        StepOp::SumPool => {
            (inputs[0].chunks(9).map(|channel| channel.iter().sum::<f64>() / 16.0).collect(), 0.0)
        }
        StepOp::MaxPool { .. } | StepOp::ArgMax { .. } | StepOp::Input | StepOp::Reveal => {
            unreachable!("checked apart")
        }
    }
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    std::iter::zip(a, b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn every_step_is_its_layer_within_its_own_rounding() {
    for (activation, preset) in [
        (Activation::Relu, Preset::CoPriv),
        (Activation::Relu6, Preset::CrypTFlow2),
        (Activation::Relu, Preset::Fast),
        (Activation::Relu6, Preset::Fast),
    ] {
        let (channel, pixel) = (Granularity::Channel, Granularity::Pixel);
        let parts: [(&str, Granularity, &[bool]); 2] = [
            ("stem.relu", channel, &[true, false, true]),
            ("same.relu", pixel, &[false, true, false, false, true]),
        ];
        for parts in [&[], &parts[..]] {
            assert_every_step(&model_with(activation, parts), preset);
        }
    }
}

fn assert_every_step(model: &FusedModel, preset: Preset) {
    let image = image(1, 3 * 18 * 18);
    let calibration = Calibration::from_images(model, [&image]).expect("finite");
    let Compilation { plan, weights, .. } =
        compile(model, &calibration, &config(preset, &[])).expect("compiles");
    let evaluator = PlanEvaluator::new(&plan, &weights).expect("its weights");
    let values: Vec<Vec<f64>> = std::iter::zip(plan.values(), evaluator.values(&image))
        .map(|(fact, value)| {
            let unit = (-f64::from(fact.scale)).exp2();
            value.iter().map(|&x| fact.ring.to_signed(x) as f64 * unit).collect()
        })
        .collect();
    let image: Vec<f64> = image.iter().map(|&x| f64::from(x)).collect();
    let half = (-f64::from(plan.values()[0].scale) - 1.0).exp2();
    assert!(largest_difference(&values[0], &image) <= half);
    for step in &plan.steps()[1..plan.steps().len() - 1] {
        let inputs: Vec<_> = step.inputs.iter().map(|value| values[value.0].clone()).collect();
        let (expected, error) = expected(model, &plan, step, &inputs);
        let found = largest_difference(&values[step.output.0], &expected);
        assert!(found <= error, "{} {:?}: {found} of {error}", step.name, step.op);
    }
    assert_eq!(values[values.len() - 1], values[values.len() - 2]);
}

#[test]
fn logits_come_closer_to_the_models_with_every_bit_of_scale() {
    for activation in [Activation::Relu, Activation::Relu6] {
        let model = model(activation);
        let images: Vec<_> = (0..4).map(|n| image(n, 3 * 18 * 18)).collect();
        let calibration = Calibration::from_images(&model, &images).expect("finite");
        let float = FusedEvaluator::new(&model);
        for preset in Preset::PUBLISHED {
            let worst = |settings: &[(&str, &str)]| {
                let compiled = compile(&model, &calibration, &config(preset, settings));
                let Compilation { plan, weights, .. } = compiled.expect("compiles");
                let evaluator = PlanEvaluator::new(&plan, &weights).expect("its weights");
                let difference = |image: &Vec<f32>| {
                    let logits = float.logits(image);
                    let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
                    largest_difference(&evaluator.logits_f64(image), &logits)
                };
                images.iter().map(difference).fold(0.0, f64::max)
            };
            let usual = worst(&[]);
            let fine = worst(&[("scale", "16"), ("weight_scale", "16"), ("ring", "50")]);
            assert!(usual < 40.0 * (-12f64).exp2(), "{activation:?} {preset:?}: {usual}");
            assert!(fine < 40.0 * (-16f64).exp2(), "{activation:?} {preset:?}: {fine}");
        }
    }
}

#[test]
fn logits_come_closer_to_the_models_with_every_bit_of_a_mixed_plan() {
    for activation in [Activation::Relu, Activation::Relu6] {
        let model = model(activation);
        let images: Vec<_> = (0..4).map(|n| image(n, 3 * 18 * 18)).collect();
        let calibration = Calibration::from_images(&model, &images).expect("finite");
        let float = FusedEvaluator::new(&model);
        let mean_square = |bits: &str| {
            let settings = [("activation_bits", bits), ("weight_bits", bits)];
            let compiled = compile(&model, &calibration, &config(Preset::Fast, &settings));
            let Compilation { plan, weights, .. } = compiled.expect("compiles");
            assert!(plan.values().iter().any(|x| x.ring != plan.values()[0].ring), "is mixed");
            let evaluator = PlanEvaluator::new(&plan, &weights).expect("its weights");
            let squares = images.iter().flat_map(|image| {
                std::iter::zip(evaluator.logits_f64(image), float.logits(image))
                    .map(|(a, b)| (a - f64::from(b)).powi(2))
            });
            squares.sum::<f64>()
        };
        // Each bit halves the error: four take it down by 16, give or take chance.
        let errors = ["6", "10", "14"].map(mean_square);
        for (coarse, fine) in std::iter::zip(&errors, &errors[1..]) {
            let ratio = (coarse / fine).sqrt();
            assert!((4.0..64.0).contains(&ratio), "{activation:?} {errors:?}");
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let model = model(Activation::Relu);
    let calibration = Calibration::from_noise(&model, 5, 3).expect("finite");
    let files = || {
        let folder = tempfile::tempdir().expect("a folder");
        let compiled =
            compile(&model, &calibration, &config(Preset::CoPriv, &[])).expect("compiles");
        let (plan, weights) = (folder.path().join("plan"), folder.path().join("weights"));
        compiled.plan.write(&plan).expect("written");
        compiled.weights.write(&weights).expect("written");
        [plan, weights].map(|file| std::fs::read(file).expect("readable"))
    };
    // Not assert_eq, which would print them.
    assert!(files() == files());
}

#[test]
fn the_public_plan_does_not_name_the_secret_model() {
    let model = model(Activation::Relu);
    let calibration = Calibration::from_noise(&model, 5, 1).expect("finite");
    let compiled = compile(&model, &calibration, &config(Preset::CoPriv, &[])).expect("compiles");
    assert_eq!(compiled.plan.provenance().parent, None);
    assert_eq!(compiled.plan.provenance().seed, Some(5));
    let text = serde_json::to_string(&compiled.plan).expect("json");
    assert!(!text.contains(&model.digest().to_string()));
    assert_eq!(compiled.weights.provenance().parent, Some(model.digest()));
}

#[test]
fn calibration_errors_name_what_is_wrong() {
    let model = model(Activation::Relu);
    let none: [Vec<f32>; 0] = [];
    let error = Calibration::from_images(&model, none).expect_err("no image");
    assert_eq!(error, CompileError::NoCalibrationImages);
    let error = Calibration::from_images(&model, [vec![0.0; 7]]).expect_err("wrong size");
    assert_eq!(error.to_string(), "calibration image 0 has 7 values, not 972");
    let error = Calibration::from_images(&model, [vec![f32::MAX; 972]]).expect_err("overflows");
    assert!(matches!(error, CompileError::NotFinite { .. }), "{error}");

    let other = support::random_network(
        &Network::new(Architecture::ResNet20, 0.5, 10, 16).expect("usual"),
        false,
    );
    let foreign = Calibration::from_noise(&other, 1, 1).expect("finite");
    let error = compile(&model, &foreign, &config(Preset::CoPriv, &[])).expect_err("refused");
    assert!(matches!(error, CompileError::ForeignCalibration { .. }), "{error}");
}

#[test]
fn weights_that_leave_the_ring_are_refused_with_the_remedy() {
    let mut builder = ModelBuilder::new(Shape::new(3, 16, 16), 1);
    let conv = FusedOp::Conv(ConvGeometry::same(3, 4, 3, 1));
    let x = builder.push("conv", conv, &[LayerId(0)]);
    let x = builder.push("pool", FusedOp::GlobalAveragePool, &[x]);
    builder.push("fc", FusedOp::Conv(ConvGeometry::fully_connected(4, 2)), &[x]);
    // Large weights that no calibration image shows.
    builder.set("conv.weight", 3e7);
    builder.set("conv.bias", 0.0);
    let model = builder.finish(Network::new(Architecture::ResNet20, 1.0, 2, 16).expect("usual"));
    let calibration = Calibration::from_images(&model, [[0.0; 768]]).expect("finite");
    let winograd = config(Preset::CoPriv, &[]);
    let error = compile(&model, &calibration, &winograd).expect_err("does not fit");
    assert_eq!(
        error.to_string(),
        "layer conv has a weight of 30000000.0000, which needs 42 bits at 12 fractional bits under \
         its lowering; there are 41: lower weight_scale or raise ring"
    );
    let direct = config(Preset::CoPriv, &[("lowering", "direct")]);
    assert!(compile(&model, &calibration, &direct).is_ok());
    let mixed = config(Preset::Fast, &[]);
    let error = compile(&model, &calibration, &mixed).expect_err("does not fit");
    assert_eq!(
        error.to_string(),
        "layer conv has a weight of 30000000.0000, of which the integer part alone takes 26 bits; \
         there are 8: raise weight_bits, or fuse with --equalise"
    );
}
