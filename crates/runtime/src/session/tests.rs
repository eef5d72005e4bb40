//! Every step of whole plans between two parties: what their shares add up to is what the evaluator makes of the step's
//! inputs, for truncations that round at random with the very shares that they had.

#[path = "../../tests/plans/mod.rs"]
mod plans;

use super::offline;
use super::online::{Output, Shares, execute};
use super::role::{ClientRole, Role, ServerRole};
use crate::Channel;
use crate::linear::Openings;
use crate::ot::{Ots, Prg};
use crate::threads::Threads;
use copriv_compiler::{Calibration, CompileConfig, LatticeSeeds, Preset, compile_with_seeds};
use copriv_ir::evaluate::{PlanEvaluator, Rounding, quantise_input};
use copriv_ir::lattice::{Hint, PublicSeed, SecretSeed};
use copriv_ir::{
    Activated, Activation, BatchNormInit, Checkpoint, ConvGeometry, FusedModel, Gates, Granularity,
    Lowering, Network, OtKind, Party, Phase, Plan, Provenance, Shape, StepOp, ValueId, cost,
};
use plans::{
    Builder, Model, classifier, downsampling, every_direct_step, every_step_by, image, mixed,
    with_both, with_lattice, with_replies,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use zeroize::Zeroizing;

/// A party's shares of all values of a plan; of what is revealed, what it learns.
fn shares_of<R: Role>(role: &R, mut channel: Channel, plan: &Plan, input: Vec<u64>) -> Vec<Shares> {
    let seed = [channel.party() as u8 + 1; 16];
    let mut ots = Ots::setup(&mut channel, Prg::from_seed(&seed), &cost::ot_use(plan))
        .expect("the set-up runs");
    let correlations = offline::prepare(role, &mut channel, &mut ots, plan, &mut |_, _, _| ())
        .expect("the peer is honest");
    let (mut values, mut openings): (Vec<Shares>, _) = (Vec::new(), Openings::new());
    for (step, ready) in plan.steps().iter().zip(correlations.steps) {
        channel.enter(step.id, Phase::Online).expect("nothing is left");
        let inputs = match step.op {
            StepOp::Input => vec![Zeroizing::new(input.clone())],
            _ => step.inputs.iter().map(|value| values[value.0].clone()).collect(),
        };
        let fact = plan.fact(step.output);
        let output = execute(role, &mut channel, fact, ready, (inputs, &mut openings));
        values.push(match output.expect("the peer is honest") {
            Output::Shares(shares) => shares,
            Output::Revealed(opened) => Zeroizing::new(opened.unwrap_or_default()),
        });
        channel.flush().expect("the peer is there");
    }
    values
}

/// Both parties' shares of all values.
fn run(model: &Model, hint: Option<Hint>, image: &[f32]) -> [Vec<Shares>; 2] {
    let plan = &*model.plan;
    let (server, client) = Channel::pair().expect("threads start");
    let input = quantise_input(plan.fact(ValueId(0)), image);
    let nothing = vec![0; input.len()];
    let threads = || Threads::new(1).expect("no thread is needed");
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let lattice = plan.lattice_plan().zip(model.weights.lattice_seed());
            let (weights, reply) = (&model.weights, plan.reply_plan());
            let role = ServerRole { weights, lattice, reply, threads: threads() };
            shares_of(&role, server, plan, nothing)
        });
        let (lattice, reply) = (plan.lattice_plan(), plan.reply_plan());
        let role = ClientRole { lattice, reply, hint: hint.map(Arc::new), threads: threads() };
        let client = shares_of(&role, client, plan, input);
        [server.join().expect("no panic"), client]
    })
}

/// Holds every step to the evaluator; the names of those that were there.
fn assert_every_step(model: &Model, hint: Option<Hint>, seed: u64) -> BTreeSet<&'static str> {
    let plan = &*model.plan;
    let evaluator = PlanEvaluator::new(plan, &model.weights).expect("its own weights");
    let [server, client] = run(model, hint, &image(plan, seed));
    let add = |value: ValueId| -> Vec<u64> {
        let ring = plan.fact(value).ring;
        let pairs = server[value.0].iter().zip(client[value.0].iter());
        pairs.map(|(&x0, &x1)| ring.add(x0, x1)).collect()
    };
    for step in &plan.steps()[1..] {
        let inputs: Vec<Vec<u64>> = step.inputs.iter().map(|&value| add(value)).collect();
        let inputs: Vec<&[u64]> = inputs.iter().map(Vec::as_slice).collect();
        let rounding = Rounding::ServerShares(&server[step.inputs[0].0]);
        let expected = evaluator.step(step, &inputs, rounding);
        let found = match step.op {
            StepOp::Reveal => {
                assert!(server[step.output.0].is_empty(), "the server learns nothing");
                client[step.output.0].to_vec()
            }
            _ => add(step.output),
        };
        assert_eq!(found, expected, "step {} {} ({})", step.id.0, step.op.name(), step.name);
        let ring = plan.fact(step.output).ring;
        let shares = [&server, &client].map(|values| &values[step.output.0]);
        assert!(shares.iter().all(|shares| shares.iter().all(|&x| x == ring.reduce(x))));
    }
    plan.steps().iter().map(|step| step.op.name()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any part of a map, by channel and by value, in rings of any width; two after each other, so that the second takes what
    /// passed by the first.
    #[test]
    fn activations_in_part_give_shares_of_the_evaluators_value(
        (channels, height, width) in (1_usize..6, 1_usize..7, 1_usize..7),
        bits in 12_u32..=64,
        shares in prop::array::uniform2(0_u64..=100),
        by_pixel in prop::array::uniform2(any::<bool>()),
        relu6 in prop::array::uniform2(any::<bool>()),
        (kind, leaf_bits, tables) in (prop::sample::select(&OtKind::ALL), 1_u32..=4, any::<bool>()),
        seed: u64,
    ) {
        let mut plan = Builder::new(Shape::new(3, height, width), bits, 4, seed);
        (plan.ot, plan.tables) = (kind, tables);
        let geometry = ConvGeometry::same(3, channels, 1, 1);
        plan.linear(geometry, Lowering::Direct, Party::Server, (3, 3));
        for ((share, by_pixel), relu6) in shares.into_iter().zip(by_pixel).zip(relu6) {
            let by = if by_pixel { Granularity::Pixel } else { Granularity::Channel };
            let function = if relu6 { Activation::Relu6 } else { Activation::Relu };
            plan.activation_in_part((function, leaf_bits), by, share);
        }
        assert_every_step(&plan.reveal(), None, seed);
    }
}

