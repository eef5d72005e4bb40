//! Every method of pruning on tiny networks: what it chooses keeps its limits, and the result is a network like
//! any other.

mod colours;

use colours::data;
use copriv_ir::{
    ActivationMask, Architecture, BatchNormInit, Checkpoint, Condition, Gates, Granularity,
    Network, Node, Op,
};
use copriv_trainer::train::{
    Method, Metrics, Observer, SearchMetrics, Stage, StepMetrics, TrainConfig, TrainError,
    TrainOutcome, evaluate, run,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const CONFIG: &str = r#"
    seed = 3
    batch_size = 8
    [network]
    name = "mobilenet_v2"
    width = 0.05
    [data]
    name = "colours"
    augmentation = { crop_padding = 1, flip = true }
    [pretrain]
    epochs = 2
    learning_rate = 0.05
    [search]
    learning_rate = 0.02
    importance = { images = 24, calibration_batches = 2 }
    [finetune]
    epochs = 1
    learning_rate = 0.02
    [distillation]
    teacher = "unpruned"
"#;

fn train(overrides: &[&str], out: &Path) -> Result<TrainOutcome, TrainError> {
    train_from(CONFIG, overrides, out)
}

fn train_from(text: &str, overrides: &[&str], out: &Path) -> Result<TrainOutcome, TrainError> {
    let overrides: Vec<String> = overrides.iter().map(|&setting| setting.into()).collect();
    let config = TrainConfig::parse(text, "tiny.toml", &overrides)?;
    run(&config, &data(), out, false, &mut (), &AtomicBool::new(false))
}

/// The configuration without training before the search, from this checkpoint.
fn searching(start: &Path) -> String {
    let (_, data) = CONFIG.split_once("[data]").expect("a table");
    let (data, _) = data.split_once("[pretrain]").expect("a table");
    let (_, search) = CONFIG.split_once("[search]").expect("a table");
    format!("seed = 3\nbatch_size = 8\nstart = {start:?}\n[data]{data}[search]{search}")
}

fn kept(outcome: &TrainOutcome) -> usize {
    outcome.checkpoint.gates().kept()[1..18].iter().filter(|&&kept| kept).count()
}

fn total(outcome: &TrainOutcome) -> f64 {
    outcome.metrics.last().expect("epochs").bytes.total()
}

#[test]
fn dp_measures_chooses_and_trains_what_it_chose() {
    let out = tempfile::tempdir().expect("a folder");
    let method = "search.method=dp";
    let outcome = train(&[method, "search.budget=0.5"], &out.path().join("half")).expect("trains");
    let stages: Vec<Stage> = outcome.metrics.iter().map(|metrics| metrics.stage).collect();
    assert_eq!(stages, [Stage::Pretrain, Stage::Pretrain, Stage::Finetune]);

    let chosen = chosen(&out.path().join("half"));
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0].mask, outcome.checkpoint.gates().mask());
    assert_eq!((chosen[0].importances.gates.len(), chosen[0].importances.images), (17, 24));
    // The alphas are the importances, and no gate that went was worth more than one that stayed.
    let rises = chosen[0].importances.loss_rises(19);
    let useful = rises.iter().filter(|&&rise| rise > 0.0).count();
    assert_eq!(kept(&outcome), useful.min(9), "half of 17, rounded up, but none that does harm");
    let gates = outcome.checkpoint.gates();
    assert!(gates.alphas().iter().zip(&rises).all(|(&alpha, &rise)| alpha == rise as f32));
    let worth = |state: bool| {
        let of = (1..18).filter(move |&gate| gates.kept()[gate] == state);
        of.map(|gate| rises[gate]).collect::<Vec<_>>()
    };
    let least = worth(true).into_iter().fold(f64::INFINITY, f64::min);
    assert!(worth(false).into_iter().all(|gone| gone <= least));
}

