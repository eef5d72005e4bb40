//! What the lattice correlations of the usual networks take: weights of eight bits with a root mean square of 40.

mod networks;

use copriv_ir::lattice::{Candidate, Choice, choose};
use copriv_ir::{Ring, StepId, ValueId};

/// The parameters of a network's layers when a client runs so many inferences.
fn chosen(name: &str, bits: u32, inferences: u64) -> Choice {
    let (_, layers) = networks::ALL.into_iter().find(|network| network.0 == name).expect("known");
    let ring = Ring::new(bits).expect("in range");
    let candidate = |(number, &(geometry, input)): (usize, &_)| {
        let geometry: copriv_ir::ConvGeometry = geometry;
        let log_norm = (geometry.fan_in() as f64 * 40.0 * 40.0).log2().ceil() as u32;
        let (step, reads) = (StepId(number), ValueId(number));
        Candidate { step, reads, geometry, input, ring, log_norm }
    };
    let candidates: Vec<_> = layers().iter().enumerate().map(candidate).collect();
    choose(&candidates, inferences).expect("the ring has room")
}

#[test]
fn uploads_and_hints_are_as_small_as_they_are_said_to_be() {
    for (name, inferences, megabytes) in [
        ("mobilenet_v2-fused-32", 1000, [1.3, 55.0]),
        ("mobilenet_v2-32", 1000, [8.0, 310.0]),
        ("resnet18-32", 1000, [3.6, 90.0]),
        ("resnet32-32", 50, [1.9, 22.0]),
        ("mobilenet_v2-fused-224", 1000, [9.0, 70.0]),
        ("mobilenet_v2-224", 1000, [33.0, 420.0]),
    ] {
        let choice = chosen(name, 30, inferences);
        let found = [choice.upload, choice.hint].map(|bytes| bytes as f64 / 1e6);
        let small = found.iter().zip(megabytes).all(|(found, most)| *found <= most);
        assert!(small, "{name}: {found:?} MB for {megabytes:?}");
    }
}

#[test]
fn a_client_that_runs_once_takes_less_altogether() {
    for (name, most) in
        [("mobilenet_v2-fused-32", 16.0), ("resnet18-32", 42.0), ("resnet32-32", 17.0)]
    {
        let total = [1, 1000].map(|inferences| {
            let choice = chosen(name, 30, inferences);
            (choice.upload + choice.hint) as f64 / 1e6
        });
        assert!(total[0] < most && total[0] < total[1] * 0.75, "{name}: {total:?} MB");
    }
}
