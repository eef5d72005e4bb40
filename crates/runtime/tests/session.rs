//! Whole plans between two parties: what they compute, and what they send.

mod plans;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{
    CommTable, ConvGeometry, Lowering, OtKind, Party, Phase, Shape, StepId, Traffic, WinogradTile,
    cost,
};
use copriv_runtime::session::MAX_PREPARED;
use copriv_runtime::{Channel, ClientSession, Inference, RuntimeError, ServerSession, Threads};
use plans::{
    Builder, Model, WINOGRAD, classifier, every_step, every_step_by, image, mixed, nothing,
    session, session_on,
};
use proptest::prelude::*;
use std::sync::Arc;

/// Prepares and runs one inference.
fn infer(session: &mut ClientSession, image: &[f32]) -> Result<Inference, RuntimeError> {
    let prepared = session.prepare(&mut |_, _, _| ())?;
    session.infer(prepared, image, &mut |_, _, _| ()).map_err(RuntimeError::from)
}

/// Runs one inference in a session of its own.
fn run(model: &Model, image: &[f32]) -> Inference {
    run_on(1, model, image)
}

fn run_on(threads: usize, model: &Model, image: &[f32]) -> Inference {
    let channels = Channel::pair().expect("threads start");
    let (served, inference) = session_on(threads, model, channels, |mut session| {
        let inference = infer(&mut session, image)?;
        session.goodbye()?;
        Ok(inference)
    });
    assert_eq!(served.expect("the server is content"), 1);
    inference.expect("the client is content")
}

fn in_the_clear(model: &Model, image: &[f32]) -> Vec<i64> {
    PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights").run(image)
}

fn assert_as_predicted(measured: &CommTable, predicted: &CommTable) {
    assert_eq!(measured.first_difference(predicted), None, "step, phase, measured, predicted");
}

#[test]
fn sessions_that_share_threads_compute_each_its_own() {
    let model = every_step([Party::Server, Party::Client], 4, 5);
    let threads = Threads::new(2).expect("threads start");
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (server, client) = Channel::pair().expect("threads start");
            let (model, threads) = (&model, &threads);
            scope.spawn(move || {
                let plan = Arc::clone(&model.plan);
                let session = ServerSession::accept(server, plan, &model.weights);
                session.expect("a client").sharing_threads(threads).serve().expect("is content")
            });
            scope.spawn(move || {
                let plan = Arc::clone(&model.plan);
                let mut session = ClientSession::connect(client, plan).expect("a server");
                let image = image(&model.plan, seed);
                let inference = infer(&mut session, &image).expect("the server is there");
                assert_eq!(inference.fixed_point(), in_the_clear(model, &image));
                session.goodbye().expect("the server is there");
            });
        }
    });
}

#[test]
fn every_step_gives_the_evaluators_logits_and_the_predicted_traffic() {
    let (server, client) = (Party::Server, Party::Client);
    for (seed, choosers, leaf_bits) in
        [(1, [server, client], 4), (2, [client, server], 4), (3, [server, server], 3)]
    {
        let model = every_step(choosers, leaf_bits, seed);
        let image = image(&model.plan, seed);
        let inference = run(&model, &image);
        assert_eq!(inference.fixed_point(), in_the_clear(&model, &image));
        assert!(inference.fixed_point().iter().any(|&logit| logit != 0));
        assert_as_predicted(inference.comm(), &cost::plan(&model.plan));
        assert!(Phase::ALL.into_iter().all(|phase| inference.seconds(phase) > 0.0));
        let unit = (inference.scale() as f64).exp2();
        let logits = PlanEvaluator::new(&model.plan, &model.weights).expect("its own");
        assert_eq!(inference.logits(), logits.logits_f64(&image));
        assert_eq!(inference.logits()[0] * unit, inference.fixed_point()[0] as f64);
    }
}

#[test]
fn every_kind_of_transfer_gives_the_same_logits_and_its_own_traffic() {
    let choosers = [Party::Server, Party::Client];
    let tables = [(OtKind::Silent, true), (OtKind::SoftSpoken4, true)];
    for (kind, tables) in OtKind::ALL.map(|kind| (kind, false)).into_iter().chain(tables) {
        let model = every_step_by((kind, tables), choosers, 2, 8);
        let image = image(&model.plan, 8);
        let inference = run(&model, &image);
        assert_eq!(inference.fixed_point(), in_the_clear(&model, &image), "{kind}");
        assert_as_predicted(inference.comm(), &cost::plan(&model.plan));
    }
}

