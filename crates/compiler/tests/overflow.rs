//! Why values stay in their rings.

mod support;

use copriv_compiler::{
    Assurance, Calibration, Compilation, CompileConfig, Overflow, Preset, compile, overflows_of,
};
use copriv_ir::evaluate::{FusedEvaluator, PlanEvaluator};
use copriv_ir::{
    Activation, Architecture, ConvGeometry, FusedModel, FusedOp, Granularity, InputSpec, LayerId,
    Network, Plan, Shape,
};
use support::ModelBuilder;

const SIZE: usize = 16;

/// Two convolutions; what comes after the first ReLU has no bound of its own.
fn model() -> FusedModel {
    model_with(&[true; 4])
}

/// The same, its first ReLU applied to these channels.
fn model_with(activated: &[bool; 4]) -> FusedModel {
    let mut model = ModelBuilder::new(Shape::new(3, SIZE, SIZE), 11);
    let x = model.push("stem", FusedOp::Conv(ConvGeometry::same(3, 4, 3, 1)), &[LayerId(0)]);
    let relu = FusedOp::Activation(Activation::Relu);
    let x = model.push("relu", relu, &[x]);
    if activated.contains(&false) {
        model.mask("relu", Granularity::Channel, activated);
    }
    let x = model.push("second", FusedOp::Conv(ConvGeometry::same(4, 4, 3, 2)), &[x]);
    let x = model.push("second.relu", relu, &[x]);
    let x = model.push("pool", FusedOp::GlobalAveragePool, &[x]);
    model.push("fc", FusedOp::Conv(ConvGeometry::fully_connected(4, 3)), &[x]);
    model.finish(Network::new(Architecture::ResNet20, 1.0, 3, SIZE).expect("a usual size"))
}

fn compiled(model: &FusedModel, calibration: &Calibration, head_room: u32) -> Compilation {
    let mut config = CompileConfig::new(Preset::Fast);
    config.set("head_room", &head_room.to_string()).expect("known");
    compile(model, calibration, &config).expect("compiles")
}

/// The image whose every pixel pushes the middle output of a channel of the stem up, or down.
fn worst_image(model: &FusedModel, channel: usize, up: bool) -> Vec<f32> {
    let (_, weight, _) = model.conv(&model.layers()[1]).expect("the stem");
    let pixel = |i: usize| {
        let (plane, row, column) = (i / SIZE / SIZE, i / SIZE % SIZE, i % SIZE);
        let middle = SIZE / 2 - 1..SIZE / 2 + 2;
        if !middle.contains(&row) || !middle.contains(&column) {
            return 128;
        }
        let tap = (row - middle.start) * 3 + column - middle.start;
        let is_positive = weight.data()[(channel * 3 + plane) * 9 + tap] > 0.0;
        if is_positive == up { u8::MAX } else { 0 }
    };
    let input: &InputSpec = model.network().input();
    input.normalise(&(0..3 * SIZE * SIZE).map(pixel).collect::<Vec<u8>>())
}

/// Whether one of these channels of the stem leaves its ring on an image.
fn stem_overflows(
    model: &FusedModel,
    channels: &[bool; 4],
    compiled: &Compilation,
    image: &[f32],
) -> bool {
    let evaluator = PlanEvaluator::new(&compiled.plan, &compiled.weights).expect("its own");
    let step = of_layer(compiled, "stem").step;
    let fact = compiled.plan.values()[step.0];
    let unit = (-f64::from(fact.scale)).exp2();
    let value = &evaluator.values(image)[step.0];
    let float = &FusedEvaluator::new(model).layers(image)[1];
    let range = f64::from(fact.ring.bits()).exp2() * unit;
    // An overflow is off by the whole ring.
    value.iter().zip(float).enumerate().any(|(position, (&value, &float))| {
        let off = (fact.ring.to_signed(value) as f64 * unit - f64::from(float)).abs();
        channels[position / fact.shape.area()] && off > range / 2.0
    })
}

fn of_layer<'a>(compiled: &'a Compilation, layer: &str) -> &'a Overflow {
    let mut all = compiled.report.overflows.iter().filter(|one| one.layer == layer);
    all.next().expect("its value is read")
}

#[test]
fn a_first_layer_is_proven_exactly_where_no_image_overflows_it() {
    // Of a channel that the ReLU does not apply to nobody reads the sign.
    for activated in [[true; 4], [true, false, false, false], [false, true, false, true]] {
        let model = model_with(&activated);
        let dim = |n: u8| model.network().input().normalise(&[120 + n; 3 * SIZE * SIZE]);
        let calibration = Calibration::from_images(&model, (0..4).map(dim)).expect("finite");
        let images: Vec<_> = (0..8).map(|n| worst_image(&model, n / 2, n % 2 == 0)).collect();
        let mut seen = [false; 2];
        for head_room in [1, 2, 4, 8, 16, 32] {
            let compiled = compiled(&model, &calibration, head_room);
            let proven = of_layer(&compiled, "stem").assurance == Assurance::Proven;
            let overflow = |image| stem_overflows(&model, &activated, &compiled, image);
            let overflows = images.iter().any(|image| overflow(image));
            assert_eq!(proven, !overflows, "head room {head_room}, {activated:?}");
            seen[usize::from(proven)] = true;
        }
        assert_eq!(seen, [true; 2], "both cases must have come up, {activated:?}");
    }
}

#[test]
fn what_is_not_proven_is_estimated_from_images_and_assumed_from_noise() {
    let model = model();
    let elements = 3 * SIZE * SIZE;
    let image = |seed: usize| -> Vec<f32> {
        let pixel = |i: usize| ((i * 7919 + seed * 104_729) % 997 * 255 / 997) as u8;
        model.network().input().normalise(&(0..elements).map(pixel).collect::<Vec<u8>>())
    };
    let few = Calibration::from_images(&model, (0..8).map(image)).expect("finite");
    let many = Calibration::from_images(&model, (0..64).map(image)).expect("finite");
    let noise = Calibration::from_noise(&model, 1, 4).expect("finite");
    let second = |compiled: &Compilation| of_layer(compiled, "second").assurance;

    let compiled_few = compiled(&model, &few, 1);
    assert_eq!(second(&compiled_few), Assurance::Estimated { exponent: 0 }, "one in nine");
    let Assurance::Estimated { exponent } = second(&compiled(&model, &many, 2)) else {
        panic!("not proven");
    };
    assert!(exponent < -1, "{exponent}");
    assert_eq!(second(&compiled(&model, &noise, 1)), Assurance::Assumed);
    let ample = compiled(&model, &noise, 1 << 20);
    assert!(ample.report.overflows.iter().all(|one| one.assurance == Assurance::Proven));
    assert!(!ample.report.overflow().to_string().contains("rest"));
}

#[test]
fn plans_say_why_their_values_stay_in_their_rings() {
    let model = model();
    for preset in Preset::ALL {
        let calibration = Calibration::from_noise(&model, 1, 4).expect("finite");
        let config = CompileConfig::new(preset);
        let Compilation { plan, report, .. } =
            compile(&model, &calibration, &config).expect("compiles");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plan.json");
        plan.write(&path).expect("written");
        let (overflows, summary) =
            overflows_of(&Plan::read(&path).expect("readable")).expect("says so");
        assert_eq!(overflows, report.overflows);
        assert_eq!(summary, report.overflow());
        assert!(!overflows.is_empty());
    }
}
