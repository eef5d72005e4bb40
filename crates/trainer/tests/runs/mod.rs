//! Short runs of a tiny network through all stages.

use crate::colours::{SIDE, data};
use copriv_ir::{
    Architecture, BatchNormInit, Checkpoint, ConvGeometry, Correlation, Fact, Gates, InputSpec,
    LinearStep, Lowering, Network, OtKind, Party, Plan, Provenance, Ring, Shape, Sign, Step,
    StepId, StepOp, Tensor, ValueId, Visibility,
};
use copriv_trainer::train::{
    EpochMetrics, Metrics, StepMetrics, TrainConfig, TrainError, TrainOutcome, run,
};
use std::path::Path;
use std::sync::atomic::AtomicBool;

const CONFIG: &str = r#"
    seed = 3
    batch_size = 8
    log_every = 2
    [network]
    name = "resnet20"
    width = 0.25
    [data]
    name = "colours"
    augmentation = { crop_padding = 1, flip = true }
    [pretrain]
    epochs = 3
    learning_rate = 0.05
    warmup_epochs = 1
    [search]
    epochs = 2
    learning_rate = 0.02
    budget = 0.5
    mu = 0.5
    [finetune]
    epochs = 2
    learning_rate = 0.02
    [distillation]
    teacher = "unpruned"
    stages = ["search", "finetune"]
"#;

/// The configuration with these settings.
pub fn config(overrides: &[&str]) -> TrainConfig {
    let overrides: Vec<String> = overrides.iter().map(|&setting| setting.into()).collect();
    TrainConfig::parse(CONFIG, "tiny.toml", &overrides).expect("a good configuration")
}

/// Trains to the end, or to an error.
pub fn train(config: &TrainConfig, out: &Path) -> Result<TrainOutcome, TrainError> {
    run(config, &data(), out, false, &mut (), &AtomicBool::new(false))
}

/// An empty one that goes with the value.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The metrics file without what depends on the clock.
pub fn metrics(out: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("written");
    let record = |line: &str| match serde_json::from_str(line).expect("a record") {
        Metrics::Step(m) => Metrics::Step(StepMetrics { images_per_second: 0.0, ..m }),
        Metrics::Epoch(m) => {
            Metrics::Epoch(EpochMetrics { images_per_second: 0.0, seconds: 0.0, ..m })
        }
        search @ Metrics::Search(_) => search,
    };
    text.lines().map(record).collect()
}

/// A tiny network, all values of one tensor being this one.
pub fn with_filled(name: &str, value: f32) -> Checkpoint {
    let network = Network::new(Architecture::ResNet20, 0.25, 3, SIDE).expect("small");
    let network = network.with_statistics([0.5; 3], [0.25; 3]).expect("those of the images");
    let plain = Checkpoint::initialise(network.clone(), 1, BatchNormInit::Identity);
    let mut tensors = plain.tensors().clone();
    let shape = tensors[name].shape().to_vec();
    tensors.insert(name.into(), Tensor::filled(shape, value));
    let gates = Gates::all_kept(plain.gates().kept().len());
    Checkpoint::new(network, gates, tensors, plain.provenance().clone()).expect("finite")
}

/// The plan of another network, compiled with these settings.
pub fn plan_with(settings: &serde_json::Value) -> Plan {
    let ring = Ring::new(32).expect("in range");
    let fact = |shape, scale, visibility| Fact { shape, ring, scale, sign: Sign::Any, visibility };
    let image = Shape::new(3, SIDE, SIDE);
    let (client, shared) = (Visibility::Client, Visibility::Shared);
    let values = vec![
        fact(image, 8, client),
        fact(Shape::vector(3), 16, client),
        fact(Shape::vector(2), 20, shared),
        fact(Shape::vector(2), 20, client),
    ];
    let linear = StepOp::Linear(LinearStep {
        geometry: ConvGeometry::fully_connected(3, 2),
        lowering: Lowering::Direct,
        correlation: Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server },
        weight_scale: 4,
        weight_bits: 8,
    });
    let ops = [StepOp::Input, StepOp::SumPool, linear, StepOp::Reveal].into_iter().enumerate();
    let steps = ops.map(|(id, op)| Step {
        id: StepId(id),
        name: format!("step {id}"),
        inputs: (0..op.arity()).map(|_| ValueId(id - 1)).collect(),
        op,
        output: ValueId(id),
    });
    let input = InputSpec { shape: image, mean: [0.5; 3], std: [0.25; 3] };
    let labels = vec!["a".into(), "b".into()];
    let config = serde_json::json!({ "settings": settings });
    let provenance = Provenance::new("compile", None, config, None);
    let (network, preset) = ("another".into(), "fast".into());
    Plan::new(network, preset, (input, labels), (values, steps.collect()), provenance)
        .expect("sound")
}
