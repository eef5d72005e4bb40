//! What configurations are taken and refused.

use super::*;
use crate::data::Augmentation;

const TEXT: &str = "
    batch_size = 8
    [network]
    name = \"mobilenet_v2\"
    width = 0.25
    [data]
    name = \"tiny\"
    [pretrain]
    epochs = 2
    learning_rate = 0.1
    [search]
    epochs = 3
    learning_rate = 0.1
    budget = 0.5
    mu = 0.1
";

fn parse(overrides: &[&str]) -> Result<TrainConfig, String> {
    let overrides: Vec<String> = overrides.iter().map(|&s| s.into()).collect();
    TrainConfig::parse(TEXT, "tiny.toml", &overrides).map_err(|e| e.to_string())
}

#[test]
fn overrides_replace_and_add() {
    let config = parse(&[
        "search.budget=1",
        "data.name=other",
        "finetune.epochs=4",
        "finetune.learning_rate=0.01",
        "data.augmentation.flip=false",
        "device = ndarray",
    ])
    .expect("a good configuration");
    assert_eq!(config.search.as_ref().and_then(|s| s.budget), Some(1.0));
    assert_eq!((config.data.name.as_str(), config.device.as_str()), ("other", "ndarray"));
    assert_eq!(config.data.augmentation, Augmentation { flip: false, ..Augmentation::default() });
    assert_eq!(config.stages(), Stage::ALL);
    assert_eq!(parse(&[]).expect("good").stages(), [Stage::Pretrain, Stage::Search]);
}

#[test]
fn a_resolved_configuration_reads_back() {
    let config = parse(&[]).expect("good");
    let text = toml::to_string(&config).expect("serialises");
    assert_eq!(TrainConfig::parse(&text, "again", &[]), Ok(config));
}

#[test]
fn widths_are_the_same_for_all_layers_or_those_of_a_plan() {
    for text in ["{ weight_bits = 7, activation_bits = 6 }", "{ plan = \"a/plan.json\" }"] {
        let setting = format!("finetune={{ epochs = 1, learning_rate = 0.1, quantise = {text} }}");
        let config = parse(&[&setting]).expect("good");
        let text = toml::to_string(&config).expect("serialises");
        assert_eq!(TrainConfig::parse(&text, "again", &[]), Ok(config));
    }
}

#[test]
fn alphas_begin_alike_or_by_importance() {
    for (setting, expected) in [
        ("search.mu=1", AlphaStart::Alike(0.5)),
        ("search.alpha_start=1", AlphaStart::Alike(1.0)),
        ("search.alpha_start=importance", AlphaStart::Importance),
    ] {
        let config = parse(&[setting]).expect("good");
        assert_eq!(config.search.as_ref().map(|search| search.alpha_start), Some(expected));
        let text = toml::to_string(&config).expect("serialises");
        assert_eq!(TrainConfig::parse(&text, "again", &[]), Ok(config));
    }
}

