//! Weights in, weights out.

mod program;

use copriv_ir::Checkpoint;
use program::Workplace;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer/tests/data/resnet20.pth");
const NETWORK: [&str; 10] = [
    "--network",
    "resnet20",
    "--width",
    "0.1",
    "--classes",
    "4",
    "--resolution",
    "16",
    "--activation",
    "relu",
];

fn import(place: &Workplace, weights: &str, out: &str) {
    place.succeed(&[&["import", weights, "--out", out], &NETWORK[..]].concat());
}

#[test]
fn what_is_imported_can_be_exported_and_imported_again() {
    let place = Workplace::new();
    import(&place, FIXTURE, "net");
    place.succeed(&["export", "net", "--format", "safetensors", "--out", "one.safetensors"]);
    import(&place, "one.safetensors", "again");
    let checkpoint = |name: &str| Checkpoint::read(&place.path(name)).expect("reads");
    assert!(checkpoint("net").tensors() == checkpoint("again").tensors(), "the weights changed");

    place.succeed(&["fuse", "net", "--out", "fused", "--verify", "2"]);
    for artefact in ["net", "fused"] {
        place.succeed(&["export", artefact, "--format", "onnx", "--out", "net.onnx"]);
        let graph = std::fs::read(place.path("net.onnx")).expect("reads");
        let holds = |word: &[u8]| graph.windows(word.len()).any(|part| part == word);
        assert!(holds(b"Conv") && holds(b"fc") && graph.len() > 40_000, "{artefact}");
    }
}

#[test]
fn weights_that_do_not_fit_are_named_and_nothing_is_written() {
    let place = Workplace::new();
    let mut network = NETWORK;
    network[5] = "5";
    let error = place.fail(&[&["import", FIXTURE, "--out", "net"], &network[..]].concat());
    for name in ["state_dict.fc.weight", "state_dict.fc.bias"] {
        assert!(error.contains(name), "{error}");
    }
    std::fs::write(place.path("noise.pth"), "not a pickle").expect("writes");
    let error = place.fail(&[&["import", "noise.pth", "--out", "net"], &NETWORK[..]].concat());
    assert!(error.contains("noise.pth") && error.contains("PyTorch"), "{error}");
    assert!(!place.path("net").exists());
}
