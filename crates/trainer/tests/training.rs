//! Whole runs on tiny networks and made-up images.

mod colours;
mod runs;

use colours::{SIDE, colours, data};
use copriv_ir::evaluate::CheckpointEvaluator;
use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Network};
use copriv_trainer::data::{Dataset, Split};
use copriv_trainer::train::{Metrics, Stage, TrainConfig, TrainError, TrainingData, evaluate, run};
use runs::{config, folder, metrics, plan_with, train, with_filled};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[test]
fn a_run_learns_prunes_and_leaves_its_checkpoints() {
    let out = folder();
    let outcome = train(&config(&[]), out.path()).expect("trains");
    assert!(outcome.finished);
    let stages: Vec<Stage> = outcome.metrics.iter().map(|m| m.stage).collect();
    assert_eq!(
        stages,
        [[Stage::Pretrain; 3].as_slice(), &[Stage::Search; 2], &[Stage::Finetune; 2]].concat()
    );

    let (first, last) = (&outcome.metrics[0], &outcome.metrics[2]);
    assert!(last.task_loss < first.task_loss, "{} then {}", first.task_loss, last.task_loss);
    let end = outcome.metrics.last().expect("seven epochs");
    assert!(end.top1 > 0.8, "{}", end.top1);
    assert!(outcome.metrics.iter().all(|m| (m.comm_loss != 0.0) == (m.stage == Stage::Search)));

    // 9 blocks, of which round(4.5) = 5 stay, and the stem.
    let kept = outcome.checkpoint.gates().kept();
    assert_eq!((kept.len(), kept.iter().filter(|&&kept| kept).count()), (10, 6));
    assert!(kept[0]);
    assert!(end.bytes.online < first.bytes.online);
    let alphas = outcome.checkpoint.gates().alphas();
    assert!(alphas.iter().all(|alpha| (0.0..=1.0).contains(alpha)));

    let read = |name: &str| Checkpoint::read(&out.path().join(name)).expect(name);
    assert_eq!(read("last.safetensors"), outcome.checkpoint);
    assert_eq!(read("finetune.safetensors"), outcome.checkpoint);
    assert_eq!(read("search.safetensors").gates(), outcome.checkpoint.gates());
    assert_eq!(read("pretrain.safetensors").gates().mask(), "1".repeat(10));
    assert_eq!(read("unpruned.safetensors").tensors(), read("pretrain.safetensors").tensors());
    let accuracy =
        evaluate(&outcome.checkpoint, &*data().test, ("cpu", 7), &mut |_| {}).expect("evaluates");
    assert_eq!((accuracy.top1, accuracy.count), (end.top1, 20));
    assert!(accuracy.top5 >= accuracy.top1);

    let provenance = outcome.checkpoint.provenance();
    assert_eq!((provenance.seed, provenance.parent), (Some(3), None));
    assert_eq!(provenance.config["search"]["gates"], "blocks");
    let resolved = std::fs::read_to_string(out.path().join("config.toml")).expect("written");
    assert_eq!(TrainConfig::parse(&resolved, "resolved", &[]), Ok(config(&[])));
}

/// Copies of the network take their alphas along.
#[test]
fn two_devices_search_among_channels_as_one() {
    let settings = |device: &'static str| {
        let out = folder();
        let settings = [
            "search.method=snl",
            "search.gates=layers",
            "search.epochs=1",
            "search.alpha_learning_rate=0.05",
            "search.penalty.weight=1e-3",
            "data.augmentation={ crop_padding = 0, flip = false }",
            device,
        ];
        let mut config = config(&settings);
        (config.pretrain, config.finetune) = (None, None);
        train(&config, out.path()).expect("trains")
    };
    let [one, two] = ["device=cpu", "device=\"cpu,cpu\""].map(settings);
    let [a, b] = [&one, &two].map(|outcome| outcome.metrics.last().expect("an epoch").comm_loss);
    assert!(a < 0.9 && (a - b).abs() < 0.02, "{a} {b}");
}

