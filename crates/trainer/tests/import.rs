//! PyTorch's own weight files.

use copriv_ir::{
    Activation, Architecture, BatchNormInit, Checkpoint, ImportError, Naming, Network,
};
use copriv_trainer::import_pth;
use std::path::{Path, PathBuf};

/// Made by `scripts/make_pth_fixture.py`.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resnet20.pth")
}

fn network(classes: usize) -> Network {
    let network = Network::new(Architecture::ResNet20, 0.1, classes, 16).expect("a usual size");
    network.with_activation(Activation::Relu).with_final_activation(true)
}

#[test]
fn what_torch_saved_is_what_comes_in() {
    let imported = import_pth(&fixture(), &network(4), None).expect("imports");
    assert_eq!(imported.naming, Naming::Torchvision);
    assert_eq!(imported.prefix, "state_dict.");
    let original = Checkpoint::initialise(network(4), 7, BatchNormInit::Identity);
    assert!(imported.checkpoint.tensors().eq(original.tensors()), "the weights differ");
}

#[test]
fn every_tensor_that_does_not_fit_is_named() {
    let error = import_pth(&fixture(), &network(5), None).expect_err("five classes");
    let ImportError::Tensors { faults, .. } = &error else { panic!("{error}") };
    let mut names: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["state_dict.fc.bias", "state_dict.fc.weight"], "{error}");
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let whole = std::fs::read(fixture()).expect("reads");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.pth");
    let import = |content: &[u8]| {
        std::fs::write(&path, content).expect("writes");
        import_pth(&path, &network(4), None)
    };
    for length in (0..whole.len()).step_by(whole.len() / 97) {
        let error = import(&whole[..length]).expect_err("cut short");
        assert!(
            matches!(error, ImportError::Format { .. } | ImportError::Tensors { .. }),
            "{error}"
        );
    }
    // A pickle that would run a command.
    let error = import(b"cos\nsystem\n(S'true'\ntR.").expect_err("no weights");
    assert!(matches!(error, ImportError::Format { .. }), "{error}");
    // Anything may happen to a byte, but no panic.
    for place in (0..whole.len()).step_by(whole.len() / 211) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x55;
        let _ = import(&flipped);
    }
    assert!(matches!(
        import_pth(&folder.path().join("none.pth"), &network(4), None),
        Err(ImportError::File(_))
    ));
}
