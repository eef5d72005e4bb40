//! How long plans take on a link: as the network profile predicts, and as a simulated link keeps time.

mod plans;

use copriv_ir::{Activation, ConvGeometry, Lowering, NetworkProfile, Party, Phase, Shape, cost};
use copriv_runtime::Channel;
use copriv_runtime::link::SimulatedTransport;
use plans::{Builder, Model, every_step, image, session};
use std::path::Path;

/// Seconds of each phase on a simulated link.
fn simulate(model: &Model, profile: &NetworkProfile) -> [f64; 3] {
    let (server, client) = SimulatedTransport::pair(profile);
    let clocks = [server.clock(), client.clock()];
    let now = || clocks.iter().map(|clock| clock.elapsed().as_secs_f64()).fold(0.0, f64::max);
    let channels = (
        Channel::new(server, Party::Server).expect("no thread is needed"),
        Channel::new(client, Party::Client).expect("no thread is needed"),
    );
    let (served, seconds) = session(model, channels, |mut session| {
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

#[test]
fn predicted_and_simulated_latency_agree() {
    let (server, client) = (Party::Server, Party::Client);
    let networks = [NetworkProfile::lan(), NetworkProfile::wan(), NetworkProfile::mobile(), slow()];
    for model in &[every_step([server, client], 4, 1), layer(server, 4), layer(client, 4)] {
        let comm = cost::plan(&model.plan);
        for profile in &networks {
            for (phase, simulated) in Phase::ALL.into_iter().zip(simulate(model, profile)) {
                let predicted = profile.latency(&comm, phase);
                let ratio = predicted / simulated;
                // Short streams wait for each other more often than they would if they were long.
                let transfer: f64 = model
                    .plan
                    .steps()
                    .iter()
                    .map(|step| profile.transfer_seconds(comm.traffic(step.id, phase), phase))
                    .sum();
                if phase != Phase::Offline || transfer > 0.95 * predicted {
                    assert!(
                        (0.9..1.1).contains(&ratio),
                        "{profile}: {phase}: {predicted} {simulated}"
                    );
                }
            }
        }
    }
}