#[test]
fn bytes_limit_both_methods_and_impossible_ones_name_the_smallest() {
    let out = tempfile::tempdir().expect("a folder");
    let run_folder = |name: &str| out.path().join(name);
    let whole = train(&["search.method=dp", "search.budget=1"], &run_folder("whole"));
    let none = train(&["search.method=dp", "search.budget=0"], &run_folder("none"));
    let (largest, smallest) = (total(&whole.expect("trains")), total(&none.expect("trains")));
    let middle = (largest + smallest) / 2.0;
    let limit = format!("search.budget_bytes={middle}");
    for (name, settings) in
        [("dp", vec!["search.method=dp"]), ("copriv", vec!["search.epochs=1", "search.mu=0.5"])]
    {
        let outcome = train(&[&settings[..], &[&limit]].concat(), &run_folder(name));
        let outcome = outcome.expect("trains");
        assert!((1..17).contains(&kept(&outcome)), "{name}");
        assert!(total(&outcome) <= middle, "{name}");
        let limit = format!("search.budget_bytes={}", smallest * 0.99);
        let error = train(&[&settings[..], &[&limit]].concat(), &run_folder("impossible"));
        let error = error.expect_err("impossible").to_string();
        let named = format!("{:.0}", smallest.ceil());
        assert!(error.contains("search.budget_bytes") && error.contains(&named), "{error}");
        assert!(!run_folder("impossible").exists());
    }
}

#[test]
fn deepreduce_drops_whole_layers_to_its_number_of_relus() {
    let out = tempfile::tempdir().expect("a folder");
    let method = ["search.method=deepreduce", "search.gates=layers"];
    let outcome = train(&[&method[..], &["search.budget=0.5"]].concat(), &out.path().join("half"));
    let outcome = outcome.expect("trains");
    let (first, last) = (&outcome.metrics[0], outcome.metrics.last().expect("epochs"));
    assert_eq!((first.mask.len(), first.relus.div_ceil(2)), (35, first.relus / 2));
    assert!(last.relus <= first.relus / 2 && last.relus > first.relus / 8, "{}", last.relus);
    assert!(outcome.checkpoint.network().layer_gates());

    let impossible = [&method[..], &["search.budget_relus=10", "search.gates=all"]].concat();
    let error = train(&impossible, &out.path().join("impossible")).expect_err("blocks").to_string();
    assert!(error.contains("search.gates"), "{error}");
}

/// Those of a run's records that are of this kind.
fn chosen(folder: &Path) -> Vec<SearchMetrics> {
    let log = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("written");
    let records = log.lines().map(|line| serde_json::from_str(line).expect("a record"));
    let chosen = records.filter_map(|record| match record {
        Metrics::Search(chosen) => Some(chosen),
        _ => None,
    });
    chosen.collect()
}

/// Activated values of a checkpoint.
fn activated(checkpoint: &Checkpoint) -> u64 {
    let graph = checkpoint.network().graph();
    graph.nodes().iter().map(|node| checkpoint.gates().activated(node) as u64).sum()
}

#[test]
fn snl_lets_alphas_fall_until_the_budget_holds() {
    let out = tempfile::tempdir().expect("a folder");
    let method = ["search.method=snl", "search.gates=layers", "search.epochs=12"];
    // Few steps an epoch: alphas must move faster than over a real data set.
    let fast = ["search.alpha_learning_rate=0.1", "search.budget=0.4"];
    for (granularity, weight) in [("channel", "3e-4"), ("pixel", "1e-3")] {
        let folder = out.path().join(granularity);
        let granularity_setting = format!("search.granularity={granularity}");
        let weight = format!("search.penalty.weight={weight}");
        let settings = [&method[..], &fast, &[&granularity_setting, &weight]].concat();
        let outcome = train(&settings, &folder).expect("trains");
        let of = |stage: Stage| outcome.metrics.iter().filter(move |epoch| epoch.stage == stage);
        let (whole, last) = (outcome.metrics[0].relus, outcome.metrics.last().expect("epochs"));
        let limit = (whole as f64 * 0.4) as u64;
        // It ends with the first epoch that is within the budget.
        let searched: Vec<u64> = of(Stage::Search).map(|epoch| epoch.relus).collect();
        let (&end, before) = searched.split_last().expect("searched");
        assert!(searched.len() < 12 && end <= limit, "{searched:?} of {whole}");
        assert!(before.iter().all(|&count| count > limit), "{searched:?}");
        assert!(of(Stage::Search).all(|epoch| epoch.penalty.is_some() && epoch.comm_loss > 0.0));
        assert!(of(Stage::Finetune).all(|epoch| epoch.penalty.is_none() && epoch.relus == end));

        let checkpoint = &outcome.checkpoint;
        assert_eq!((activated(checkpoint), last.relus), (end, end));
        let by = |mask: &ActivationMask| mask.granularity().to_string();
        let masks: Vec<String> = checkpoint.gates().parts().values().map(by).collect();
        assert!(masks.contains(&granularity.to_owned()), "{masks:?}");
        // The gates' alphas are the shares of what is left.
        let shares = checkpoint.gates().alphas();
        assert!(shares.iter().zip(checkpoint.gates().kept()).all(|(a, &kept)| (*a > 0.0) == kept));
        let searched = Checkpoint::read(&folder.join("search.safetensors")).expect("written");
        assert_eq!(searched.gates(), checkpoint.gates());
        assert_eq!(
            Checkpoint::read(&folder.join("last.safetensors")).expect("written"),
            *checkpoint
        );
        assert!(last.bytes.online < outcome.metrics[0].bytes.online);
        let accuracy =
            evaluate(checkpoint, &*data().test, ("cpu", 7), &mut |_| {}).expect("evaluates");
        assert_eq!(accuracy.top1, last.top1);
    }
}

