//! Plans with lattice correlations between two parties.

mod plans;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::lattice::Hint;
use copriv_ir::{CommTable, Phase, ServerWeights, cost};
use copriv_runtime::{Channel, RuntimeError};
use plans::{
    Model, downsampling, every_direct_step, every_step, image, session, session_on, with_both,
    with_lattice, with_replies,
};
use std::sync::Arc;

/// Runs inferences on images of these seeds in one session: fixed-point logits and traffic of each.
fn infer<'a>(
    model: &Model,
    hint: impl Into<Option<&'a Arc<Hint>>>,
    seeds: &[u64],
) -> Result<Vec<(Vec<i64>, CommTable)>, RuntimeError> {
    let (channels, hint) = (Channel::pair().expect("threads start"), hint.into().cloned());
    let (served, inferences) = session_on(2, model, channels, |mut session| {
        if let Some(hint) = hint {
            session.set_hint(hint)?;
        }
        let prepared: Result<Vec<_>, _> =
            seeds.iter().map(|_| session.prepare(&mut |_, _, _| ())).collect();
        let mut results = Vec::new();
        for (&seed, prepared) in seeds.iter().zip(prepared?) {
            let image = image(&model.plan, seed);
            let inference = session.infer(prepared, &image, &mut |_, _, _| ())?;
            results.push((inference.fixed_point().to_vec(), inference.comm().clone()));
        }
        session.goodbye()?;
        Ok(results)
    });
    if inferences.is_ok() {
        assert_eq!(served.expect("the server is content"), seeds.len());
    }
    inferences
}

#[test]
fn inferences_equal_the_evaluators_and_send_what_was_predicted() {
    for bits in [26, 41] {
        let (model, hint) = with_lattice(&every_direct_step(bits, 7), 3);
        let hint = Arc::new(hint);
        let results = infer(&model, &hint, &[1, 2]).expect("both are content");
        let predicted = cost::plan(&model.plan);
        assert_eq!(results[0].1.first_difference(&predicted), None);
        let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights");
        for ((logits, _), seed) in results.iter().zip([1, 2]) {
            assert_eq!(*logits, evaluator.run(&image(&model.plan, seed)));
        }
        let lattice = model.plan.lattice_plan().expect("it has one");
        assert_eq!(lattice.steps.len(), 5);
        for (number, step) in lattice.steps.iter().enumerate() {
            let offline = predicted.traffic(step.id(), Phase::Offline);
            assert_eq!(offline.client_to_server, lattice.upload_bytes(number));
            assert_eq!((offline.server_to_client, offline.rounds), (0, 1));
        }
    }
}

#[test]
fn so_they_do_with_replies() {
    for bits in [12, 26, 41] {
        let model = with_replies(&every_direct_step(bits, 7), 3);
        let results = infer(&model, None, &[1, 2]).expect("both are content");
        let predicted = cost::plan(&model.plan);
        assert_eq!(results[0].1.first_difference(&predicted), None);
        let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights");
        for ((logits, _), seed) in results.iter().zip([1, 2]) {
            assert_eq!(*logits, evaluator.run(&image(&model.plan, seed)));
        }
        let reply = model.plan.reply_plan().expect("it has one");
        assert_eq!(reply.steps.len(), 5);
        for (number, step) in reply.steps.iter().enumerate() {
            let offline = predicted.traffic(step.id(), Phase::Offline);
            let [upload, reply] = reply.bytes(number);
            assert_eq!((offline.client_to_server, offline.server_to_client), (upload, reply));
            assert_eq!(offline.rounds, 2);
        }
    }
}

#[test]
fn lattices_and_transfers_stand_side_by_side() {
    let transfers = every_step([copriv_ir::Party::Server, copriv_ir::Party::Client], 4, 9);
    for (model, hint) in [with_lattice(&transfers, 4), with_both(&transfers, 4)] {
        let results = infer(&model, &Arc::new(hint), &[5]).expect("both are content");
        assert_eq!(results[0].1.first_difference(&cost::plan(&model.plan)), None);
        let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights");
        assert_eq!(results[0].0, evaluator.run(&image(&model.plan, 5)));
    }
}

