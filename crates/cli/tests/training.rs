//! `copriv train` and `eval` on the data set that the repository carries.

mod program;

use copriv_ir::Checkpoint;
use program::{Workplace, json, sample};

const CONFIG: &str = r#"
seed = 3
batch_size = 32
network = { name = "mobilenet_v2", width = 0.05 }
data = { name = "cifar100_sample", train_limit = 96, test_limit = 40 }
pretrain = { epochs = 1, learning_rate = 0.05 }
search = { epochs = 1, learning_rate = 0.05, budget = 0.5, mu = 0.1 }
finetune = { epochs = 1, learning_rate = 0.02, distillation = { teacher = "unpruned" } }
"#;

#[test]
fn training_prunes_to_its_budget_and_the_result_goes_the_whole_road() {
    let place = Workplace::new();
    std::fs::write(place.path("train.toml"), CONFIG).expect("writes");
    let data = sample();
    place.succeed(&["train", "train.toml", "--data", &data, "--out", "run"]);

    let checkpoint = Checkpoint::read(&place.path("run/last.safetensors")).expect("reads");
    let kept = checkpoint.gates().kept();
    let blocks = &kept[1..kept.len() - 1];
    assert!(kept[0] && kept[kept.len() - 1], "stem and head were not searched");
    assert_eq!(blocks.iter().filter(|&&kept| kept).count(), 9, "half of 17, rounded up");
    assert_eq!(checkpoint.network().labels().len(), 20);

    let metrics = std::fs::read_to_string(place.path("run/metrics.jsonl")).expect("reads");
    let stages: Vec<_> = metrics.lines().map(|line| json(line)["stage"].clone()).collect();
    assert_eq!(stages, ["pretrain", "search", "finetune"]);

    place.succeed(&["fuse", "run/last.safetensors", "--out", "fused", "--verify", "2"]);
    let calibrate = ["--calibrate", "cifar100_sample", "--data", &data];
    place.succeed(&[&["compile", "fused", "--out", "plan"], &calibrate[..]].concat());
    let accuracy = |artefact: &str| {
        let eval = ["eval", artefact, "--dataset", "cifar100_sample", "--data", &data];
        json(&place.succeed(&[&eval[..], &["--limit", "40", "--json"]].concat()))
    };
    let [trained, fused, plan] = ["run/last.safetensors", "fused", "plan"].map(accuracy);
    assert_eq!(trained["count"], 40);
    assert_eq!(trained["top1"], fused["top1"]);
    let loss = |value: &serde_json::Value| value["loss"].as_f64().expect("a number");
    assert!((loss(&fused) - loss(&plan)).abs() < 0.05, "{fused} {plan}");
}

#[test]
fn bad_configurations_name_the_key() {
    let place = Workplace::new();
    std::fs::write(place.path("train.toml"), CONFIG).expect("writes");
    let data = sample();
    let fail = |set: &str| {
        place.fail(&["train", "train.toml", "--data", &data, "--out", "run", "--set", set])
    };
    for (set, expected) in [
        ("search.budgets=0.5", "budgets"),
        ("search.budget=7", "search.budget"),
        ("device=\"cuda:0\"", "cuda"),
        ("data.name=\"mnist\"", "cifar100"),
        ("network.name=\"vgg\"", "name"),
    ] {
        let error = fail(set);
        assert!(error.contains(expected), "{set}: {error}");
    }
    let error = place.fail(&["train", "train.toml", "--data", "nowhere", "--out", "run"]);
    assert!(error.contains("--data"), "{error}");
    let error = place.fail(&["train", "nothing.toml"]);
    assert!(error.contains("nothing.toml"), "{error}");
    assert!(!place.path("run/last.safetensors").exists());
}

#[test]
fn the_sample_is_what_its_manifest_says() {
    let place = Workplace::new();
    let root = format!("{}/..", sample());
    let checked = place.succeed(&["data", "check", "cifar100_sample", "--root", &root]);
    assert!(checked.contains("2000 images") && checked.contains("500 images"), "{checked}");
    assert!(place.succeed(&["data", "list"]).contains("cifar100_sample"));
    assert!(place.fail(&["data", "fetch", "cifar100_sample"]).contains("comes with"));
}