/// As a compiler calibrates: in inference mode, on images as they are.
#[test]
fn ranges_are_those_of_the_kept_network_on_the_first_training_images() {
    let out = folder();
    let settings = [
        "pretrain.epochs=1",
        "search.epochs=1",
        "finetune.epochs=1",
        "optimiser.ema=0.9",
        "finetune.quantise={ weight_bits = 6, activation_bits = 6, calibration_images = 5 }",
    ];
    let outcome = train(&config(&settings), out.path()).expect("trains");
    let state = std::fs::read(out.path().join("state/progress.json")).expect("written");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    let found = state["progress"]["ranges"].as_object().expect("by node");

    let evaluator = CheckpointEvaluator::new(&outcome.checkpoint);
    let mut expected = vec![0f32; found.len()];
    for number in 0..5 {
        let pixels = data().train.pixels(number).expect("there").into_owned();
        let image = outcome.checkpoint.network().input().normalise(&pixels);
        for (largest, values) in expected.iter_mut().zip(evaluator.layers(&image)) {
            *largest = values.iter().fold(*largest, |max, x| max.max(x.abs()));
        }
    }
    assert_eq!(found.len(), outcome.checkpoint.network().graph().nodes().len());
    for (node, expected) in expected.iter().enumerate() {
        let found = found[&node.to_string()].as_f64().expect("a number");
        assert_eq!(found as f32, *expected, "node {node}");
    }
}

#[test]
fn the_mean_of_the_weights_is_what_is_kept() {
    let out = folder();
    let settings = ["optimiser.ema=0.9", "search.epochs=1", "finetune.epochs=1"];
    let outcome = train(&config(&settings), out.path()).expect("trains");
    let state = |name: &str| Checkpoint::read(&out.path().join("state").join(name)).expect(name);
    assert_eq!(state("average.safetensors"), outcome.checkpoint);
    assert_ne!(state("weights.safetensors").tensors(), outcome.checkpoint.tensors());
    let accuracy =
        evaluate(&outcome.checkpoint, &*data().test, ("cpu", 7), &mut |_| {}).expect("evaluates");
    assert_eq!(Some(accuracy.top1), outcome.metrics.last().map(|m| m.top1));
}

/// All images are the same, so that each device finds the statistics of the whole batch.
#[test]
fn two_devices_make_the_step_of_one() {
    let all = colours(Split::Train, 8);
    let mut same = all.clone().limit(0);
    (0..16).for_each(|_| same.push(all.image(0), all.labels()[0]));
    let data = TrainingData { train: Arc::new(same), ..data() };
    let trained = |device: &str| {
        let out = folder();
        let plain = ["batch_size=8", "pretrain.epochs=2", "data.augmentation.flip=false"];
        let crop = ["data.augmentation.crop_padding=0", device];
        let mut config = config(&[&plain[..], &crop].concat());
        (config.search, config.finetune) = (None, None);
        let stop = AtomicBool::new(false);
        run(&config, &data, out.path(), false, &mut (), &stop).expect("trains")
    };
    let (one, two) = (trained("device=cpu"), trained("device=\"cpu,cpu\""));
    for (name, tensor) in one.checkpoint.tensors() {
        let other = two.checkpoint.tensors()[name].data();
        let largest = tensor.data().iter().fold(1e-3f32, |max, x| max.max(x.abs()));
        for (a, b) in tensor.data().iter().zip(other) {
            assert!((a - b).abs() < 1e-2 * largest, "{name}: {a}, {b}");
        }
    }
}

#[test]
fn another_seed_gives_another_network() {
    let settings = ["pretrain.epochs=1", "search.epochs=1", "finetune.epochs=1"];
    let digest = |seed: &str| {
        let out = folder();
        let config = config(&[&settings[..], &[seed]].concat());
        train(&config, out.path()).expect("trains").checkpoint.digest()
    };
    assert_ne!(digest("seed=3"), digest("seed=4"));
}

