//! Text tests: each file of `tests/plans` holds settings, a graph, and the plan that must come out.
//!
//! ```text
//! compile PRESET [network=lan|wan|mobile] [KEY=VALUE]...
//! [widths LAYER WEIGHT_BITS ACTIVATION_BITS]...
//! [show ranges|overflow|weights]...
//! NAME = conv KERNELxKERNEL OUT [/STRIDE] [depthwise] INPUT | relu [MASK] INPUT | relu6 [MASK] INPUT | add A B | pool INPUT
//! ---
//! the plan, or the error
//! ```
//!
//! A MASK is `channel` or `pixel` and digits, repeated for all channels or values: 1 where the activation applies. The
//! graph's input is called `input`, 3x16x16. `COPRIV_BLESS=1` rewrites what is expected.

mod support;

use copriv_compiler::{Calibration, Compilation, CompileConfig, LatticeSeeds, compile_with_seeds};
use copriv_ir::lattice::{LatticeLayer, PublicSeed, ReplyLayer, SecretSeed};
use copriv_ir::{
    Activation, Architecture, Comparison, ConvGeometry, Correlation, FusedModel, FusedOp,
    Granularity, LatticeSection, LayerId, LayerWidths, Network, NetworkProfile, OtKind, Phase,
    Plan, Shape, Sign, Step, StepOp, TruncateMethod,
};
use std::collections::BTreeMap;
use std::path::Path;
use support::ModelBuilder;

#[test]
fn graphs_become_the_expected_plans() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of plans")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (source, expected) = text.split_once("---\n").expect("graph and plan");
        let found = outcome(source);
        if std::env::var_os("COPRIV_BLESS").is_some() {
            std::fs::write(&file, format!("{source}---\n{found}")).expect("writable");
        } else {
            assert_eq!(found, expected, "{}", file.display());
        }
    }
}

/// The listing of the plan that a source compiles to, or its error.
fn outcome(source: &str) -> String {
    let mut lines = source.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let command = lines.next().expect("a command");
    let mut words = command.strip_prefix("compile ").expect("compile").split_whitespace();
    let mut config = CompileConfig::new(words.next().expect("a preset").parse().expect("known"));
    for (key, value) in words.map(|setting| setting.split_once('=').expect("KEY=VALUE")) {
        match key {
            "network" => config.set_network(NetworkProfile::named(value).expect("a known network")),
            _ => config.set(key, value).expect("a known setting"),
        }
    }
    let is_graph = |line: &&str| line.contains(" = ");
    let (graph, directives): (Vec<&str>, Vec<&str>) = lines.partition(is_graph);
    let model = parse(graph.into_iter());
    config.widths.layers = widths(&directives);
    let calibration = Calibration::from_noise(&model, 1, 2).expect("finite values");
    let (public, secret) = (PublicSeed::new([1; 32]), SecretSeed::new([2; 32]));
    let seeds = LatticeSeeds { public, secret };
    match compile_with_seeds(&model, &calibration, &config, Some(seeds)) {
        Ok(compilation) => {
            let shows = directives.iter().filter_map(|line| line.strip_prefix("show "));
            let shown: String = shows.map(|what| show(what, &compilation)).collect();
            listing(&compilation.plan) + &shown
        }
        Err(error) => format!("error: {error}\n"),
    }
}

/// Bits layer by layer, where directives set some.
fn widths(directives: &[&str]) -> Option<LayerWidths> {
    let mut widths = LayerWidths::default();
    let mut all = directives.iter().filter_map(|line| line.strip_prefix("widths ")).peekable();
    all.peek()?;
    for line in all {
        let [name, weight, activation] =
            line.split_whitespace().collect::<Vec<_>>().try_into().expect("a layer and its bits");
        widths.weights.insert(name.into(), weight.parse().expect("a number"));
        widths.activations.insert(name.into(), activation.parse().expect("a number"));
    }
    Some(widths)
}

