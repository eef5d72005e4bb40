//! Training on a graphics card beside training on the CPU: `cargo test --workspace --features copriv/wgpu --test accelerator`.
//!
//! It needs a Vulkan driver; Mesa's software driver (`mesa-vulkan-drivers`) will do.
#![cfg(feature = "wgpu")]

mod colours;

use colours::data;
use copriv_trainer::train::{EpochMetrics, TrainConfig, evaluate, run};
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
    distillation = { teacher = "unpruned" }
"#;

fn epochs(network: &str, device: &str) -> Vec<EpochMetrics> {
    let settings = [format!("network.name={network:?}"), format!("device={device:?}")];
    let config = TrainConfig::parse(CONFIG, "tiny.toml", &settings).expect("a good configuration");
    let out = tempfile::tempdir().expect("a folder");
    let stop = AtomicBool::new(false);
    let outcome = run(&config, &data(), out.path(), false, &mut (), &stop).expect("trains");
    let accuracy =
        evaluate(&outcome.checkpoint, &*data().test, (device, 7), &mut |_| {}).expect("evaluates");
    assert_eq!(accuracy.top1, outcome.metrics.last().expect("three epochs").top1);
    outcome.metrics
}

#[test]
fn a_card_trains_as_the_cpu_does() {
    for network in ["resnet20", "mobilenet_v2"] {
        let pairs = epochs(network, "cpu").into_iter().zip(epochs(network, "wgpu:0"));
        for (cpu, card) in pairs {
            // Rounding alone, which a few steps let grow.
            let close = |a: f64, b: f64| (a - b).abs() < 0.02 * a.abs().max(0.1);
            assert!(close(cpu.loss, card.loss), "{network}: {} and {}", cpu.loss, card.loss);
            assert_eq!(cpu.mask, card.mask, "{network}");
        }
    }
}
