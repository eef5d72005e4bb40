//! Bits layer by layer under a budget.

mod support;

use copriv_compiler::{
    Calibration, Compilation, CompileConfig, CompileError, Preset, Progress, compile,
    compile_observed, widths_that_hold,
};
use copriv_ir::{
    Activation, Architecture, ConvGeometry, FusedModel, FusedOp, LayerId, LayerWidths, Network,
    Phase, Shape, StepOp, Widths,
};
use support::ModelBuilder;

const SIZE: usize = 16;

/// A wide layer that hardly matters beside one that does.
fn model() -> FusedModel {
    let mut model = ModelBuilder::new(Shape::new(3, SIZE, SIZE), 5);
    let relu = FusedOp::Activation(Activation::Relu);
    let x = model.push("stem", FusedOp::Conv(ConvGeometry::same(3, 8, 3, 2)), &[LayerId(0)]);
    let stem = model.push("stem.relu", relu, &[x]);
    let x = model.push("faint", FusedOp::Conv(ConvGeometry::same(8, 8, 3, 1)), &[stem]);
    let x = model.push("sum", FusedOp::Add, &[x, stem]);
    let x = model.push("sum.relu", relu, &[x]);
    let x = model.push("pool", FusedOp::GlobalAveragePool, &[x]);
    model.push("fc", FusedOp::Conv(ConvGeometry::fully_connected(8, 6)), &[x]);
    model.set("faint.weight", 1e-4);
    model.set("faint.bias", 0.0);
    model.finish(Network::new(Architecture::ResNet20, 1.0, 6, SIZE).expect("a usual size"))
}

fn calibration(model: &FusedModel) -> Calibration {
    // Each image has colours of its own, so that not all are of one class.
    let image = |seed: usize| -> Vec<f32> {
        let pixel = |i: usize| {
            let (plane, texture) = (i / SIZE / SIZE, i * 7919 % 61);
            (((seed * 3 + plane) * 104_729 % 997) * 190 / 997 + texture) as u8
        };
        let pixels: Vec<u8> = (0..3 * SIZE * SIZE).map(pixel).collect();
        model.network().input().normalise(&pixels)
    };
    Calibration::from_images(model, (0..48).map(image)).expect("finite")
}

fn config(settings: &[(&str, &str)]) -> CompileConfig {
    let mut config = CompileConfig::new(Preset::Fast);
    config.set("correlation", "ot").expect("known");
    for (key, value) in settings {
        config.set(key, value).expect("known");
    }
    config
}

fn bytes(compiled: &Compilation) -> u64 {
    let comm = compiled.plan.predicted_comm();
    [Phase::Offline, Phase::Online].map(|phase| comm.total(phase).bytes()).iter().sum()
}

fn weight_scale(compiled: &Compilation, layer: &str) -> u32 {
    let steps = compiled.plan.steps().iter().filter(|step| step.name == layer);
    let mut scales = steps.filter_map(|step| match &step.op {
        StepOp::Linear(linear) => Some(linear.weight_scale),
        _ => None,
    });
    scales.next().expect("a convolution")
}

#[test]
fn an_accuracy_budget_takes_bits_where_they_do_not_matter() {
    let model = model();
    let calibration = calibration(&model);
    let mut stages = vec![];
    let found = compile_observed(
        &model,
        &calibration,
        &config(&[("max_drop", "10")]),
        None,
        &mut |progress: Progress| {
            assert!(progress.done <= progress.of);
            stages.push(progress.stage);
        },
    )
    .expect("compiles");
    stages.dedup();
    assert_eq!(stages, ["sensitivity", "bits", "judge"]);
    let allocation = found.report.allocation.as_ref().expect("searched");
    assert!(allocation.bytes < allocation.uniform_bytes, "{allocation}");
    assert!(allocation.verdict.drop + allocation.verdict.error <= 10.0, "{allocation}");
    assert!(!allocation.verdict.labelled);
    assert_eq!(allocation.verdict.images, 24);
    let widths = &allocation.widths;
    let of = |name: &str| widths.layers.as_ref().expect("of layers").weights[name];
    assert!(of("faint") < of("stem") && of("faint") < of("fc"), "{widths:?}");
    // The widths are those of the plan, and what the settings of a plan repeat.
    let uniform = compile(&model, &calibration, &config(&[])).expect("compiles");
    assert!(bytes(&found) < bytes(&uniform));
    assert_eq!(weight_scale(&uniform, "faint") - weight_scale(&found, "faint"), 8 - of("faint"));
    let settings = &found.plan.provenance().config["settings"];
    assert_eq!(settings["widths"], serde_json::json!(widths.layers));
    assert_eq!(Widths::of_plan(&found.plan), Some(widths.clone()));
    let again = CompileConfig { widths: widths.clone(), ..config(&[]) };
    let again = compile(&model, &calibration, &again).expect("compiles");
    assert_eq!(again.plan.steps(), found.plan.steps());
}

#[test]
fn a_byte_budget_is_kept_with_the_finest_widths_that_do() {
    let model = model();
    let calibration = calibration(&model);
    let uniform = bytes(&compile(&model, &calibration, &config(&[])).expect("compiles"));
    let most = uniform * 9 / 10;
    let budget = config(&[("max_bytes", &most.to_string())]);
    let found = compile(&model, &calibration, &budget).expect("compiles");
    let allocation = found.report.allocation.as_ref().expect("searched");
    assert!((most * 9 / 10..=most).contains(&allocation.bytes), "{allocation}");

    let text = |settings: &[(&str, &str)]| {
        let compiled = compile(&model, &calibration, &config(settings));
        compiled.map(|compiled| compiled.report).expect_err("refused").to_string()
    };
    let error = text(&[("max_bytes", "10kB")]);
    assert!(error.contains("raise max_bytes from 10000"), "{error}");
    let error = text(&[("max_drop", "0"), ("weight_bits", "3"), ("activation_bits", "2")]);
    assert!(error.contains("raise max_drop"), "{error}");
}