#[test]
fn snl_keeps_the_largest_alphas_where_its_epochs_are_not_enough() {
    let out = tempfile::tempdir().expect("a folder");
    let settings = [
        "search.method=snl",
        "search.gates=layers",
        "search.epochs=2",
        "search.granularity=pixel",
        "search.penalty.growth=2",
        "search.budget_relus=1000",
    ];
    let outcome = train(&settings, out.path()).expect("trains");
    assert_eq!(activated(&outcome.checkpoint), 1000);
    let weights: Vec<f64> = outcome.metrics.iter().filter_map(|epoch| epoch.penalty).collect();
    assert_eq!(weights, [1e-5, 2e-5], "nothing had gone after the first");
}

#[test]
fn senet_gives_every_layer_its_share_by_importance() {
    let out = tempfile::tempdir().expect("a folder");
    let method = ["search.method=senet", "search.gates=layers", "search.budget=0.3"];
    for (granularity, epochs) in [("channel", 0), ("pixel", 1)] {
        let folder = out.path().join(granularity);
        let [granularity_setting, epochs_setting] =
            [format!("search.granularity={granularity}"), format!("search.epochs={epochs}")];
        let settings = [&method[..], &[&granularity_setting, &epochs_setting]].concat();
        let outcome = train(&settings, &folder).expect("trains");
        let chosen = chosen(&folder);
        assert_eq!(chosen.len(), 1);
        let whole = outcome.metrics[0].relus;
        let relus = activated(&outcome.checkpoint);
        assert!(relus <= (whole as f64 * 0.3) as u64, "{relus} of {whole}");
        // Training alphas changes which values a layer keeps, not how many.
        assert_eq!(
            (chosen[0].relus, outcome.metrics.last().expect("epochs").relus),
            (relus, relus)
        );
        let graph = outcome.checkpoint.network().graph();
        let gates = outcome.checkpoint.gates();
        let rises = chosen[0].importances.loss_rises(gates.kept().len());
        let masks = gates.parts();
        assert!(!masks.is_empty());
        // Of two layers with room left, the more important one has at least as much, up to a channel of each.
        let layers: Vec<(f64, usize, usize)> = graph
            .nodes()
            .iter()
            .filter_map(|node| match node.op {
                Op::Activation(Condition::Kept(gate)) if masks.contains_key(&node.name) => {
                    Some((rises[gate.0], gates.activated(node), node.shape.area()))
                }
                _ => None,
            })
            .collect();
        for (rise, count, area) in &layers {
            for (other_rise, other, more) in &layers {
                assert!(rise <= other_rise || count + area + more >= *other, "{layers:?}");
            }
        }
    }
}