#[test]
fn a_plan_that_keeps_its_logits_tells_the_class_alone() {
    for classes in [1, 2, 3, 10] {
        for (kind, tables) in [(OtKind::Iknp, false), (OtKind::SoftSpoken4, true)] {
            let model = classifier((kind, tables), classes, classes as u64);
            let image = image(&model.plan, 9);
            let inference = run(&model, &image);
            let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own");
            assert_eq!(inference.class(), evaluator.class(&image));
            assert_eq!(inference.fixed_point(), evaluator.run(&image));
            assert!(inference.logits().is_empty());
            let logits = evaluator.logits_f64(&image);
            let class = inference.class().expect("it is told");
            assert!(logits[..class].iter().all(|&logit| logit < logits[class]));
            assert!(logits[class..].iter().all(|&logit| logit <= logits[class]));
            assert_as_predicted(inference.comm(), &cost::plan(&model.plan));
        }
    }
}

#[test]
fn silent_transfers_left_over_serve_the_next_inference() {
    let model = every_step_by((OtKind::Silent, false), [Party::Server, Party::Client], 4, 9);
    let image = image(&model.plan, 9);
    let channels = Channel::pair().expect("threads start");
    let (served, measured) = session(&model, channels, |mut session| {
        let all = (0..6).map(|_| Ok(infer(&mut session, &image)?.comm().clone())).collect();
        session.goodbye()?;
        all
    });
    assert_eq!(served.expect("the server is content"), 6);
    let measured: Vec<CommTable> = measured.expect("the client is content");
    let mut predicted = cost::SessionCost::new(&model.plan);
    let mut setup = predicted.setup();
    let first = predicted.inference(&model.plan);
    first.entries().for_each(|(step, phase, traffic)| setup.book(step, phase, traffic));
    assert_as_predicted(&measured[0], &setup);
    for measured in &measured[1..] {
        assert_as_predicted(measured, &predicted.inference(&model.plan));
    }
    let offline: Vec<u64> = measured.iter().map(|m| m.total(Phase::Offline).bytes()).collect();
    assert!(offline.iter().any(|&bytes| bytes < offline[0]), "{offline:?}");
}

#[test]
fn mixed_precision_rounds_by_an_ulp_and_costs_as_predicted() {
    for (seed, ot) in [(1, OtKind::Iknp), (2, OtKind::Silent)] {
        let model = mixed(ot, seed);
        let image = image(&model.plan, seed);
        let inference = run(&model, &image);
        assert_as_predicted(inference.comm(), &cost::plan(&model.plan));
        // A unit of the last place in a truncated value moves a logit by no more than the weights after it.
        let expected = in_the_clear(&model, &image);
        assert!(expected.iter().any(|&logit| logit != 0));
        for (found, expected) in inference.fixed_point().iter().zip(expected) {
            assert!(found.abs_diff(expected) < 1000, "{found}, {expected}");
        }
    }
}

#[test]
fn several_inferences_are_prepared_ahead_and_run_in_any_order() {
    let model = every_step([Party::Client, Party::Server], 4, 4);
    let images: Vec<_> = (0..3).map(|seed| image(&model.plan, seed)).collect();
    let channels = Channel::pair().expect("threads start");
    let (served, inferences) = session(&model, channels, |mut session| {
        let mut prepare = || session.prepare(&mut |_, _, _| ());
        let (first, second) = (prepare()?, prepare()?);
        let mut run = |prepared, image: &[f32]| session.infer(prepared, image, &mut |_, _, _| ());
        let (second, first) = (run(second, &images[1])?, run(first, &images[0])?);
        let third = infer(&mut session, &images[2])?;
        session.goodbye()?;
        Ok([first, second, third])
    });
    assert_eq!(served.expect("the server is content"), 3);
    let inferences = inferences.expect("the client is content");
    let mut later = CommTable::new();
    for (step, phase, traffic) in cost::plan(&model.plan).entries() {
        if phase != Phase::Setup {
            later.book(step, phase, traffic);
        }
    }
    for (inference, image) in inferences.iter().zip(&images) {
        assert_eq!(inference.fixed_point(), in_the_clear(&model, image));
    }
    let [first, second, third] = inferences.map(|inference| inference.comm().clone());
    assert_as_predicted(&second, &cost::plan(&model.plan));
    assert_as_predicted(&first, &later);
    assert_as_predicted(&third, &later);
}