#[test]
fn steps_that_read_one_value_open_it_once_and_share_an_upload() {
    for shortcut_first in [false, true] {
        let plain = downsampling(26, shortcut_first, 3);
        let (hinted, hint) = with_lattice(&plain, 4);
        let (mixed, mixed_hint) = with_both(&plain, 4);
        let replied = with_replies(&plain, 4);
        // Hints and replies take turns: with the shortcut first the two steps are of different kinds.
        for (model, hint, shares_upload, sharing) in [
            (plain, None, false, 1),
            (hinted, Some(hint), true, 1),
            (replied, None, true, 1),
            (mixed, Some(mixed_hint), true, usize::from(!shortcut_first)),
        ] {
            let (plan, hint) = (&model.plan, hint.map(Arc::new));
            let results = infer(&model, hint.as_ref(), &[5]).expect("both are content");
            let predicted = cost::plan(plan);
            assert_eq!(results[0].1.first_difference(&predicted), None);
            let evaluator = PlanEvaluator::new(plan, &model.weights).expect("its own weights");
            assert_eq!(results[0].0, evaluator.run(&image(plan, 5)));
            let shared = plan.steps().iter().filter(|step| plan.mask_source(step.id) != step.id);
            for step in shared.clone() {
                assert_eq!(predicted.traffic(step.id, Phase::Online).bytes(), 0);
                let offline = predicted.traffic(step.id, Phase::Offline);
                assert_eq!(offline.client_to_server == 0, shares_upload);
            }
            assert_eq!(shared.count(), sharing, "{shortcut_first}");
        }
    }
}

#[test]
fn missing_and_foreign_hints_and_secrets_are_refused() {
    let direct = every_direct_step(26, 8);
    let ((model, hint), (_, other)) = (with_lattice(&direct, 5), with_lattice(&direct, 6));
    let error = infer(&model, &Arc::new(other), &[1]).expect_err("foreign");
    assert!(matches!(error, RuntimeError::ForeignHint { .. }), "{error}");
    let channels = Channel::pair().expect("threads start");
    let (served, error) = session(&model, channels, |mut session| {
        let error = session.prepare(&mut |_, _, _| ()).map(|_| ());
        assert!(matches!(error, Err(RuntimeError::NoHint)), "no harm is done");
        session.set_hint(Arc::new(hint))?;
        session.prepare(&mut |_, _, _| ())?;
        session.goodbye()
    });
    assert_eq!((served.expect("content"), error.expect("content")), (0, ()));
    let layers = model
        .plan
        .steps()
        .iter()
        .filter_map(|step| Some((step.id, model.weights.layer(step.id)?.clone())));
    let provenance = model.weights.provenance().clone();
    let weights = ServerWeights::new(&model.plan, layers.collect(), provenance).expect("they fit");
    let bare = Model { plan: Arc::clone(&model.plan), weights };
    let (served, _) =
        session(&bare, Channel::pair().expect("threads start"), |session| session.goodbye());
    assert!(matches!(served, Err(RuntimeError::NoLatticeSeed)));
}

#[test]
fn plans_with_replies_come_back_from_files_and_need_no_secret() {
    let model = with_replies(&every_direct_step(26, 10), 7);
    let folder = tempfile::tempdir().expect("a folder");
    let [plan, weights] = ["plan.json", "server.safetensors"].map(|name| folder.path().join(name));
    model.plan.write(&plan).expect("written");
    model.weights.write(&weights).expect("written");
    let read = copriv_ir::Plan::read(&plan).expect("sound");
    assert_eq!((&read, read.reply_plan()), (&*model.plan, model.plan.reply_plan()));
    assert!(ServerWeights::read(&weights, &read).expect("sound") == model.weights);
    // A plan whose noise would show through its flood is no plan.
    let text = serde_json::to_string(&read).expect("json");
    let layer = read.reply_plan().expect("it has one").steps[0].layer();
    let [old, new] =
        [0, 2].map(|more| format!("\"input_rounding\":{}", layer.input_rounding + more));
    assert!(text.contains(&old), "{text}");
    let error = serde_json::from_str::<copriv_ir::Plan>(&text.replacen(&old, &new, 1));
    assert!(error.expect_err("refused").to_string().contains("flooded"));
}

#[test]
fn plans_and_secrets_come_back_from_files() {
    let (model, hint) = with_lattice(&every_direct_step(26, 10), 7);
    let folder = tempfile::tempdir().expect("a folder");
    let [plan, weights, file] =
        ["plan.json", "server.safetensors", "hint.bin"].map(|name| folder.path().join(name));
    model.plan.write(&plan).expect("written");
    model.weights.write(&weights).expect("written");
    hint.write(&file).expect("written");
    let read = copriv_ir::Plan::read(&plan).expect("sound");
    assert_eq!(read, *model.plan);
    let weights = ServerWeights::read(&weights, &read).expect("sound");
    assert!(weights == model.weights && weights.lattice_seed().is_some());
    let lattice = read.lattice_plan().expect("it has one");
    let section = lattice.section;
    let again = Hint::read(&file, &section.seed, &lattice.steps, section.hint).expect("sound");
    assert_eq!(again, hint);
}