#[test]
fn uniform_narrows_to_its_bytes_and_learns_from_the_wide_network() {
    let out = tempfile::tempdir().expect("a folder");
    let settings = ["search.method=uniform", "search.budget=0.85", "network.width=0.2"];
    let outcome = train(&settings, &out.path().join("run")).expect("trains");
    let network = outcome.checkpoint.network();
    assert!(network.width() < 0.2, "{network}");
    let (first, last) = (&outcome.metrics[0], outcome.metrics.last().expect("epochs"));
    assert!(last.bytes.total() <= 0.85 * first.bytes.total());

    let settings = ["search.method=uniform", "search.budget_bytes=10"];
    let error = train(&settings, &out.path().join("impossible")).expect_err("impossible");
    assert!(error.to_string().contains("search.budget"), "{error}");
}

#[test]
fn copriv_begins_by_importance_and_measures_once() {
    let out = tempfile::tempdir().expect("a folder");
    // Alphas that do not move: what was measured decides.
    let settings = ["search.epochs=1", "search.budget=1", "search.alpha_learning_rate=0"];
    let begin = |settings: &[&str], folder: &str| {
        let folder = out.path().join(folder);
        let outcome = train(settings, &folder).expect("trains");
        (outcome, chosen(&folder))
    };
    let start = "search.alpha_start=importance";
    let (whole, _) = begin(&[&settings[..], &[start]].concat(), "whole");
    let limit = format!("search.budget_bytes={}", whole.metrics[0].bytes.total() * 0.8);
    let settings = [&settings[..], &[&limit, start]].concat();
    let (outcome, chosen) = begin(&settings, "run");
    let [measured] = chosen.as_slice() else { panic!("{chosen:?}") };
    assert_eq!(measured.method, Method::Copriv);
    let last = outcome.metrics.last().expect("epochs");
    assert_eq!(measured.mask, last.mask);
    assert!(last.bytes.total() <= whole.metrics[0].bytes.total() * 0.8);
    let (rises, alphas) = (&measured.importances.gates, outcome.checkpoint.gates().alphas());
    assert_eq!(rises.len(), 17);
    // What is worth nothing has none, and within the limit some are in between.
    assert!(rises.iter().all(|gate| gate.loss_rise > 0.0 || alphas[gate.gate] == 0.0));
    assert!(alphas.iter().any(|alpha| (0.01..0.99).contains(alpha)), "{alphas:?}");
}

#[test]
fn a_threshold_removes_what_the_loss_pushes_below_it() {
    let out = tempfile::tempdir().expect("a folder");
    let settings = ["search.epochs=1", "search.threshold=0.5", "search.mu=1000"];
    let outcome = train(&settings, &out.path().join("run")).expect("trains");
    assert_eq!(kept(&outcome), 0, "no answer is worth a thousand");
}

/// A network of random weights, every third gate of which is removed.
fn pruned(layer_gates: bool, path: &Path) -> Checkpoint {
    let network = Network::new(Architecture::MobileNetV2, 0.2, 3, colours::SIDE).expect("small");
    let network = network.with_layer_gates(layer_gates).with_statistics([0.5; 3], [0.25; 3]);
    let network = network.expect("finite");
    let kept: Vec<bool> = (0..network.graph().blocks().len()).map(|gate| gate % 3 != 1).collect();
    let plain = Checkpoint::initialise(network, 4, BatchNormInit::Identity);
    written(&plain, Gates::keeping(kept), path)
}

/// The checkpoint with these gates, which it leaves at `path`.
fn written(checkpoint: &Checkpoint, gates: Gates, path: &Path) -> Checkpoint {
    let (network, tensors) = (checkpoint.network().clone(), checkpoint.tensors().clone());
    let made = Checkpoint::new(network, gates, tensors, checkpoint.provenance().clone());
    let made = made.expect("finite");
    made.write(path).expect("written");
    made
}

