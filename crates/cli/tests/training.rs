//! `copriv train` and `eval` on the data set that the repository carries.

mod program;

use copriv_ir::{Checkpoint, Plan, Widths};
use program::{Workplace, json, sample};
#[cfg(unix)]
use std::process::{Command, Stdio};

const CONFIG: &str = r#"
seed = 3
batch_size = 32
network = { name = "mobilenet_v2", width = 0.05 }
data = { name = "cifar100_sample", train_limit = 96, test_limit = 40 }
pretrain = { epochs = 1, learning_rate = 0.05 }
search = { epochs = 1, learning_rate = 0.05, budget = 0.5, mu = 0.1 }
finetune = { epochs = 1, learning_rate = 0.02 }
distillation = { teacher = "unpruned" }
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

    // The same with bits chosen by a budget: 16 images for what the layers are worth, 16 for the verdict.
    let budget = ["--preset", "fast", "--set", "max_drop=30", "--calibration-images", "32"];
    let compile = ["compile", "fused", "--out", "small"];
    place.succeed(&[&compile[..], &budget, &calibrate].concat());
    let shown = json(&place.succeed(&["inspect", "small", "--json"]));
    let values = shown["overflow"]["values"].as_array().expect("a list");
    let is_known = |value: &serde_json::Value| value["overflow"] != "assumed";
    assert!(!values.is_empty() && values.iter().all(is_known), "{values:?}");
    let steps = shown["steps"].as_array().expect("a list").iter();
    let bits = steps.filter_map(|step| step["weights"]["scale"].as_u64());
    assert!(
        bits.collect::<std::collections::BTreeSet<_>>().len() > 1,
        "layers have bits of their own"
    );
    assert_eq!(accuracy("small")["count"], 40);

    // Equalised, fine-tuned for these bits, and compiled with the same.
    place.succeed(&["equalise", "run/last.safetensors", "--out", "even.safetensors"]);
    let even = accuracy("even.safetensors");
    assert_eq!((&even["loss"], &even["top1"]), (&trained["loss"], &trained["top1"]));
    let even = Checkpoint::read(&place.path("even.safetensors")).expect("reads");
    assert_eq!(even.provenance().parent, Some(checkpoint.digest()));
    std::fs::write(place.path("again.toml"), AGAIN).expect("writes");
    let again = ["train", "again.toml", "--data", &data, "--out", "again"];
    place.succeed(&again);
    place.succeed(&["fuse", "again/last.safetensors", "--out", "finer"]);
    let widths = ["--preset", "fast", "--widths", "small", "--calibration-images", "96"];
    let compile = ["compile", "finer", "--out", "prepared"];
    place.succeed(&[&compile[..], &widths, &calibrate].concat());
    let widths_of = |folder: &str| {
        let plan = Plan::read(&place.path(folder).join(Plan::FILE)).expect("reads");
        Widths::of_plan(&plan).expect("mixed")
    };
    assert_eq!(widths_of("prepared"), widths_of("small"));
    assert!(widths_of("small").layers.is_some());
    let metrics = std::fs::read_to_string(place.path("again/metrics.jsonl")).expect("reads");
    let trained = json(metrics.lines().last().expect("an epoch"));
    let expected = trained["test_loss"].as_f64().expect("a number");
    let found = loss(&accuracy("prepared"));
    assert!((found - expected).abs() < 0.05, "{found} {trained}");

    // Of another network, of a plan without such bits, and where none can be.
    place.succeed(&["fuse", "run/pretrain.safetensors", "--out", "whole"]);
    let refused = |fused: &str, of: &str, preset: &str| {
        place.fail(&["compile", fused, "--out", "no", "--preset", preset, "--widths", of])
    };
    let error = refused("whole", "small", "fast");
    assert!(error.contains("the model has no layer"), "{error}");
    let error = refused("finer", "plan", "fast");
    assert!(error.contains("plan is no plan of mixed precision"), "{error}");
    let error = refused("finer", "small", "copriv");
    assert!(error.contains("use --preset fast"), "{error}");
}

const AGAIN: &str = r#"
seed = 3
batch_size = 32
start = "even.safetensors"
data = { name = "cifar100_sample", train_limit = 96, test_limit = 40 }
finetune = { epochs = 1, learning_rate = 0.02, quantise = { plan = "small" } }
"#;

