//! Runs that are interrupted go on to the same bits, or say why they do not.

mod colours;
mod runs;

use colours::data;
use copriv_ir::Checkpoint;
use copriv_trainer::train::{
    EpochMetrics, Observer, QuantiseConfig, StepMetrics, TrainConfig, TrainError, evaluate, run,
};
use runs::{config, folder, metrics, plan_with, train, with_filled};
use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag once it has seen so many steps.
struct StopAfter<'a> {
    steps: usize,
    flag: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn step(&mut self, _: &StepMetrics) {
        self.steps -= 1;
        if self.steps == 0 {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}

/// Sets the flag within the measurement after so many whole epochs.
struct StopInMeasurement<'a> {
    epochs: usize,
    flag: &'a AtomicBool,
}

impl Observer for StopInMeasurement<'_> {
    fn measuring(&mut self, seen: usize, count: usize) {
        assert!(!self.flag.load(Ordering::Relaxed), "no batch is measured after that");
        self.flag.store(self.epochs == 0 && seen < count, Ordering::Relaxed);
    }

    fn epoch(&mut self, _: &EpochMetrics) {
        self.epochs -= 1;
    }
}

/// Remembers what a run does first.
#[derive(Default)]
struct First(Option<&'static str>);

impl Observer for First {
    fn step(&mut self, _: &StepMetrics) {
        self.0.get_or_insert("a step");
    }

    fn measuring(&mut self, _: usize, _: usize) {
        self.0.get_or_insert("a measurement");
    }
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let whole = folder();
    let expected = train(&config(&[]), whole.path()).expect("trains");
    // 9 steps an epoch: within pretraining, at its end, within the search, within fine-tuning.
    for steps in [4, 27, 40, 50] {
        let out = folder();
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter { steps, flag: &stop };
        let stopped = run(&config(&[]), &data(), out.path(), false, &mut observer, &stop)
            .expect("stops in good order");
        assert!(!stopped.finished && stopped.path.is_file());
        // What a crash would leave behind the state.
        let log = out.path().join("metrics.jsonl");
        let written = std::fs::read_to_string(&log).expect("written");
        std::fs::write(&log, written + "{\"kind\":\"step\"").expect("written");

        let resumed =
            run(&config(&[]), &data(), out.path(), true, &mut (), &AtomicBool::new(false))
                .expect("resumes");
        assert!(resumed.finished);
        assert!(resumed.checkpoint == expected.checkpoint, "interrupted after {steps}");
        assert_eq!(metrics(out.path()), metrics(whole.path()));
        assert_eq!(resumed.metrics.len(), 7);
    }
    // A finished run has nothing left to do.
    let again = run(&config(&[]), &data(), whole.path(), true, &mut (), &AtomicBool::new(false))
        .expect("resumes");
    assert!(again.finished && again.checkpoint == expected.checkpoint);
}

#[test]
fn an_interrupted_measurement_is_made_again_and_no_step_with_it() {
    let short = ["pretrain.epochs=1", "pretrain.warmup_epochs=0", "finetune.epochs=1"];
    let snl = ["search.method=snl", "search.gates=layers", "search.alpha_learning_rate=0.1"];
    let penalty = ["search.penalty.weight=1e-4", "search.penalty.stall=1"];
    for settings in [short.to_vec(), [&short[..], &snl, &penalty, &["optimiser.ema=0.9"]].concat()]
    {
        let config = config(&settings);
        let whole = folder();
        let expected = train(&config, whole.path()).expect("trains");
        // After pretraining, within the search and at its end, and after the last step of all.
        for epochs in 0..4 {
            let out = folder();
            let stop = AtomicBool::new(false);
            let mut observer = StopInMeasurement { epochs, flag: &stop };
            let stopped = run(&config, &data(), out.path(), false, &mut observer, &stop);
            let stopped = stopped.expect("stops in good order");
            assert_eq!((stopped.finished, stopped.metrics.len()), (false, epochs));
            assert_eq!(Checkpoint::read(&stopped.path).expect("written"), stopped.checkpoint);

            let (mut first, never) = (First::default(), AtomicBool::new(false));
            let resumed = run(&config, &data(), out.path(), true, &mut first, &never);
            let resumed = resumed.expect("resumes");
            assert_eq!(first.0, Some("a measurement"));
            assert!(resumed.checkpoint == expected.checkpoint, "interrupted after {epochs}");
            assert_eq!(metrics(out.path()), metrics(whole.path()), "interrupted after {epochs}");
        }
    }
}

/// Everything that draws random numbers or remembers earlier steps.
const ALL_ON: [&str; 11] = [
    "optimiser.ema=0.9",
    "optimiser.dropout=0.2",
    "optimiser.clip_norm=1",
    "data.augmentation.rand_augment={ operations = 2, magnitude = 9 }",
    "data.augmentation.erasing=0.3",
    "data.augmentation.resized_crop={ min_area = 0.5 }",
    "data.mixing={ mixup = 0.2, cutmix = 1.0 }",
    "data.workers=3",
    "pretrain.epochs=1",
    "search.epochs=1",
    "finetune.quantise={ weight_bits = 6, activation_bits = 6 }",
];

#[test]
fn with_everything_on_an_interrupted_run_ends_with_the_same_bits() {
    for algorithm in ["optimiser.algorithm=sgd", "optimiser.algorithm=adamw"] {
        let config = config(&[&ALL_ON[..], &[algorithm]].concat());
        let whole = folder();
        let expected = train(&config, whole.path()).expect("trains");
        for steps in [9, 30] {
            let out = folder();
            let stop = AtomicBool::new(false);
            let mut observer = StopAfter { steps, flag: &stop };
            run(&config, &data(), out.path(), false, &mut observer, &stop).expect("stops");
            // Another number of workers gives the same batches.
            let mut other = config.clone();
            other.data.workers = 1;
            let resumed = run(&other, &data(), out.path(), true, &mut (), &AtomicBool::new(false))
                .expect("resumes");
            assert!(resumed.checkpoint == expected.checkpoint, "{algorithm} after {steps}");
            assert_eq!(metrics(out.path()), metrics(whole.path()));
        }
    }
}

#[test]
fn on_two_devices_an_interrupted_run_ends_with_the_same_bits() {
    let config = config(&[&ALL_ON[..], &["device=\"cpu,cpu\""]].concat());
    let whole = folder();
    let expected = train(&config, whole.path()).expect("trains");
    for steps in [4, 13, 22] {
        let out = folder();
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter { steps, flag: &stop };
        run(&config, &data(), out.path(), false, &mut observer, &stop).expect("stops");
        let resumed = run(&config, &data(), out.path(), true, &mut (), &AtomicBool::new(false))
            .expect("resumes");
        assert!(resumed.checkpoint == expected.checkpoint, "after {steps}");
        assert_eq!(metrics(out.path()), metrics(whole.path()));
    }
}

/// Alphas of channels and values, their moments and the penalty are part of what a run goes on with.
#[test]
fn an_interrupted_search_among_channels_and_values_ends_with_the_same_bits() {
    let common = ["search.gates=layers", "pretrain.epochs=1", "pretrain.warmup_epochs=0"];
    let fast = ["search.alpha_learning_rate=0.1", "finetune.epochs=1"];
    let snl = ["search.method=snl", "search.epochs=4", "search.penalty.weight=1e-4"];
    let senet = ["search.method=senet", "search.epochs=2", "search.budget=0.3"];
    let growing = ["search.penalty.stall=1", "search.penalty.growth=1.5"];
    for (name, settings) in [
        ("snl by channel", [&snl[..], &growing].concat()),
        ("snl by pixel", [&snl[..], &["search.granularity=pixel", "optimiser.ema=0.9"]].concat()),
        ("senet by pixel", [&senet[..], &["search.granularity=pixel"]].concat()),
        ("senet by channel", [&senet[..], &["optimiser.algorithm=adamw"]].concat()),
    ] {
        let config = config(&[&common[..], &fast, &settings].concat());
        let whole = folder();
        let expected = train(&config, whole.path()).expect("trains");
        assert!(!expected.checkpoint.gates().parts().is_empty(), "{name}");
        // 9 steps an epoch: within the search, at an epoch's end, after it.
        for steps in [13, 18, 25] {
            let out = folder();
            let stop = AtomicBool::new(false);
            let mut observer = StopAfter { steps, flag: &stop };
            let stopped = run(&config, &data(), out.path(), false, &mut observer, &stop);
            let stopped = stopped.expect("stops");
            // What is left behind is a network like any other.
            let last = Checkpoint::read(&stopped.path).expect("written");
            assert!(evaluate(&last, &*data().test, ("cpu", 7), &mut |_| {}).is_ok());
            let resumed = run(&config, &data(), out.path(), true, &mut (), &AtomicBool::new(false))
                .expect("resumes");
            assert!(resumed.checkpoint == expected.checkpoint, "{name}, after {steps}");
            assert_eq!(metrics(out.path()), metrics(whole.path()), "{name}, after {steps}");
        }
        let again = run(&config, &data(), whole.path(), true, &mut (), &AtomicBool::new(false));
        assert!(again.expect("nothing is left to do").checkpoint == expected.checkpoint);
    }
}

#[test]
fn runs_are_neither_overwritten_nor_resumed_by_mistake() {
    let out = folder();
    let short = config(&["pretrain.epochs=1", "search.epochs=1", "finetune.epochs=1"]);
    let resume = |config: &TrainConfig| {
        run(config, &data(), out.path(), true, &mut (), &AtomicBool::new(false))
    };
    assert!(matches!(resume(&short), Err(TrainError::NothingToResume { .. })));
    train(&short, out.path()).expect("trains");
    assert!(matches!(train(&short, out.path()), Err(TrainError::Occupied { .. })));

    let mut other = short.clone();
    other.optimiser.momentum = 0.5;
    let error = resume(&other).expect_err("another configuration").to_string();
    assert!(error.contains("optimiser.momentum") && error.contains("0.9"), "{error}");

    for file in ["moments.safetensors", "weights.safetensors", "progress.json"] {
        let path = out.path().join("state").join(file);
        let good = std::fs::read(&path).expect("written");
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x55;
        std::fs::write(&path, &bad).expect("written");
        let error = resume(&short).expect_err(file).to_string();
        assert!(error.contains(file), "{error}");
        std::fs::write(&path, &bad[..middle]).expect("written");
        assert!(resume(&short).is_err());
        std::fs::write(&path, &good).expect("written");
    }
    let mut alike = short.clone();
    (alike.data.workers, alike.log_every) = (5, 7);
    assert!(resume(&alike).expect("nothing that changes the result").finished);
    // A crash between the two renames leaves the state under its second name.
    std::fs::rename(out.path().join("state"), out.path().join("state.old")).expect("renamed");
    assert!(resume(&short).expect("resumes").finished);
}

#[test]
fn a_resumed_run_learns_from_the_same_teacher() {
    let out = folder();
    let named = out.path().join("teacher.safetensors");
    with_filled("bn1.bias", 0.1).write(&named).expect("written");
    for own in [true, false] {
        let mut config = config(&["pretrain.epochs=1", "search.epochs=1"]);
        let run_folder = out.path().join(if own { "own" } else { "named" });
        let mut teacher = run_folder.join("unpruned.safetensors");
        if !own {
            teacher.clone_from(&named);
            config.distillation.as_mut().expect("present").teacher = named.display().to_string();
        }
        // 9 steps an epoch: within fine-tuning.
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter { steps: 22, flag: &stop };
        run(&config, &data(), &run_folder, false, &mut observer, &stop).expect("stops");
        let resume = || run(&config, &data(), &run_folder, true, &mut (), &AtomicBool::new(false));
        let good = std::fs::read(&teacher).expect("there");
        with_filled("bn1.bias", 0.2).write(&teacher).expect("written");
        let error = resume().expect_err("another teacher");
        assert!(
            matches!(&error, TrainError::TeacherChanged { path, .. } if *path == teacher),
            "{error}"
        );
        std::fs::write(&teacher, good).expect("written");
        assert!(resume().expect("the same teacher").finished);
    }
}

/// A plan gives the bits of single layers, and only when the run begins.
#[test]
fn a_run_keeps_the_widths_of_a_plan_that_is_gone() {
    let place = folder();
    let path = place.path().join("plan.json");
    let with_layers = |layers: serde_json::Value| {
        let settings = serde_json::json!({
            "precision": "mixed", "weight_bits": 8, "activation_bits": 8, "widths": layers,
        });
        plan_with(&settings).write(&path).expect("written");
        let mut config = config(&["pretrain.epochs=1", "pretrain.warmup_epochs=0"]);
        (config.search, config.distillation) = (None, None);
        let finetune = config.finetune.as_mut().expect("present");
        finetune.quantise = Some(QuantiseConfig {
            weight_bits: None,
            activation_bits: None,
            plan: Some(path.clone()),
            calibration_images: 8,
        });
        config
    };
    let out_of = |name: &str| place.path().join(name);
    let config = with_layers(serde_json::json!({ "weights": {}, "activations": {} }));
    let plain = train(&config, &out_of("plain")).expect("trains");
    let some = serde_json::json!({
        "weights": { "layer1.0.conv1": 3, "fc": 4 }, "activations": { "layer2.0.conv2": 3 },
    });
    let config = with_layers(some);
    let expected = train(&config, &out_of("whole")).expect("trains");
    assert_ne!(expected.checkpoint.tensors(), plain.checkpoint.tensors());

    let stop = AtomicBool::new(false);
    let mut observer = StopAfter { steps: 14, flag: &stop };
    let stopped = run(&config, &data(), &out_of("stopped"), false, &mut observer, &stop);
    assert!(!stopped.expect("stops in good order").finished);
    std::fs::remove_file(&path).expect("there");
    let resumed = run(&config, &data(), &out_of("stopped"), true, &mut (), &AtomicBool::new(false));
    assert!(resumed.expect("resumes").checkpoint == expected.checkpoint);
    assert_eq!(metrics(&out_of("stopped")), metrics(&out_of("whole")));
}