#[test]
fn errors_name_the_key() {
    let cases = [
        ("search.budgte=0.5", "budgte"),
        ("serach.budget=0.5", "serach"),
        ("search.budget=1.5", "search.budget"),
        ("search.budget=nan", "search.budget"),
        ("search.budget=half", "budget"),
        ("search.gates=none", "gates"),
        ("search.method=magic", "method"),
        ("search.method=deepreduce", "search.gates"),
        ("search.method=snl", "search.gates"),
        ("search.method=senet", "search.gates"),
        ("search.granularity=row", "granularity"),
        ("search.alpha_start=1.5", "search.alpha_start"),
        ("search.alpha_start=measured", "0 to 1 or \"importance\""),
        ("search.alpha_start=true", "0 to 1 or \"importance\""),
        ("search.alpha_learning_rate=-1", "search.alpha_learning_rate"),
        ("search.penalty.weight=-1", "search.penalty.weight"),
        ("search.penalty.growth=0.9", "search.penalty.growth"),
        ("search.penalty.stall=2", "search.penalty.stall"),
        ("search.penalty.threshold=1", "search.penalty.threshold"),
        ("search.penalty.wait=1", "wait"),
        ("search.epochs=0", "search.epochs"),
        ("search.budget_bytes=-1", "search.budget_bytes"),
        ("search.threshold=2", "search.threshold"),
        ("search.importance.images=0", "search.importance.images"),
        ("search.importance.image=5", "image"),
        ("batch_size=0", "batch_size"),
        ("batch_size=-1", "batch_size"),
        ("network.name=vgg", "name"),
        ("pretrain.warmup_epochs=3", "pretrain.warmup_epochs"),
        ("optimiser.momentum=1", "optimiser.momentum"),
        ("optimiser.algorithm=lion", "algorithm"),
        ("optimiser.beta2=1", "optimiser.beta2"),
        ("optimiser.clip_norm=-1", "optimiser.clip_norm"),
        ("optimiser.dropout=1", "optimiser.dropout"),
        ("optimiser.ema=1", "optimiser.ema"),
        (
            "finetune={ epochs = 1, learning_rate = 0.1, quantise = { weight_bits = 1, activation_bits = 8 } }",
            "finetune.quantise.weight_bits",
        ),
        (
            "finetune={ epochs = 1, learning_rate = 0.1, quantise = { weight_bits = 8 } }",
            "finetune.quantise: expected weight_bits and activation_bits, or a plan, found weight_bits",
        ),
        (
            "finetune={ epochs = 1, learning_rate = 0.1, quantise = { activation_bits = 8, plan = \"plan\" } }",
            "found activation_bits, plan",
        ),
        (
            "finetune={ epochs = 1, learning_rate = 0.1, quantise = { calibration_images = 9 } }",
            "found neither",
        ),
        (
            "finetune={ epochs = 1, learning_rate = 0.1, quantise = { plan = \"plan\", calibration_images = 0 } }",
            "finetune.quantise.calibration_images",
        ),
        ("data.workers=0", "data.workers"),
        ("data.mixing.mixup=-1", "data.mixing.mixup"),
        ("data.mixing.cutmix=nan", "data.mixing.cutmix"),
        ("data.augmentation.erasing=2", "data.augmentation.erasing"),
        ("data.augmentation.rand_augment.magnitude=31", "rand_augment.magnitude"),
        ("data.augmentation.rand_augment.operations=99", "rand_augment.operations"),
        ("data.augmentation.resized_crop.min_area=0", "resized_crop.min_area"),
        ("data.augmentation.resized_crop.max_aspect=0.5", "resized_crop.max_aspect"),
        ("start=a.safetensors", "start"),
        ("batch_size.x=1", "batch_size"),
        ("batch_size", "KEY=VALUE"),
        ("a..b=1", "a..b"),
    ];
    for (setting, named) in cases {
        let error = parse(&[setting]).expect_err(setting);
        assert!(error.contains(named), "{setting}: {error}");
    }
}

#[test]
fn a_search_without_epochs_has_no_warm_up_to_check() {
    let settings = ["search.method=dp", "search.epochs=0", "search.warmup_epochs=1"];
    assert!(parse(&settings).is_ok());
    let error = parse(&settings[1..]).expect_err("alphas take epochs to train");
    assert!(error.contains("search.epochs"), "{error}");
}