#[test]
fn every_kind_of_step_gives_shares_of_the_evaluators_value() {
    let choosers = [Party::Server, Party::Client];
    let mut names = BTreeSet::new();
    for (kind, tables) in [
        (OtKind::Iknp, false),
        (OtKind::SoftSpoken4, true),
        (OtKind::SoftSpoken8, false),
        (OtKind::Silent, false),
    ] {
        names.extend(assert_every_step(&every_step_by((kind, tables), choosers, 3, 4), None, 1));
        names.extend(assert_every_step(&mixed(kind, 2), None, 2));
        names.extend(assert_every_step(&classifier((kind, tables), 7, 3), None, 3));
    }
    let (direct, shared) = (every_direct_step(30, 5), downsampling(30, false, 5));
    for (model, hint) in [
        with_lattice(&direct, 6),
        with_both(&direct, 6),
        with_lattice(&shared, 6),
        with_both(&shared, 6),
    ] {
        names.extend(assert_every_step(&model, Some(hint), 4));
    }
    names.extend(assert_every_step(&with_replies(&shared, 6), None, 4));
    names.extend(assert_every_step(&shared, None, 4));
    let expected = [
        "add",
        "argmax",
        "extend",
        "input",
        "linear",
        "max_pool",
        "reduce",
        "relu",
        "relu6",
        "reveal",
        "sum_pool",
        "truncate",
        "truncate_reduce",
    ];
    assert_eq!(names, BTreeSet::from(expected));
}

/// A small network with random weights, some of its blocks fused, of the others' activations two thirds of the channels or
/// values left.
fn network() -> FusedModel {
    let network = "mobilenet_v2".parse().expect("known");
    let network = Network::new(network, 0.05, 5, 16).expect("possible");
    let whole = Checkpoint::initialise(network.clone(), 3, BatchNormInit::Identity);
    let gates = Gates::from_mask(&network, "01001011000101010").expect("17 gates");
    let mut parts = BTreeMap::new();
    for (number, node) in network.graph().nodes().iter().enumerate() {
        let by = [Granularity::Channel, Granularity::Pixel][number % 2];
        let bits = (0..by.bits(node.shape)).map(|place| place % 3 != number % 3).collect();
        if let Ok(Activated::Part(mask)) = Activated::of_bits(node.shape, by, bits)
            && gates.activated(node) > 0
        {
            parts.insert(node.name.clone(), mask);
        }
    }
    assert!(parts.len() > 10);
    let gates = gates.with_parts(parts);
    let provenance = Provenance::new("test", None, serde_json::Value::Null, None);
    let pruned = Checkpoint::new(network, gates, whole.tensors().clone(), provenance);
    copriv_reparam::fuse(&pruned.expect("fits")).expect("fuses")
}

#[test]
fn every_step_of_compiled_plans_gives_shares_of_the_evaluators_value() {
    let model = network();
    let calibration = Calibration::from_noise(&model, 1, 2).expect("finite values");
    for (preset, settings) in [
        (Preset::CoPriv, &[("output", "argmax")][..]),
        (Preset::Fast, &[("correlation", "lattice")]),
        (Preset::Fast, &[("output", "argmax"), ("ot", "silent"), ("leaf_bits", "2")]),
    ] {
        let mut config = CompileConfig::new(preset);
        for (key, value) in settings {
            config.set(key, value).expect("a known setting");
        }
        let (public, secret) = (PublicSeed::new([1; 32]), SecretSeed::new([2; 32]));
        let seeds = Some(LatticeSeeds { public, secret });
        let made = compile_with_seeds(&model, &calibration, &config, seeds).expect("compiles");
        let model = Model { plan: Arc::new(made.plan), weights: made.weights };
        let names = assert_every_step(&model, made.hint, 5);
        assert!(names.contains("relu") && names.contains("linear"), "{names:?}");
    }
}