#[test]
fn the_server_measures_what_the_client_measures() {
    let model = every_step([Party::Server, Party::Client], 4, 5);
    let (server, client) = Channel::pair().expect("threads start");
    let measured = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let plan = Arc::clone(&model.plan);
            let mut session = ServerSession::accept(server, plan, &model.weights)?;
            session.serve()?;
            assert!(matches!(session.serve(), Err(RuntimeError::SessionOver)));
            Ok::<_, RuntimeError>(session.comm())
        });
        let mut session =
            ClientSession::connect(client, Arc::clone(&model.plan)).expect("a server");
        infer(&mut session, &image(&model.plan, 5)).expect("the server is there");
        session.goodbye().expect("the server is there");
        server.join().expect("no panic").expect("the client is content")
    });
    assert_as_predicted(&measured, &cost::plan(&model.plan));
}

#[test]
fn progress_counts_the_bytes_of_the_inference() {
    let model = every_step([Party::Server, Party::Client], 4, 6);
    let (mut calls, mut last) = (Vec::new(), 0);
    let (_, result) = session(&model, Channel::pair().expect("threads start"), |mut session| {
        let mut progress =
            |phase: Phase, step: StepId, bytes: u64| calls.push((phase, step, bytes));
        let prepared = session.prepare(&mut progress)?;
        session.infer(prepared, &image(&model.plan, 6), &mut progress)?;
        session.goodbye()
    });
    result.expect("the server is there");
    for &(_, _, bytes) in &calls {
        assert!(bytes >= last);
        last = bytes;
    }
    assert!(calls.is_sorted_by_key(|&(phase, step, _)| (phase, step)));
    let total = |phase| cost::plan(&model.plan).total(phase);
    assert_eq!(last, (total(Phase::Offline) + total(Phase::Online)).bytes());
}

#[test]
fn mistakes_of_the_caller_leave_the_session_usable() {
    let (model, other) = (nothing(1), nothing(1));
    let picture = image(&model.plan, 1);
    let channels = Channel::pair().expect("threads start");
    let (_, foreign) = session(&other, channels, |mut session| {
        let prepared = session.prepare(&mut |_, _, _| ())?;
        session.goodbye()?;
        Ok(prepared)
    });
    let foreign = foreign.expect("the server is there");
    let (server, client) = Channel::pair().expect("threads start");
    let logits = std::thread::scope(|scope| {
        scope.spawn(|| {
            let plan = Arc::clone(&model.plan);
            ServerSession::accept(server, plan, &model.weights).and_then(|mut s| s.serve())
        });
        let mut session =
            ClientSession::connect(client, Arc::clone(&model.plan)).expect("a server");
        let mut watch = |_, _, _| ();
        let failed = session.infer(foreign, &picture, &mut watch).expect_err("another session's");
        assert!(matches!(failed.error, RuntimeError::ForeignPreparation));
        assert!(failed.prepared.is_some());
        let mut prepared = Vec::new();
        while prepared.len() < MAX_PREPARED {
            prepared.push(session.prepare(&mut watch).expect("there is room"));
        }
        let error = session.prepare(&mut watch).expect_err("one too many");
        assert!(matches!(error, RuntimeError::TooManyPrepared { limit: MAX_PREPARED }));
        // One that comes back is as good as any, and its place is free once it has run.
        for last in prepared {
            let failed = session.infer(last, &picture[1..], &mut watch).expect_err("too small");
            assert!(matches!(failed.error, RuntimeError::ImageSize { expected: 12, found: 11 }));
            let last = *failed.prepared.expect("nothing became of it");
            session.infer(last, &picture, &mut watch).expect("the server is there");
        }
        let inference = infer(&mut session, &picture).expect("there is room again");
        session.goodbye().expect("the server is there");
        inference.fixed_point().to_vec()
    });
    assert_eq!(logits, in_the_clear(&model, &picture));
}

