//! How long plans take on a link: as the network profile predicts, and as a simulated link keeps time.

mod plans;

use copriv_ir::lattice::Hint;
use copriv_ir::{
    Activation, ConvGeometry, Lowering, NetworkProfile, OtKind, Party, Phase, Shape, cost,
};
use copriv_runtime::Channel;
use copriv_runtime::link::SimulatedTransport;
use plans::{
    Builder, Model, classifier, downsampling, every_direct_step, every_step_by, image, mixed,
    session, with_lattice, with_replies,
};
use std::path::Path;
use std::sync::Arc;

/// Seconds of each phase on a simulated link.
fn simulate(model: &Model, hint: Option<&Arc<Hint>>, profile: &NetworkProfile) -> [f64; 3] {
    let (server, client) = SimulatedTransport::pair(profile);
    let clocks = [server.clock(), client.clock()];
    let now = || clocks.iter().map(|clock| clock.elapsed().as_secs_f64()).fold(0.0, f64::max);
    let channels = (
        Channel::new(server, Party::Server).expect("no thread is needed"),
        Channel::new(client, Party::Client).expect("no thread is needed"),
    );
    let (served, seconds) = session(model, channels, |mut session| {
        if let Some(hint) = hint {
            session.set_hint(Arc::clone(hint))?;
        }
        let setup = clocks[1].elapsed().as_secs_f64();
        let prepared = session.prepare(&mut |_, _, _| ())?;
        let offline = now();
        session.infer(prepared, &image(&model.plan, 1), &mut |_, _, _| ())?;
        let online = now();
        session.goodbye()?;
        Ok([setup, offline - setup, online - offline])
    });
    served.expect("the server is content");
    seconds.expect("the client is content")
}

fn slow() -> NetworkProfile {
    let text = "client_to_server = 2e6\nserver_to_client = 2e6\nround_trip = 0.002";
    NetworkProfile::from_toml(text, Path::new("slow.toml")).expect("complete")
}

/// A convolution, a truncation and a ReLU of a few thousand elements.
fn layer(chooser: Party, leaf_bits: u32) -> Model {
    let mut plan = Builder::new(Shape::new(8, 16, 16), 32, 8, 1);
    plan.linear(ConvGeometry::same(8, 12, 3, 1), Lowering::Direct, chooser, (5, 5));
    plan.truncate(2, leaf_bits);
    plan.activation(Activation::Relu, leaf_bits);
    plan.reveal()
}

fn networks() -> [NetworkProfile; 4] {
    [NetworkProfile::lan(), NetworkProfile::wan(), NetworkProfile::mobile(), slow()]
}

/// Whether a prediction is within a tenth of what the link's clocks said.
fn assert_near(what: &str, profile: &NetworkProfile, predicted: f64, simulated: f64) {
    let ratio = predicted / simulated;
    assert!((0.9..1.1).contains(&ratio), "{what}: {profile}: {predicted} {simulated}");
}

#[test]
fn predicted_and_simulated_latency_agree() {
    let (server, client) = (Party::Server, Party::Client);
    let every = |kind, tables| every_step_by((kind, tables), [server, client], 4, 1);
    for (name, model) in [
        ("every step", every(OtKind::Iknp, false)),
        ("softspoken", every(OtKind::SoftSpoken4, false)),
        ("tables", every(OtKind::SoftSpoken8, true)),
        ("server's layer", layer(server, 4)),
        ("client's layer", layer(client, 4)),
        ("mixed", mixed(OtKind::SoftSpoken4, 1)),
        ("classifier", classifier((OtKind::SoftSpoken2, false), 100, 1)),
    ] {
        assert_predicted(name, &model, None);
    }
}

#[test]
fn so_they_do_with_silent_transfers_and_lattices() {
    let choosers = [Party::Server, Party::Client];
    assert_predicted("silent", &every_step_by((OtKind::Silent, false), choosers, 2, 1), None);
    let (model, hint) = with_lattice(&every_direct_step(26, 7), 3);
    assert_predicted("lattice", &model, Some(&Arc::new(hint)));
    assert_predicted("reply", &with_replies(&every_direct_step(26, 7), 3), None);
    for model in [downsampling(26, false, 7), with_replies(&downsampling(26, true, 7), 3)] {
        assert_predicted("shared", &model, None);
    }
}

fn assert_predicted(name: &str, model: &Model, hint: Option<&Arc<Hint>>) {
    let (plan, comm) = (&model.plan, cost::plan(&model.plan));
    // Every byte of every step is in a stream.
    for (phase, streams) in [
        (Phase::Offline, cost::streams::offline(plan)),
        (Phase::Online, cost::streams::online(plan)),
    ] {
        assert_eq!(streams.len(), plan.steps().len());
        for (id, streams) in &streams {
            let blocks = || streams.iter().flat_map(|stream| &stream.blocks);
            let sums = [0, 1].map(|way| blocks().map(|block| block[way]).sum::<u64>());
            let traffic = comm.traffic(*id, phase);
            assert_eq!(sums, [traffic.client_to_server, traffic.server_to_client], "{id:?}");
        }
    }
    for profile in networks() {
        let [setup, offline, online] = simulate(model, hint, &profile);
        assert_near(&format!("{name} setup"), &profile, profile.setup_latency(plan), setup);
        assert_near(&format!("{name} offline"), &profile, profile.offline_latency(plan), offline);
        assert_near(&format!("{name} online"), &profile, profile.online_latency(plan), online);
    }
}