#[test]
fn the_same_images_give_the_same_widths() {
    let model = model();
    let calibration = calibration(&model);
    let labels: Vec<usize> = (0..48).map(|n| n % 6).collect();
    let labelled = calibration.clone().with_labels(&labels).expect("one each");
    let found = || compile(&model, &labelled, &config(&[("max_drop", "30")])).expect("compiles");
    let (one, other) = (found(), found());
    assert_eq!(one.report, other.report);
    assert!(one.report.allocation.is_some_and(|allocation| allocation.verdict.labelled));
    assert_eq!(
        calibration.with_labels(&[1]),
        Err(CompileError::CalibrationLabels { expected: 48, found: 1 })
    );
}

#[test]
fn budgets_without_images_or_mixed_precision_are_refused_with_the_remedy() {
    let model = model();
    let noise = Calibration::from_noise(&model, 1, 4).expect("finite");
    let error = compile(&model, &noise, &config(&[("max_drop", "1")])).expect_err("refused");
    assert_eq!(error.to_string(), "accuracy cannot be judged by noise: calibrate with images");
    let uniform = config(&[("max_drop", "1"), ("precision", "uniform")]);
    let error = compile(&model, &calibration(&model), &uniform).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "max_drop and max_bytes choose bits for each layer: set precision=mixed, as the preset fast does"
    );
}

#[test]
fn bits_of_single_layers_are_refused_where_they_cannot_be_had() {
    let model = model();
    let calibration = calibration(&model);
    let refused = |layer: &str, settings: &[(&str, &str)]| {
        let mut config = config(settings);
        let layers = LayerWidths { weights: [(layer.to_owned(), 5)].into(), ..Default::default() };
        config.widths.layers = Some(layers);
        compile(&model, &calibration, &config)
            .map(|made| made.report)
            .expect_err("refused")
            .to_string()
    };
    assert_eq!(
        refused("stern", &[]),
        "the model has no layer stern, which is given bits: take them from a plan of a network with the same \
         gates, fused alike"
    );
    assert_eq!(
        refused("stem", &[("max_bytes", "1MB")]),
        "max_drop and max_bytes would choose bits that are given already: leave out one or the other"
    );
    let error = refused("stem", &[("precision", "uniform")]);
    assert!(error.contains("precision=mixed"), "{error}");
}

#[test]
fn widths_are_read_from_plans_of_mixed_precision_alone() {
    let model = model();
    let calibration = calibration(&model);
    let plan = |settings: &[(&str, &str)]| {
        compile(&model, &calibration, &config(settings)).expect("compiles").plan
    };
    let mixed = plan(&[("weight_bits", "7")]);
    assert_eq!(Widths::of_plan(&mixed), Some(Widths::uniform(7, 8)));
    assert_eq!(Widths::of_plan(&plan(&[("precision", "uniform")])), None);
    for (key, value) in [
        ("weight_bits", serde_json::json!(1)),
        ("activation_bits", serde_json::json!(25)),
        ("activation_bits", serde_json::json!(-1)),
        ("weight_bits", serde_json::Value::Null),
        ("widths", serde_json::json!({ "weights": { "stem": 99 }, "activations": {} })),
        ("widths", serde_json::json!({ "weights": [8, 8], "activations": [8, 8] })),
        ("precision", serde_json::json!("another")),
    ] {
        let mut provenance = mixed.provenance().clone();
        provenance.config["settings"][key] = value;
        let changed = mixed.clone().with_provenance(provenance);
        assert_eq!(Widths::of_plan(&changed), None, "{key}");
    }
}

#[test]
fn weights_that_have_grown_out_of_their_bits_get_as_many_as_they_need() {
    let model = model();
    let mut layers = LayerWidths::default();
    layers.weights.extend([("stem".to_owned(), 4), ("faint".to_owned(), 4)]);
    let widths = Widths { layers: Some(layers), ..Widths::uniform(8, 8) };
    let held = widths_that_hold(&model, widths.clone()).expect("whole");
    assert_eq!(held, (widths.clone(), vec![]));

    let model = grown(&model, "stem.weight", 13.8);
    let calibration = calibration(&model);
    let config = |widths: Widths| CompileConfig { widths, ..config(&[]) };
    let error = compile(&model, &calibration, &config(widths.clone())).expect_err("too few bits");
    assert!(
        matches!(error, CompileError::CoarseWeights { needed: 5, available: 4, .. }),
        "{error}"
    );
    let (held, widened) = widths_that_hold(&model, widths).expect("whole");
    assert_eq!((held.weight("stem"), held.weight("faint"), held.weight("fc")), (5, 4, 8));
    assert_eq!(widened.len(), 1);
    assert_eq!((widened[0].layer.as_str(), widened[0].bits), ("stem", [4, 5]));
    let plan = compile(&model, &calibration, &config(held)).expect("compiles");
    assert_eq!(weight_scale(&plan, "stem"), 0);
}

/// The same with the first value of a tensor changed.
fn grown(model: &FusedModel, tensor: &str, value: f32) -> FusedModel {
    let mut tensors = model.tensors().clone();
    tensors.get_mut(tensor).expect("there").data_mut()[0] = value;
    let (network, mask) = (model.network().clone(), model.mask().to_owned());
    let (layers, provenance) = (model.layers().to_vec(), model.provenance().clone());
    FusedModel::new(network, mask, layers, tensors, provenance).expect("sound")
}
