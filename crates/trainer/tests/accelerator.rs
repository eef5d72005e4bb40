//! Training on a graphics card beside training on the CPU: `cargo test --workspace --features copriv/wgpu --test accelerator`.
//!
//! It needs a Vulkan driver; Mesa's software driver (`mesa-vulkan-drivers`) will do.
#![cfg(feature = "wgpu")]

mod colours;

use colours::data;
use copriv_trainer::train::{Observer, StepMetrics, TrainConfig, evaluate, run};
use std::sync::atomic::AtomicBool;

const CONFIG: &str = r#"
    seed = 3
    batch_size = 8
    [network]
    width = 0.25
    [data]
    name = "colours"
    augmentation = { crop_padding = 1, flip = true }
    [pretrain]
    epochs = 1
    learning_rate = 0.02
    [search]
    epochs = 1
    learning_rate = 0.01
    budget = 0.5
    [finetune]
    epochs = 1
    learning_rate = 0.01
    [distillation]
    teacher = "unpruned"
"#;

/// The loss of every step.
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn step(&mut self, metrics: &StepMetrics) {
        self.0.push(metrics.loss);
    }
}

fn losses(network: &str, device: &str) -> Vec<f64> {
    let settings = [format!("network.name={network:?}"), format!("device={device:?}")];
    let config = TrainConfig::parse(CONFIG, "tiny.toml", &settings).expect("a good configuration");
    let out = tempfile::tempdir().expect("a folder");
    let (stop, mut losses) = (AtomicBool::new(false), Losses(vec![]));
    let outcome = run(&config, &data(), out.path(), false, &mut losses, &stop).expect("trains");
    let accuracy =
        evaluate(&outcome.checkpoint, &*data().test, (device, 7), &mut |_| {}).expect("evaluates");
    assert_eq!(accuracy.top1, outcome.metrics.last().expect("three epochs").top1);
    losses.0
}

/// Rounding apart, which a deep network multiplies in every step: the first step compares forward passes, the second
/// backward passes and the optimiser.
#[test]
fn a_card_trains_as_the_cpu_does() {
    for network in ["resnet20", "mobilenet_v2"] {
        let (cpu, card) = (losses(network, "cpu"), losses(network, "wgpu:0"));
        assert_eq!((cpu.len(), card.len()), (27, 27), "three epochs of nine steps");
        for (step, tolerance) in [(0, 1e-3), (1, 0.03)] {
            let (cpu, card) = (cpu[step], card[step]);
            assert!((cpu - card).abs() < tolerance * cpu, "{network}, {step}: {cpu} and {card}");
        }
        assert!(card.iter().all(|loss| loss.is_finite()), "{network}: {card:?}");
    }
}