/// What a pass found beside the plan.
fn show(what: &str, compilation: &Compilation) -> String {
    let Compilation { plan, weights, report, .. } = compilation;
    let lines: Vec<String> = match what {
        "ranges" => report
            .ranges
            .iter()
            .map(|range| {
                let (bits, layer) = (range.ring.bits(), &range.layer);
                format!("range: %{} {layer} needs {} of {bits}", range.step.0, range.needed)
            })
            .collect(),
        "overflow" => report
            .overflows
            .iter()
            .map(|one| format!("overflow: %{} {} {}", one.step.0, one.layer, one.assurance))
            .collect(),
        "weights" => plan
            .steps()
            .iter()
            .filter_map(|step| {
                let layer = weights.layer(step.id)?;
                let ends = |x: &[i64]| {
                    let (min, max) = (x.iter().min(), x.iter().max());
                    format!("{}..{}", min.expect("some"), max.expect("some"))
                };
                let (biases, name) = (layer.bias.len(), &step.name);
                let (weight, bias) = (ends(&layer.weight), ends(&layer.bias));
                Some(format!("weights: %{} {name} {weight}, {biases} biases {bias}", step.id.0))
            })
            .collect(),
        other => panic!("nothing to show of {other}"),
    };
    lines.into_iter().map(|line| line + "\n").collect()
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> FusedModel {
    let mut model = ModelBuilder::new(Shape::new(3, 16, 16), 1);
    let mut names = BTreeMap::from([("input", (LayerId(0), 3))]);
    let mut classes = 0;
    for line in lines {
        let (name, rest) = line.split_once(" = ").expect("NAME = ...");
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (input, channels) = names[words[words.len() - 1]];
        let mut inputs = vec![input];
        classes = channels;
        let op = match words[0] {
            "relu" => FusedOp::Activation(Activation::Relu),
            "relu6" => FusedOp::Activation(Activation::Relu6),
            "pool" => FusedOp::GlobalAveragePool,
            "max" => FusedOp::MaxPool { kernel: 2, stride: 2, padding: 0 },
            "add" => {
                inputs.insert(0, names[words[1]].0);
                FusedOp::Add
            }
            "conv" => {
                let geometry = convolution(&words[1..words.len() - 1], channels);
                classes = geometry.out_channels;
                FusedOp::Conv(geometry)
            }
            other => panic!("no operation {other}"),
        };
        let layer = model.push(name, op, &inputs);
        if let ["relu" | "relu6", by, digits, _] = words[..] {
            let by = if by == "pixel" { Granularity::Pixel } else { Granularity::Channel };
            let bits: Vec<bool> = digits.chars().map(|digit| digit == '1').collect();
            model.mask(name, by, &bits);
        }
        names.insert(name, (layer, classes));
    }
    let network = Network::new(Architecture::ResNet20, 1.0, classes, 16).expect("a usual size");
    model.finish(network)
}

fn convolution(words: &[&str], in_channels: usize) -> ConvGeometry {
    let number = |text: &str| text.parse().expect("a number");
    let kernel = number(words[0].split_once('x').expect("KxK").0);
    let mut geometry = ConvGeometry::same(in_channels, number(words[1]), kernel, 1);
    for word in &words[2..] {
        match word.strip_prefix('/') {
            Some(stride) => geometry.stride = number(stride),
            None => geometry.groups = in_channels,
        }
    }
    geometry
}

fn listing(plan: &Plan) -> String {
    let steps: String = plan.steps().iter().map(|step| format!("{}\n", line(plan, step))).collect();
    let replies = plan.reply().map_or_else(String::new, |reply| {
        let rounding = reply.carrier_rounding;
        let comm = plan.predicted_comm();
        let replied = |step: &&Step| matches!(&step.op, StepOp::Linear(linear) if matches!(linear.correlation, Correlation::Reply(_)));
        let traffic = plan.steps().iter().filter(replied).map(|step| comm.traffic(step.id, Phase::Offline));
        let [up, down] = traffic.fold([0, 0], |[up, down], t| [up + t.client_to_server, down + t.server_to_client]);
        format!("replies: carrier -{rounding}, {up} bytes up, {down} bytes down\n")
    });
    let steps = steps + &replies;
    let Some(lattice) = plan.lattice_plan() else { return steps };
    let LatticeSection { set, secrets, carrier_rounding, .. } = lattice.section;
    let hint = lattice.hint_bytes();
    format!("{steps}lattice: {set}, {secrets} secrets -{carrier_rounding}, hint {hint} bytes\n")
}

/// How a step compares, where that is not as CrypTFlow2 does.
fn compared(how: &Comparison) -> String {
    let Comparison { ot, leaf_bits, tables } = how;
    if (*ot, *leaf_bits, *tables) == (OtKind::Iknp, 4, false) {
        return String::new();
    }
    let tables = if *tables { " in tables" } else { "" };
    format!(", {ot} digits of {leaf_bits}{tables}")
}

fn line(plan: &Plan, step: &Step) -> String {
    let op = match &step.op {
        StepOp::Linear(linear) => {
            let how = match linear.correlation {
                Correlation::Reply(ReplyLayer { input_rounding, log_norm, slots }) => {
                    format!("reply -{input_rounding} norm {log_norm} slots {slots}")
                }
                Correlation::Ot { kind, chooser } => format!("{kind}, {chooser} chooses"),
                Correlation::Lattice(layer) => {
                    let LatticeLayer { input_rounding, hint_rounding, log_norm, .. } = layer;
                    let LatticeLayer { first_secret, slots, .. } = layer;
                    let shared = if slots > 1 { format!(" slots {slots}") } else { String::new() };
                    format!(
                        "lattice -{input_rounding} -{hint_rounding} norm {log_norm} secret {first_secret}{shared}"
                    )
                }
            };
            let mask = plan.mask_source(step.id);
            let mask =
                if mask == step.id { String::new() } else { format!(", mask of %{}", mask.0) };
            format!("linear {}, {}, {how}{mask}", linear.geometry, linear.lowering)
        }
        StepOp::Truncate { shift, method } => match method {
            TruncateMethod::Faithful(how) | TruncateMethod::OneOff(how) => {
                format!("truncate {shift}{}", compared(how))
            }
            _ => format!("{} {shift}", step.op.name()),
        },
        StepOp::Extend { method, .. } => format!("extend {method:?}"),
        StepOp::Activation { comparison, mask: Some(mask), .. } => {
            format!("{} {mask}{}", step.op.name(), compared(comparison))
        }
        StepOp::Activation { comparison, .. }
        | StepOp::MaxPool { comparison, .. }
        | StepOp::ArgMax { comparison } => {
            format!("{}{}", step.op.name(), compared(comparison))
        }
        other => other.name().into(),
    };
    let inputs: String = step.inputs.iter().map(|value| format!(" %{}", value.0)).collect();
    let fact = plan.fact(step.output);
    let sign = if fact.sign == Sign::NonNegative { " >= 0" } else { "" };
    let (id, name) = (step.id.0, &step.name);
    format!("%{id} = {name}: {op}{inputs}  [{fact}{sign}]")
}