/// A tiny network whose logits overflow.
fn exploding() -> Checkpoint {
    with_filled("fc.weight", f32::MAX)
}

#[test]
fn a_loss_that_is_no_number_names_the_step_and_keeps_the_last_checkpoint() {
    let out = folder();
    let teacher = out.path().join("teacher.safetensors");
    exploding().write(&teacher).expect("written");
    let teacher = teacher.display().to_string();
    for (taught, before) in [(Stage::Search, Stage::Pretrain), (Stage::Finetune, Stage::Search)] {
        let mut config = config(&["pretrain.epochs=1", "search.epochs=1"]);
        let distillation = config.distillation.as_mut().expect("present");
        (distillation.teacher, distillation.stages) = (teacher.clone(), vec![taught]);
        let run_folder = out.path().join(taught.name());
        let error = train(&config, &run_folder).expect_err("infinite logits");
        let TrainError::NotFinite { stage, epoch, step, last_good, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((*stage, *epoch, *step), (taught, 1, 1));
        let last = Checkpoint::read(last_good).expect("the last good checkpoint");
        let before = run_folder.join(format!("{before}.safetensors"));
        assert_eq!(last, Checkpoint::read(&before).expect("the end of the stage before"));
    }
}

#[test]
fn in_the_first_epoch_the_last_checkpoint_is_what_the_run_began_with() {
    let out = folder();
    let start = out.path().join("start.safetensors");
    exploding().write(&start).expect("written");
    let mut config = config(&["pretrain.epochs=1"]);
    (config.network, config.search, config.finetune) = (None, None, None);
    config.start = Some(start);
    let run_folder = out.path().join("run");
    let first = train(&config, &run_folder).expect_err("infinite logits");
    let resumed = run(&config, &data(), &run_folder, true, &mut (), &AtomicBool::new(false));
    for error in [first, resumed.expect_err("the same again")] {
        let TrainError::NotFinite { stage, epoch, step, last_good, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((*stage, *epoch, *step), (Stage::Pretrain, 1, 1));
        let last = Checkpoint::read(last_good).expect("the last good checkpoint");
        assert_eq!(last.tensors(), exploding().tensors());
    }
}

/// Training normalises by the batch; the running mean overflows only where the network is measured.
#[test]
fn a_measurement_that_is_no_number_is_not_written_down() {
    let out = folder();
    let start = out.path().join("start.safetensors");
    with_filled("bn1.running_mean", -3e38).write(&start).expect("written");
    let mut pretrain = config(&["pretrain.epochs=2"]);
    (pretrain.network, pretrain.search, pretrain.finetune) = (None, None, None);
    pretrain.start = Some(start);
    let mut dp = config(&["search.method=dp", "search.epochs=0"]);
    (dp.network, dp.pretrain, dp.finetune) = (None, None, None);
    dp.start.clone_from(&pretrain.start);
    for (name, config, expected) in
        [("pretrain", pretrain, (Stage::Pretrain, 9)), ("dp", dp, (Stage::Search, 0))]
    {
        let run_folder = out.path().join(name);
        let first = train(&config, &run_folder).expect_err("infinite activations");
        let resumed = run(&config, &data(), &run_folder, true, &mut (), &AtomicBool::new(false));
        for error in [first, resumed.expect_err("the same again")] {
            let TrainError::NotFinite { stage, step, last_good, loss, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!((*stage, *step, loss.is_finite()), (expected.0, expected.1, false));
            assert!(Checkpoint::read(last_good).is_ok());
        }
        let records = metrics(&run_folder);
        assert!(records.iter().all(|record| matches!(record, Metrics::Step(_))), "{records:?}");
    }
}

#[test]
fn a_network_that_answers_in_no_numbers_is_never_right() {
    let accuracy =
        evaluate(&exploding(), &*data().test, ("cpu", 7), &mut |_| {}).expect("evaluates");
    assert_eq!((accuracy.count, accuracy.top1, accuracy.top5), (20, 0.0, 0.0));
    assert!(!accuracy.loss.is_finite());
}

#[test]
fn a_data_set_of_some_classes_is_measured_by_their_names() {
    let names = ["red", "green", "blue"].map(String::from).to_vec();
    let network = Network::new(Architecture::ResNet20, 0.25, 3, SIDE).expect("small");
    let network = network.with_labels(names).expect("one a class");
    let checkpoint = Checkpoint::initialise(network, 4, BatchNormInit::Random);
    let test = colours(Split::Test, 30);
    let accuracy = |images: &Dataset| {
        evaluate(&checkpoint, images, ("cpu", 8), &mut |_| {}).expect("evaluates")
    };
    let of_class = |class| accuracy(&test.only_classes(&[class]).expect("known"));
    let whole = accuracy(&test);
    let mean = (0..3).map(|class| of_class(class).top1).sum::<f64>() / 3.0;
    assert!((whole.top1 - mean).abs() < 1e-12, "ten images each: {} {mean}", whole.top1);

    let unnamed = Network::new(Architecture::ResNet20, 0.25, 2, SIDE).expect("small");
    let unnamed = Checkpoint::initialise(unnamed, 4, BatchNormInit::Random);
    let error = evaluate(&unnamed, &test, ("cpu", 8), &mut |_| {}).expect_err("three classes");
    assert!(matches!(error, TrainError::Classes { expected: 2, found: 3, .. }), "{error}");
}

#[test]
fn impossible_runs_are_refused_before_they_begin() {
    let out = folder();
    let refused = |config: &TrainConfig, data: &TrainingData, named: &str| {
        let run_folder = out.path().join("run");
        let result = run(config, data, &run_folder, false, &mut (), &AtomicBool::new(false));
        let error = result.expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
        assert!(!run_folder.exists(), "{named}");
    };
    refused(&config(&["batch_size=73"]), &data(), "batch_size");
    refused(&config(&["device=cuda:0"]), &data(), "--features cuda");
    refused(&config(&["device=tpu"]), &data(), "tpu");
    refused(&config(&["distillation.teacher=none.safetensors"]), &data(), "none.safetensors");
    let empty = TrainingData { test: Arc::new(colours(Split::Test, 0)), ..data() };
    refused(&config(&[]), &empty, "test images");

    let mut missing = config(&[]);
    (missing.network, missing.start) = (None, Some("missing.safetensors".into()));
    refused(&missing, &data(), "missing.safetensors");
    let path = out.path().join("start.safetensors");
    exploding().write(&path).expect("written");
    missing.start = Some(path);
    let two = colours(Split::Train, 72).only_classes(&[0, 1]).expect("known");
    let two = TrainingData { train: Arc::new(two), ..data() };
    refused(&missing, &two, "3 classes");

    // Classes in another order, pixels of other statistics.
    let named = |names: [&str; 3], mean: f32| {
        let whole = exploding();
        let network = whole.network().clone().with_statistics([mean; 3], [0.25; 3]);
        let network = network.expect("finite").with_labels(names.map(String::from).to_vec());
        let path = out.path().join("named.safetensors");
        Checkpoint::initialise(network.expect("one a class"), 1, BatchNormInit::Identity)
            .write(&path)
            .expect("written");
        path
    };
    let own = ["red", "green", "blue"];
    missing.start = Some(named(["red", "blue", "green"], 0.5));
    refused(&missing, &data(), "class 1 is blue to the network, but green in colours");
    for (names, mean, expected) in [
        (["red", "blue", "green"], 0.5, "class 1 to be green, found blue"),
        (own, 0.25, "mean [0.25, 0.25, 0.25]"),
    ] {
        let mut taught = config(&[]);
        taught.distillation.as_mut().expect("present").teacher =
            named(names, mean).display().to_string();
        refused(&taught, &data(), expected);
    }

    // Bits of layers that the network does not have, or may not have once it is searched.
    let place = folder();
    let path = place.path().join("plan.json");
    let quantised = |settings: serde_json::Value, is_searched: bool| {
        plan_with(&settings).write(&path).expect("written");
        let mut config = config(&["finetune.quantise={ plan = \"\" }"]);
        if !is_searched {
            (config.search, config.distillation) = (None, None);
        }
        let quantise = config.finetune.as_mut().and_then(|stage| stage.quantise.as_mut());
        quantise.expect("present").plan = Some(path.clone());
        config
    };
    let settings = |precision: &str, layers: &[&str]| {
        let weights: BTreeMap<&str, u32> = layers.iter().map(|&layer| (layer, 5)).collect();
        serde_json::json!({
            "precision": precision, "weight_bits": 8, "activation_bits": 8,
            "widths": { "weights": weights, "activations": {} },
        })
    };
    let known = ["conv1", "layer2.0.conv1", "fc"];
    refused(&quantised(settings("mixed", &known), true), &data(), "without [search]");
    refused(&quantised(settings("uniform", &known), false), &data(), "mixed precision");
    let foreign = ["conv1", "layer2.0"];
    refused(&quantised(settings("mixed", &foreign), false), &data(), "bits for layer2.0,");
    std::fs::remove_file(&path).expect("there");
    let missing = config(&["finetune.quantise={ plan = \"no-plan.json\" }"]);
    refused(&missing, &data(), "no-plan.json");
}

#[test]
fn a_checkpoint_to_start_from_is_the_parent() {
    let out = folder();
    let first = train(
        &config(&["pretrain.epochs=1", "search.epochs=1", "finetune.epochs=1"]),
        &out.path().join("a"),
    )
    .expect("trains");
    let mut second = config(&["pretrain.epochs=1"]);
    (second.network, second.search, second.finetune) = (None, None, None);
    second.start = Some(first.path);
    let outcome = train(&second, &out.path().join("b")).expect("trains");
    assert_eq!(outcome.checkpoint.provenance().parent, Some(first.checkpoint.digest()));
    assert_eq!(outcome.checkpoint.gates(), first.checkpoint.gates(), "gates stay as they were");
}

#[test]
fn both_cpu_devices_agree() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 3, SIDE).expect("small");
    let checkpoint = Checkpoint::initialise(network, 4, BatchNormInit::Random);
    let test = colours(Split::Test, 20);
    let flex = evaluate(&checkpoint, &test, ("cpu", 20), &mut |_| {}).expect("evaluates");
    let ndarray = evaluate(&checkpoint, &test, ("ndarray", 20), &mut |_| {}).expect("evaluates");
    assert!((flex.loss - ndarray.loss).abs() < 1e-3 * flex.loss.abs().max(1.0));
    assert_eq!(flex.count, ndarray.count);
}

#[test]
fn the_configurations_that_come_along_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let parse = |settings: &[String]| {
            TrainConfig::parse(&text, &name, settings).unwrap_or_else(|error| panic!("{error}"))
        };
        parse(&[]);
        // Every line of a comment that sets something.
        for line in text.lines().filter(|line| line.starts_with('#')) {
            let settings = line.split("--set ").skip(1);
            let word = |rest: &str| rest.split([' ', '`', ',']).next().map(String::from);
            parse(&settings.filter_map(word).collect::<Vec<_>>());
        }
        names.push(name);
    }
    let mut expected = vec!["demo".to_owned()];
    for dataset in ["cifar10", "cifar100", "imagenet"] {
        for family in ["mobilenet_v2", "resnet"] {
            expected.extend(["pretrain", "prune"].map(|to| format!("{dataset}_{family}_{to}")));
        }
        expected.push(format!("{dataset}_quantise"));
    }
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}