#[test]
fn factors_wider_than_the_plan_says_are_the_servers_fault() {
    let mut plan = Builder::new(Shape::new(3, 4, 4), 20, 4, 1);
    // Taps of 5 bits become factors of up to 9 bits under F(2x2, 3x3).
    plan.linear(ConvGeometry::same(3, 2, 3, 1), WINOGRAD, Party::Server, (5, 5));
    let model = plan.reveal();
    let channels = Channel::pair().expect("threads start");
    let (served, result) = session(&model, channels, |mut session| {
        let error = session.prepare(&mut |_, _, _| ()).expect_err("the server fails");
        assert!(matches!(session.prepare(&mut |_, _, _| ()), Err(RuntimeError::SessionOver)));
        assert!(matches!(session.goodbye(), Err(RuntimeError::SessionOver)));
        Err::<(), _>(error)
    });
    let wide = served.expect_err("too wide");
    assert!(matches!(wide, RuntimeError::WideWeights { step: StepId(1), bits: 5 }));
    assert!(matches!(result, Err(RuntimeError::PeerAborted { peer: Party::Server })));
}

fn chooser() -> impl Strategy<Value = Party> {
    prop_oneof![Just(Party::Server), Just(Party::Client)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions_of_any_geometry(
        (seed, bits, chooser) in (any::<u64>(), 1u32..=64, chooser()),
        (kernel, stride, padding) in (1usize..=4, 1usize..=3, 0usize..=3),
        (groups, outputs) in (prop_oneof![Just(1usize), Just(3)], 1usize..=3),
        (height, width) in (1usize..=6, 1usize..=6),
        weight_bits in 1u32..=64,
    ) {
        let geometry = ConvGeometry {
            in_channels: 3,
            out_channels: groups * outputs,
            kernel,
            stride,
            padding: padding.min(kernel - 1),
            groups,
        };
        let shape = Shape::new(3, height, width);
        prop_assume!(geometry.output_shape(shape).elements() > 0);
        let weight_bits = weight_bits.min(bits);
        check_linear(shape, (geometry, Lowering::Direct), chooser, (bits, weight_bits, weight_bits), seed);
    }

    #[test]
    fn winograd_convolutions_of_any_size(
        (seed, bits, chooser) in (any::<u64>(), 1u32..=60, chooser()),
        (stride, lowering, growth) in prop::sample::select(vec![
            (1, WINOGRAD, 4),
            (1, Lowering::Winograd(WinogradTile::F4X4_3X3), 6),
            (2, Lowering::WinogradStride2, 2),
        ]),
        (groups, outputs, padding) in (prop_oneof![Just(1usize), Just(3)], 1usize..=4, 0usize..=2),
        (height, width) in (3usize..=9, 3usize..=9),
        taps in 1u32..=54,
    ) {
        let out_channels = groups * outputs;
        let geometry =
            ConvGeometry { in_channels: 3, out_channels, kernel: 3, stride, padding, groups };
        let weight_bits = (taps + growth).min(bits);
        check_linear(
            Shape::new(3, height, width),
            (geometry, lowering),
            chooser,
            (bits, taps, weight_bits),
            seed,
        );
    }

    #[test]
    fn fully_connected_layers(
        (seed, bits, chooser) in (any::<u64>(), 1u32..=64, chooser()),
        (outputs, weight_bits) in (1usize..=20, 1u32..=16),
    ) {
        let geometry = ConvGeometry::fully_connected(3, outputs);
        let weight_bits = weight_bits.min(bits);
        let widths = (bits, weight_bits, weight_bits);
        check_linear(Shape::vector(3), (geometry, Lowering::Direct), chooser, widths, seed);
    }
}

/// One linear step on an image: logits and traffic. Widths are those of the ring, the weights and the factors.
fn check_linear(
    shape: Shape,
    (geometry, lowering): (ConvGeometry, Lowering),
    chooser: Party,
    (bits, taps, weight_bits): (u32, u32, u32),
    seed: u64,
) {
    let mut plan = Builder::new(shape, bits, 3, seed);
    plan.linear(geometry, lowering, chooser, (taps, weight_bits));
    let model = plan.reveal();
    let image = image(&model.plan, seed);
    let inference = run_on(1 + seed as usize % 3, &model, &image);
    assert_eq!(inference.fixed_point(), in_the_clear(&model, &image));
    assert_as_predicted(inference.comm(), &cost::plan(&model.plan));
    let linear = inference.comm().traffic(StepId(1), Phase::Offline);
    assert_ne!(linear, Traffic::default());
}