#[test]
fn no_method_brings_back_what_the_start_has_lost() {
    let out = tempfile::tempdir().expect("a folder");
    let start = out.path().join("start.safetensors");
    for layer_gates in [false, true] {
        let before = pruned(layer_gates, &start);
        let found = before.gates().kept();
        let gates = if layer_gates { "search.gates=layers" } else { "search.gates=blocks" };
        for (method, needs_layers, rest) in [
            ("copriv", false, "search.epochs=2"),
            ("dp", false, "search.epochs=0"),
            ("uniform", false, "search.epochs=0"),
            ("deepreduce", true, "search.epochs=0"),
            ("snl", true, "search.epochs=1"),
            ("senet", true, "search.epochs=1"),
        ] {
            if needs_layers && !layer_gates {
                continue;
            }
            let [method_setting, name] =
                [format!("search.method={method}"), format!("{method}-{layer_gates}")];
            let settings = ["search.budget=0.9", gates, &method_setting, rest];
            let run_folder = out.path().join(&name);
            let outcome = train_from(&searching(&start), &settings, &run_folder);
            let outcome = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
            let after = outcome.checkpoint.gates();
            let came_back =
                after.kept().iter().zip(found).filter(|(after, found)| **after && !**found);
            assert_eq!(
                came_back.count(),
                0,
                "{name}: {} then {}",
                before.gates().mask(),
                after.mask()
            );
            assert!(after.kept().contains(&true), "{name}");
            if method == "copriv" {
                // The fraction is of what there was.
                let searched = if layer_gates { 0..found.len() } else { 1..found.len() - 1 };
                let count =
                    |kept: &[bool]| kept[searched.clone()].iter().filter(|kept| **kept).count();
                assert_eq!(count(after.kept()), (count(found) as f64 * 0.9).round() as usize);
            }
        }
    }
}

/// Sets the flag with the first step.
struct StopAtOnce<'a>(&'a AtomicBool);

impl Observer for StopAtOnce<'_> {
    fn step(&mut self, _: &StepMetrics) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_interrupted_search_knows_what_was_gone_before() {
    let out = tempfile::tempdir().expect("a folder");
    let start = out.path().join("start.safetensors");
    pruned(false, &start);
    let settings = ["search.budget=0.5", "search.epochs=2", "search.alpha_learning_rate=5"];
    for (begin, measurements) in [("0.5", 0), ("importance", 1)] {
        let begin_setting = format!("search.alpha_start={begin}");
        let settings = [&settings[..], &[&begin_setting]].concat();
        let folder = out.path().join(begin);
        let [whole, resumed] = whole_and_resumed(&start, &settings, &folder);
        assert!(resumed == whole, "{begin}");
        assert_eq!(chosen(&folder.join("parts")).len(), measurements, "none is made again");
    }
}

/// What a run from `start` comes to, and one that is interrupted after its first step and resumed.
fn whole_and_resumed(start: &Path, settings: &[&str], out: &Path) -> [Checkpoint; 2] {
    let whole = train_from(&searching(start), settings, &out.join("whole")).expect("trains");
    let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
    let config = TrainConfig::parse(&searching(start), "t", &settings).expect("good");
    let (stop, run_folder) = (AtomicBool::new(false), out.join("parts"));
    run(&config, &data(), &run_folder, false, &mut StopAtOnce(&stop), &stop).expect("stops");
    let resumed = run(&config, &data(), &run_folder, true, &mut (), &AtomicBool::new(false));
    [whole.checkpoint, resumed.expect("resumes").checkpoint]
}

/// The same with masks: of every second activation that is left, two in three channels or values.
fn pruned_in_part(granularity: Granularity, path: &Path) -> Checkpoint {
    let plain = pruned(true, path);
    let (graph, gates) = (plain.network().graph(), plain.gates());
    let is_left = |node: &&Node| gates.activated(node) > 0;
    let mask = |node: &Node| {
        let bits = (0..granularity.bits(node.shape)).map(|bit| bit % 3 != 1).collect();
        let mask = ActivationMask::new(node.shape, granularity, bits).expect("a part");
        (node.name.clone(), mask)
    };
    let masks = graph.nodes().iter().filter(is_left).step_by(2).map(mask).collect();
    written(&plain, gates.clone().with_parts(masks), path)
}