#[test]
fn a_search_needs_a_limit_that_its_method_knows() {
    let text = TEXT.replace("budget = 0.5", "");
    let parse = |setting: &str| TrainConfig::parse(&text, "tiny.toml", &[setting.to_owned()]);
    for good in ["search.budget=0.5", "search.budget_bytes=1e9", "search.threshold=0.5"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    let error = parse("search.mu=0.1").expect_err("no limit").to_string();
    assert!(error.contains("search.threshold"), "{error}");
    let dp = "search={ method = \"dp\", threshold = 0.5 }";
    let error = parse(dp).expect_err("no limit of dp").to_string();
    assert!(error.contains("search.budget_bytes") && error.contains("dp"), "{error}");
    assert!(parse("search={ method = \"dp\", budget = 0.5 }").is_ok(), "dp needs no epochs");
    let of = |method: &str, rest: &str| {
        parse(&format!("search={{ method = \"{method}\", gates = \"layers\", {rest} }}"))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(of("senet", "budget_relus = 100"), Ok(()), "senet needs no epochs");
    // The other limits of the text are no excuse.
    for (method, limit) in [
        ("copriv", "budget_relus=100"),
        ("dp", "threshold=0.5"),
        ("dp", "budget_relus=100"),
        ("uniform", "threshold=0.5"),
        ("deepreduce", "budget_bytes=1e9"),
        ("snl", "budget_bytes=1e9"),
        ("senet", "threshold=0.5"),
    ] {
        let settings =
            [&format!("search.method={method}"), "search.gates=layers", &format!("search.{limit}")];
        let settings = settings.map(String::from);
        let error = TrainConfig::parse(TEXT, "tiny.toml", &settings).expect_err(limit).to_string();
        let key = limit.split('=').next().unwrap_or_default();
        assert!(error.starts_with(&format!("search.{key}: ")) && error.contains(method), "{error}");
    }
    for (method, rest, named) in [
        ("snl", "budget_relus = 100", "search.epochs"),
        ("snl", "epochs = 1, learning_rate = 0.1, budget_bytes = 1e9", "search.budget_relus"),
        ("senet", "threshold = 0.5", "search.budget_relus"),
    ] {
        let error = of(method, rest).expect_err(named);
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn alphas_of_gates_settle_along_with_the_weights() {
    let gates = "search.epochs=1 search.learning_rate=0.2 search.alpha_learning_rate=0.01";
    let gates: Vec<&str> = gates.split(' ').collect();
    let parts = ["search.method=snl", "search.gates=layers", "search.budget=0.5"];
    let rates = |settings: &[&str]| {
        let search = parse(settings).expect("good").search.expect("a search");
        [0.2, 0.1, 0.0].map(|rate| search.alpha_rate(rate))
    };
    assert_eq!(rates(&gates), [0.01, 0.005, 0.0]);
    assert_eq!(rates(&[&gates[..], &parts].concat()), [0.01; 3]);
}

#[test]
fn a_teacher_without_a_share_is_none() {
    let teacher = |weight: f64| {
        let teacher = "distillation.teacher=unpruned";
        let (stages, weight) =
            ("distillation.stages=[\"search\"]", format!("distillation.weight={weight}"));
        parse(&[teacher, stages, &weight]).expect("good").teacher().is_some()
    };
    assert!(teacher(0.5) && !teacher(0.0));
}

#[test]
fn a_teacher_is_there_before_its_stages() {
    let with = |teacher: &str, stages: &str| {
        let stages = format!("distillation={{ teacher = \"{teacher}\", stages = {stages} }}");
        parse(&[&stages]).map(drop)
    };
    for (teacher, stages) in [
        ("unpruned", "[\"search\"]"),
        ("wide.safetensors", "[\"pretrain\", \"search\"]"),
        ("wide.safetensors", "[]"),
    ] {
        assert_eq!(with(teacher, stages), Ok(()));
    }
    for (teacher, stages, named) in [
        ("unpruned", "[\"pretrain\", \"search\"]", "distillation.teacher"),
        ("wide.safetensors", "[\"finetune\"]", "pretrain, search, found finetune"),
        ("wide.safetensors", "[\"rest\"]", "rest"),
    ] {
        let error = with(teacher, stages).expect_err(named);
        assert!(error.contains(named), "{error}");
    }
    let text = TEXT.split("[search]").next().unwrap_or_default();
    let finetune =
        ["finetune={ epochs = 1, learning_rate = 0.1 }", "distillation.teacher=unpruned"];
    assert_eq!(parse(&finetune).map(drop), Ok(()), "there is a search");
    let error = TrainConfig::parse(text, "tiny.toml", &finetune.map(String::from));
    let error = error.expect_err("no search").to_string();
    assert!(error.contains("distillation.teacher"), "{error}");
}

#[test]
fn a_run_without_stages_or_network_is_refused() {
    for (from, named) in [("[pretrain]", "stages"), ("[network]", "network")] {
        let text = TEXT.split(from).next().unwrap_or_default();
        let text = if named == "network" {
            format!("{text}[data]\nname = \"t\"\n[pretrain]\nepochs = 1\nlearning_rate = 1.0")
        } else {
            text.into()
        };
        let error = TrainConfig::parse(&text, "t", &[]).expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
    }
}