#[test]
fn every_method_leads_to_a_plan_that_answers_alike() {
    let place = Workplace::new();
    let config = r#"
        batch_size = 16
        network = { name = "mobilenet_v2", width = 0.1 }
        data = { name = "cifar100_sample", train_limit = 48, test_limit = 16 }
        search = { budget = 0.9, importance = { images = 16, calibration_batches = 1 } }
        finetune = { epochs = 1, learning_rate = 0.02 }
        distillation = { teacher = "unpruned" }
    "#;
    std::fs::write(place.path("train.toml"), config).expect("writes");
    let data = sample();
    for (method, settings) in [
        ("dp", vec!["search.budget=0.5"]),
        ("deepreduce", vec!["search.gates=layers", "search.budget=0.5"]),
        ("senet", vec!["search.gates=layers", "search.budget=0.5"]),
        ("uniform", vec!["network.width=0.2"]),
    ] {
        let method_setting = format!("search.method={method}");
        let mut train = vec!["train", "train.toml", "--data", &data, "--out", method];
        for setting in std::iter::once(method_setting.as_str()).chain(settings) {
            train.extend(["--set", setting]);
        }
        place.succeed(&train);
        let [trained, fused, plan] =
            ["last.safetensors", "fused", "plan"].map(|name| format!("{method}/{name}"));
        place.succeed(&["fuse", &trained, "--out", &fused, "--verify", "2"]);
        place.succeed(&["inspect", &fused]);
        let calibrate = ["--calibrate", "cifar100_sample", "--data", &data];
        place.succeed(&[&["compile", &fused, "--out", &plan], &calibrate[..]].concat());
        let loss = |artefact: &str| {
            let eval = ["eval", artefact, "--dataset", "cifar100_sample", "--data", &data];
            let printed = place.succeed(&[&eval[..], &["--limit", "16", "--json"]].concat());
            json(&printed)["loss"].as_f64().expect("a number")
        };
        let [trained, fused, plan] = [trained, fused, plan].map(|name| loss(&name));
        assert!((trained - fused).abs() < 1e-3, "{method}: {trained} {fused}");
        assert!((fused - plan).abs() < 0.1, "{method}: {fused} {plan}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_training_in_good_order_and_the_resumed_run_ends_with_the_same_weights() {
    let place = Workplace::new();
    let long = "log_every = 1\n".to_owned()
        + &CONFIG.replace("pretrain = { epochs = 1", "pretrain = { epochs = 9");
    std::fs::write(place.path("train.toml"), long).expect("writes");
    let data = sample();
    let train = |out: &'static str| ["train", "train.toml", "--data", &data, "--out", out];
    place.succeed(&train("whole"));
    let last =
        |out: &str| Checkpoint::read(&place.path(out).join("last.safetensors")).expect("written");
    for signal in ["INT", "TERM"] {
        let mut child =
            place.command(&train(signal)).stderr(Stdio::null()).spawn().expect("it starts");
        let log = place.path(signal).join("metrics.jsonl");
        while std::fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
            assert!(child.try_wait().expect("a status").is_none(), "it ended before a step");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let kill = format!("kill -s {signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(75), "{signal}");
        assert_ne!(last(signal), last("whole"), "it was stopped on the way");
        place.succeed(&[&train(signal)[..], &["--resume"]].concat());
        assert_eq!(last(signal), last("whole"), "{signal}");
    }
}

/// As `nohup` starts it.
#[cfg(unix)]
#[test]
fn a_hang_up_that_is_ignored_stops_nothing() {
    let place = Workplace::new();
    std::fs::write(place.path("train.toml"), CONFIG).expect("writes");
    let script = r#"trap '' HUP; "$@" & child=$!
        until [ -s run/config.toml ] || ! kill -0 $child; do sleep 0.01; done
        kill -s HUP $child; wait $child"#;
    let mut command = Command::new("sh");
    command.current_dir(place.path(".")).args(["-c", script, "sh", env!("CARGO_BIN_EXE_copriv")]);
    command.args(["train", "train.toml", "--data", &sample(), "--out", "run"]);
    let output = command.output().expect("a shell");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.path("run/finetune.safetensors").is_file());
}

#[test]
fn a_checkpoint_is_measured_fast_as_the_clear_text_evaluator_does() {
    let place = Workplace::new();
    let network = ["init", "--network", "mobilenet_v2", "--width", "0.1", "--classes", "100"];
    place.succeed(&[&network[..], &["--resolution", "32", "--out", "whole"]].concat());
    place.succeed(&["prune", "whole", "--mask", "01100110011001100", "--out", "net"]);
    place.succeed(&["fuse", "net", "--out", "fused"]);
    let data = sample();
    let eval = |artefact: &str, options: &[&str]| -> Vec<String> {
        let words = ["eval", artefact, "--dataset", "cifar100_sample", "--data", &data];
        let limit = ["--limit", "150", "--json"];
        [&words[..], &limit, options].concat().into_iter().map(String::from).collect()
    };
    let run = |words: Vec<String>| place.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let measured = |options: &[&str]| {
        let outcome = run(eval("net", options));
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        json(&outcome.stdout)
    };
    // Its 20 classes are found among the first of the network's by number, which has no names.
    let [fast, same, clear] = [vec![], vec!["--device", "cpu"], vec!["--dump", "dumped"]]
        .map(|options| measured(&options));
    assert_eq!(fast, same);
    let keys = |value: &serde_json::Value| {
        value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(keys(&fast), keys(&clear));
    for key in ["artefact", "dataset", "split", "count", "top1", "top5"] {
        assert_eq!(fast[key], clear[key], "{key}");
    }
    let [a, b] = [&fast, &clear].map(|value| value["loss"].as_f64().expect("a number"));
    assert!((a - b).abs() < 1e-4, "{a} {b}");
    assert!(place.path("dumped").is_file());

    for (artefact, options, status, named) in [
        ("net", ["--device", "tpu"].as_slice(), 1, "tpu"),
        ("net", &["--device", "cpu", "--dump", "again"], 2, "--dump"),
        ("fused", &["--device", "cpu"], 1, "checkpoints"),
    ] {
        let outcome = run(eval(artefact, options));
        assert_eq!(outcome.status, status, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(named), "{}", outcome.stderr);
    }
}

#[test]
fn the_configurations_that_come_along_name_what_there_is() {
    let place = Workplace::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let config = entry.expect("an entry").path().display().to_string();
        let error = place.fail(&["train", &config, "--data", "nowhere", "--out", "run"]);
        // Everything but the data was in order.
        assert!(error.contains("nowhere"), "{config}: {error}");
    }
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