#[test]
fn no_channel_or_value_that_is_gone_comes_back() {
    let out = tempfile::tempdir().expect("a folder");
    let start = out.path().join("start.safetensors");
    let snl = ["search.epochs=2", "search.penalty.growth=2"];
    let senet = ["search.epochs=1", "search.alpha_learning_rate=5"];
    for (found, by) in [("channel", "channel"), ("channel", "pixel"), ("pixel", "pixel")] {
        let before = match found {
            "pixel" => pruned_in_part(Granularity::Pixel, &start),
            _ => pruned_in_part(Granularity::Channel, &start),
        };
        let limit = activated(&before) * 9 / 10;
        for (method, rest) in [("snl", &snl), ("senet", &senet)] {
            let name = format!("{method}, {found} then {by}");
            let [method, by] =
                [format!("search.method={method}"), format!("search.granularity={by}")];
            let common = ["search.gates=layers", "search.budget=0.9"];
            let settings = [&common[..], rest, &[&method, &by]].concat();
            let outcome = train_from(&searching(&start), &settings, &out.path().join(&name));
            let after = outcome.unwrap_or_else(|error| panic!("{name}: {error}")).checkpoint;
            // The budget is a share of what there was.
            let (left, all) = (activated(&after), activated(&before));
            assert!(left <= limit && left > all / 2, "{name}: {left} of {all}");
            for node in before.network().graph().nodes() {
                let [values, were] =
                    [&after, &before].map(|checkpoint| activated_values(checkpoint, node));
                let came_back = values.iter().zip(were).any(|(is, was)| *is && !was);
                assert!(!came_back, "{name}: {}", node.name);
            }
        }
    }
    // A start by value, which a search by channel could not keep to.
    let settings = ["search.method=snl", "search.gates=layers", "search.budget=0.9"];
    let settings = [&settings[..], &["search.epochs=1"]].concat();
    let error = train_from(&searching(&start), &settings, &out.path().join("coarse"));
    let error = error.expect_err("by channel").to_string();
    assert!(error.contains("search.granularity: expected pixel"), "{error}");
}

/// Of each value of an activation's map whether it is activated; of other nodes nothing.
fn activated_values(checkpoint: &Checkpoint, node: &Node) -> Vec<bool> {
    let Op::Activation(_) = node.op else { return vec![] };
    let gates = checkpoint.gates();
    match gates.parts().get(&node.name) {
        Some(mask) => mask.values().collect(),
        None => vec![gates.activated(node) > 0; node.shape.elements()],
    }
}

#[test]
fn an_interrupted_search_knows_which_values_were_gone_before() {
    let out = tempfile::tempdir().expect("a folder");
    let start = out.path().join("start.safetensors");
    pruned_in_part(Granularity::Channel, &start);
    for method in ["snl", "senet"] {
        let method_setting = format!("search.method={method}");
        let settings = [
            "search.gates=layers",
            "search.budget=0.6",
            "search.epochs=2",
            "search.granularity=pixel",
            "search.alpha_learning_rate=0.5",
            &method_setting,
        ];
        let [whole, resumed] = whole_and_resumed(&start, &settings, &out.path().join(method));
        assert!(resumed == whole, "{method}");
    }
}

#[test]
fn a_network_with_activations_in_part_is_narrowed_with_them() {
    let out = tempfile::tempdir().expect("a folder");
    for granularity in ["channel", "pixel"] {
        let granularity_setting = format!("search.granularity={granularity}");
        let snl = ["search.method=snl", "search.gates=layers", "search.epochs=1"];
        let common = ["search.budget=0.4", "network.width=0.2", &granularity_setting];
        let first = train(&[&snl[..], &common].concat(), &out.path().join(granularity));
        let first = first.expect("trains");
        assert!(!first.checkpoint.gates().parts().is_empty());
        let name = format!("{granularity}-narrow");
        let settings = ["search.method=uniform", "search.gates=layers", "search.budget=0.85"];
        let narrow = train_from(&searching(&first.path), &settings, &out.path().join(name));
        let narrow = narrow.expect("trains").checkpoint;
        assert!(narrow.network().width() < 0.2);
        assert!(!narrow.gates().parts().is_empty());
        assert!(activated(&narrow) < activated(&first.checkpoint));
        let pairs = narrow.gates().kept().iter().zip(first.checkpoint.gates().kept());
        assert!(pairs.into_iter().all(|(after, before)| *before || !after));
    }
}
