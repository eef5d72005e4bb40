//! Good files come back as they were; bad ones give an error that says what is wrong, never a panic and
//! never another artefact.

use super::tensor_file::{StoredTensor, StoredTensors};
use super::*;
use crate::lattice::{Hint, PublicSeed, SecretSeed};
use crate::{
    Activation, ActivationMask, Architecture, BatchNormInit, Checkpoint, Comparison, ConvGeometry,
    Correlation, Fact, FusedLayer, FusedModel, FusedOp, Gates, Granularity, InputSpec, LayerId,
    LinearStep, LinearWeights, Lowering, Network, OtKind, Party, Plan, Provenance, Ring,
    ServerWeights, Shape, Sign, Step, StepId, StepOp, Tensor, ValueId, Visibility,
};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::OnceLock;

fn provenance() -> Provenance {
    let config = json!({ "text": "with \"quotes\"", "rate": 0.1 });
    Provenance::new("test", Some(Digest::of([b"parent".as_slice()])), config, Some(u64::MAX))
}

fn network(classes: usize) -> Network {
    let network = Network::new(Architecture::ResNet20, 0.1, classes, 16).expect("small");
    let labels = (0..classes).map(|class| format!("class \u{e9} {class}")).collect();
    network.with_labels(labels).expect("one each")
}

/// Every third channel or value of a map.
fn mask(shape: Shape, granularity: Granularity) -> ActivationMask {
    let bits = (0..granularity.bits(shape)).map(|i| i % 3 == 0).collect();
    ActivationMask::new(shape, granularity, bits).expect("neither all nor none")
}

/// Gate 3 removed, the first two blocks with activations in part.
fn checkpoint() -> Checkpoint {
    let network = network(3);
    let made = Checkpoint::initialise(network.clone(), 1, BatchNormInit::Random);
    let mut alphas: Vec<f32> = vec![0.7; 10];
    alphas[3] = -0.1;
    let kept = alphas.iter().map(|alpha| *alpha > 0.0).collect();
    let map = Shape::new(8, 16, 16);
    let parts = [
        ("layer1.0.conv1.activation", mask(map, Granularity::Channel)),
        ("layer1.1.conv1.activation", mask(map, Granularity::Pixel)),
    ];
    let parts = parts.map(|(name, mask)| (name.to_owned(), mask));
    let gates = Gates::new(alphas, kept).expect("finite").with_parts(parts.into());
    Checkpoint::new(network, gates, made.tensors().clone(), provenance()).expect("whole")
}

/// Pooling, then a fully connected layer, of which one output is activated.
fn fused_model() -> FusedModel {
    let network = network(2);
    let layer = |name: &str, op, input: Option<usize>, shape| FusedLayer {
        name: name.into(),
        op,
        inputs: input.map(LayerId).into_iter().collect(),
        shape,
        block: None,
        mask: None,
    };
    let layers = vec![
        layer("input", FusedOp::Input, None, network.input().shape),
        layer("pool", FusedOp::GlobalAveragePool, Some(0), Shape::vector(3)),
        layer("fc", FusedOp::Conv(ConvGeometry::fully_connected(3, 2)), Some(1), Shape::vector(2)),
        FusedLayer {
            mask: Some(mask(Shape::vector(2), Granularity::Channel)),
            ..layer("act", FusedOp::Activation(Activation::Relu), Some(2), Shape::vector(2))
        },
    ];
    let weight = vec![0.5, -1.0, 1e-30, f32::MIN_POSITIVE, -0.0, 3e38];
    let tensors = BTreeMap::from([
        ("fc.weight".to_owned(), Tensor::new(vec![2, 3, 1, 1], weight).expect("six")),
        ("fc.bias".to_owned(), Tensor::filled(vec![1, 1, 2], 0.25)),
    ]);
    FusedModel::new(network, "01".into(), layers, tensors, provenance()).expect("sound")
}

/// The same as a plan. `name` tells plans apart.
fn plan(name: &str) -> Plan {
    let ring = Ring::new(32).expect("in range");
    let fact = |shape, scale, visibility| Fact { shape, ring, scale, sign: Sign::Any, visibility };
    let image = Shape::new(3, 16, 16);
    let linear = StepOp::Linear(LinearStep {
        geometry: ConvGeometry::fully_connected(3, 2),
        lowering: Lowering::Direct,
        correlation: Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server },
        weight_scale: 4,
        weight_bits: 8,
    });
    let (client, shared) = (Visibility::Client, Visibility::Shared);
    let values = vec![
        fact(image, 8, client),
        fact(Shape::vector(3), 16, client),
        fact(Shape::vector(2), 20, shared),
        fact(Shape::vector(2), 20, shared),
        fact(Shape::vector(2), 20, client),
    ];
    let activation = StepOp::Activation {
        function: Activation::Relu,
        comparison: Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false },
        mask: Some(mask(Shape::vector(2), Granularity::Channel)),
    };
    let ops = [StepOp::Input, StepOp::SumPool, linear, activation, StepOp::Reveal];
    let ops = ops.into_iter().enumerate();
    let steps = ops.map(|(id, op)| Step {
        id: StepId(id),
        name: format!("step {id}"),
        inputs: (0..op.arity()).map(|_| ValueId(id - 1)).collect(),
        op,
        output: ValueId(id),
    });
    let (mean, std) = InputSpec::CIFAR100_STATISTICS;
    let input = InputSpec { shape: image, mean, std };
    let labels = vec!["a".into(), "b".into()];
    let (steps, preset) = (steps.collect(), "test".into());
    Plan::new(name.into(), preset, (input, labels), (values, steps), provenance()).expect("sound")
}

fn server_weights() -> ServerWeights {
    let layer = LinearWeights { weight: vec![1, -2, 3, -4, 127, -128], bias: vec![i64::MIN, 9] };
    let layers = BTreeMap::from([(StepId(2), layer)]);
    ServerWeights::new(&plan("one"), layers, provenance()).expect("fits")
}

/// The hint of a plan without lattice correlations.
fn empty_hint() -> Hint {
    let (seed, secret) = (PublicSeed::new([1; 32]), SecretSeed::new([2; 32]));
    Hint::compute(&seed, &secret, &[], &[]).expect("nothing to do")
}

/// Writes a small artefact of the kind.
fn write_example(kind: ArtefactKind, path: &Path) {
    let written = match kind {
        ArtefactKind::Checkpoint => checkpoint().write(path),
        ArtefactKind::FusedModel => fused_model().write(path),
        ArtefactKind::Plan => plan("one").write(path),
        ArtefactKind::ServerWeights => server_weights().write(path),
        ArtefactKind::Hint => empty_hint().write(path),
    };
    written.expect("written");
}

/// Reads an artefact of the kind and gives the file that writing it again makes: equal for equal artefacts.
fn read_again(kind: ArtefactKind, path: &Path) -> Result<Vec<u8>, ArtefactError> {
    let again = path.with_extension("again");
    match kind {
        ArtefactKind::Checkpoint => Checkpoint::read(path)?.write(&again),
        ArtefactKind::FusedModel => FusedModel::read(path)?.write(&again),
        ArtefactKind::Plan => Plan::read(path)?.write(&again),
        ArtefactKind::ServerWeights => {
            static PLAN: OnceLock<Plan> = OnceLock::new();
            ServerWeights::read(path, PLAN.get_or_init(|| plan("one")))?.write(&again)
        }
        ArtefactKind::Hint => {
            Hint::read(path, &PublicSeed::new([1; 32]), &[], empty_hint().digest())?.write(&again)
        }
    }?;
    Ok(std::fs::read(&again).expect("just written"))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("artefact")
    }

    /// The file of a small artefact.
    fn example(&self, kind: ArtefactKind) -> Vec<u8> {
        write_example(kind, &self.path());
        std::fs::read(self.path()).expect("just written")
    }

    fn read(&self, kind: ArtefactKind, bytes: &[u8]) -> Result<Vec<u8>, ArtefactError> {
        // A new file each time: overwriting one makes some file systems wait for the disk.
        let _ = std::fs::remove_file(self.path());
        std::fs::write(self.path(), bytes).expect("writes");
        read_again(kind, &self.path())
    }

    fn error(&self, kind: ArtefactKind, bytes: &[u8]) -> String {
        self.read(kind, bytes).expect_err("a bad file").to_string()
    }
}

#[test]
fn artefacts_come_back_as_they_were() {
    let folder = Folder::new();
    for kind in ArtefactKind::ALL {
        let bytes = folder.example(kind);
        assert_eq!(ArtefactKind::of_file(&folder.path()).expect("known"), kind);
        assert_eq!(read_again(kind, &folder.path()).expect("good"), bytes, "{kind}");
    }
    let path = folder.path();
    checkpoint().write(&path).expect("written");
    assert_eq!(Checkpoint::read(&path).expect("good"), checkpoint());
    assert_eq!(Checkpoint::read(&path).expect("good").digest(), checkpoint().digest());
    fused_model().write(&path).expect("written");
    assert_eq!(FusedModel::read(&path).expect("good"), fused_model());
    assert_eq!(FusedModel::read(&path).expect("good").digest(), fused_model().digest());
    plan("one").write(&path).expect("written");
    assert_eq!(Plan::read(&path).expect("good"), plan("one"));
    assert_eq!(Plan::read(&path).expect("good").digest(), plan("one").digest());
    server_weights().write(&path).expect("written");
    assert_eq!(ServerWeights::read(&path, &plan("one")).expect("good"), server_weights());
}

#[test]
fn a_short_or_long_file_is_an_error() {
    let folder = Folder::new();
    for kind in ArtefactKind::ALL {
        let bytes = folder.example(kind);
        // A checkpoint is longer; its container is that of the others.
        let step = if kind == ArtefactKind::Checkpoint { 97 } else { 1 };
        for length in (0..bytes.len() - 1).step_by(step) {
            let result = folder.read(kind, &bytes[..length]);
            assert!(result.is_err(), "{kind} cut to {length} bytes");
        }
        assert!(folder.read(kind, &[bytes.as_slice(), b"x"].concat()).is_err(), "{kind} and more");
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let folder = Folder::new();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for kind in ArtefactKind::ALL {
        let good = folder.example(kind);
        for byte in 0..good.len() {
            let bits = match kind {
                ArtefactKind::Checkpoint if random.random_range(0..32) != 0 => 0..0,
                ArtefactKind::Checkpoint => 7 - byte as u32 % 8..8 - byte as u32 % 8,
                _ => 0..8,
            };
            for bit in bits {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                if let Ok(read) = folder.read(kind, &bad) {
                    // The same text in other words, such as the E of an exponent.
                    assert!(read == good, "{kind}: bit {bit} of byte {byte} changed the artefact");
                }
            }
        }
    }
}

#[test]
fn another_kind_is_named() {
    let folder = Folder::new();
    for found in ArtefactKind::ALL {
        let bytes = folder.example(found);
        for expected in ArtefactKind::ALL.into_iter().filter(|kind| *kind != found) {
            let error = folder.error(expected, &bytes);
            let named = format!("holds a {}, but a {expected} is needed", found.name());
            assert!(error.contains(&named), "{error}");
        }
    }
}

#[test]
fn another_version_is_named() {
    let folder = Folder::new();
    for (kind, current, other) in [
        (ArtefactKind::Plan, "\"version\": 1,", "\"version\": 7,"),
        (ArtefactKind::FusedModel, r#""copriv.version":"1""#, r#""copriv.version":"7""#),
    ] {
        let mut bytes = folder.example(kind);
        let mut places = bytes.windows(current.len());
        let at = places.position(|place| place == current.as_bytes()).expect("stated");
        bytes[at..at + current.len()].copy_from_slice(other.as_bytes());
        let error = folder.error(kind, &bytes);
        assert!(error.contains("format version 7, but this build reads version 1"), "{error}");
    }
}

#[test]
fn foreign_and_hostile_files_are_errors() {
    let folder = Folder::new();
    let container = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let tensor = |shape: &str, from: usize, to: usize| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let overlapping = format!(r#"{{"a":{},"b":{}}}"#, tensor("[2]", 0, 8), tensor("[2]", 4, 12));
    let backwards = format!(r#"{{"a":{}}}"#, tensor("[2]", 8, 0));
    let beyond = format!(r#"{{"a":{}}}"#, tensor("[2]", 0, 8));
    let huge = format!(r#"{{"a":{}}}"#, tensor("[4294967296,4294967296]", 0, 8));
    let nested = "[".repeat(100_000);
    let foreign = format!(r#"{{"weight":{}}}"#, tensor("[2]", 0, 8));
    let files = [
        vec![],
        b"{".to_vec(),
        b"{}".to_vec(),
        b"[1, 2]".to_vec(),
        b"\xff\xfe{}".to_vec(),
        nested.clone().into_bytes(),
        format!(r#"{{"kind":"plan","version":1,"digest":"{}","content":{nested}"#, "0".repeat(64))
            .into_bytes(),
        u64::MAX.to_le_bytes().to_vec(),
        [(1u64 << 40).to_le_bytes().as_slice(), b"{}"].concat(),
        container("not json", 0),
        container("{}", 0),
        container(&overlapping, 12),
        container(&backwards, 8),
        container(&beyond, 4),
        container(&huge, 8),
        container(&foreign, 8),
    ];
    for (number, bytes) in files.iter().enumerate() {
        for kind in ArtefactKind::ALL {
            let result = folder.read(kind, bytes);
            assert!(
                matches!(result, Err(ArtefactError::NotAnArtefact { .. })),
                "file {number} as {kind}: {result:?}"
            );
        }
        assert!(ArtefactKind::of_file(&folder.path()).is_err(), "file {number}");
    }
    let error = folder.error(ArtefactKind::Checkpoint, &container(&foreign, 8));
    assert!(error.contains("copriv import"), "{error}");
}

/// A well-formed file, its digest right, with this header and these tensors.
fn forge(kind: ArtefactKind, header: &Value, tensors: &StoredTensors) -> Result<(), ArtefactError> {
    let folder = Folder::new();
    tensor_file::write(&folder.path(), kind, header, tensors).expect("written");
    read_again(kind, &folder.path()).map(drop)
}

fn parts(kind: ArtefactKind) -> (Value, StoredTensors) {
    let folder = Folder::new();
    write_example(kind, &folder.path());
    tensor_file::read(&folder.path(), kind).expect("good")
}

#[test]
fn wrong_tensors_are_named() {
    let f32s = |shape: Vec<usize>, values: &[f32]| {
        StoredTensor::f32(&Tensor::new(shape, values.to_vec()).expect("as many"))
    };
    for (kind, name, shape) in [
        (ArtefactKind::Checkpoint, "fc.bias", vec![3]),
        (ArtefactKind::FusedModel, "fc.weight", vec![2, 3, 1, 1]),
    ] {
        let elements = shape.iter().product::<usize>();
        let changes: [(&str, Option<StoredTensor>); 6] = [
            ("found nothing", None),
            ("finite values, found NaN", Some(f32s(shape.clone(), &vec![f32::NAN; elements]))),
            ("finite values, found inf", Some(f32s(shape.clone(), &vec![f32::INFINITY; elements]))),
            ("found F32 [7]", Some(f32s(vec![7], &[0.0; 7]))),
            ("found F32 []", Some(f32s(vec![], &[0.0]))),
            ("found I64", Some(StoredTensor::i64(shape.clone(), &vec![0; elements]))),
        ];
        for (fault, change) in changes {
            let (header, mut tensors) = parts(kind);
            tensors.remove(name).expect("there");
            tensors.extend(change.map(|tensor| (name.to_owned(), tensor)));
            let error = forge(kind, &header, &tensors).expect_err(fault).to_string();
            assert!(error.contains(name) && error.contains(fault), "{kind}: {error}");
        }
        let (header, mut tensors) = parts(kind);
        tensors.insert("more".into(), f32s(vec![1], &[0.0]));
        let error = forge(kind, &header, &tensors).expect_err("one too many").to_string();
        assert!(error.contains("more: expected no such tensor"), "{error}");
    }
}

#[test]
fn wrong_masks_are_named() {
    let bytes = |shape: &[usize], bytes: &[u8]| StoredTensor {
        dtype: safetensors::Dtype::U8,
        shape: shape.to_vec(),
        bytes: bytes.to_vec().into(),
    };
    let (channel, pixel) = ("layer1.0.conv1.activation.mask", "layer1.1.conv1.activation.mask");
    let whole = Shape::new(8, 16, 16).elements() / 8;
    let rows = |channel: u8| vec![channel; whole];
    let cases = [
        (ArtefactKind::Checkpoint, channel, bytes(&[2], &[1, 0]), "found U8 [2]"),
        (ArtefactKind::Checkpoint, channel, bytes(&[], &[1]), "found U8 []"),
        (ArtefactKind::Checkpoint, channel, bytes(&[1], &[0xff]), "all values or none"),
        (ArtefactKind::Checkpoint, channel, StoredTensor::i64(vec![1], &[1]), "found I64 [1]"),
        (ArtefactKind::Checkpoint, pixel, bytes(&[1, 3], &[1, 2, 3]), "found U8 [1, 3]"),
        (ArtefactKind::Checkpoint, pixel, bytes(&[whole], &rows(1)), "found U8 [256]"),
        (ArtefactKind::Checkpoint, pixel, bytes(&[1, whole], &rows(0)), "all values or none"),
        // The gate of this one is removed, that one is no activation, and of the last there is none.
        (
            ArtefactKind::Checkpoint,
            "layer1.2.conv1.activation.mask",
            bytes(&[1], &[1]),
            "is no activation",
        ),
        (ArtefactKind::Checkpoint, "layer1.0.conv1.mask", bytes(&[1], &[1]), "no such tensor"),
        (ArtefactKind::Checkpoint, "more.mask", bytes(&[1], &[1]), "no such tensor"),
        (ArtefactKind::FusedModel, "act.mask", bytes(&[1], &[4]), "last byte are not zero"),
        (ArtefactKind::FusedModel, "act.mask", bytes(&[1, 1], &[1]), "goes by channel"),
        (ArtefactKind::FusedModel, "fc.mask", bytes(&[1], &[1]), "no such tensor"),
    ];
    for (kind, name, tensor, fault) in cases {
        let (header, mut tensors) = parts(kind);
        tensors.insert(name.into(), tensor);
        let error = forge(kind, &header, &tensors).expect_err(fault).to_string();
        let activation = name.trim_end_matches(".mask");
        assert!(error.contains(activation) && error.contains(fault), "{name}: {error}");
    }
}

#[test]
fn wrong_server_weights_are_named() {
    let kind = ArtefactKind::ServerWeights;
    let i64s = |count: usize| StoredTensor::i64(vec![count], &vec![0; count]);
    let changes: [(&str, &str, Option<StoredTensor>); 5] = [
        ("2.weight", "found nothing", None),
        ("2.weight", "step 2 has 5 weights", Some(i64s(5))),
        ("2.bias", "step 2 has 3 biases", Some(i64s(3))),
        ("2.bias", "found F32", Some(StoredTensor::f32(&Tensor::filled(vec![2], 0.0)))),
        ("3.bias", "expected no such tensor", Some(i64s(2))),
    ];
    for (name, fault, change) in changes {
        let (header, mut tensors) = parts(kind);
        tensors.remove(name);
        tensors.extend(change.map(|tensor| (name.to_owned(), tensor)));
        let error = forge(kind, &header, &tensors).expect_err(fault).to_string();
        assert!(error.contains(fault), "{error}");
    }
    for (steps, fault) in [
        (json!([]), "expected no such tensor"),
        (json!([2, 2]), "found nothing"),
        (json!([2, 3]), "found nothing"),
        (json!([-1]), "expected that of a server weights"),
    ] {
        let (mut header, tensors) = parts(kind);
        header["steps"] = steps;
        let error = forge(kind, &header, &tensors).expect_err(fault).to_string();
        assert!(error.contains(fault), "{error}");
    }
}

#[test]
fn weights_of_another_plan_are_refused() {
    let folder = Folder::new();
    server_weights().write(&folder.path()).expect("written");
    let error = ServerWeights::read(&folder.path(), &plan("two")).expect_err("another plan");
    let (expected, found) = (plan("two").digest(), plan("one").digest());
    let text = format!("plan digest: expected that of the plan, {expected}, found {found}");
    assert!(error.to_string().contains(&text), "{error}");
}

#[test]
fn wrong_headers_are_named() {
    use ArtefactKind::{Checkpoint, FusedModel};
    let cases: [(ArtefactKind, &str, Value, &str); 17] = [
        (Checkpoint, "/network/classes", json!(0), "1 to 100000 classes"),
        (Checkpoint, "/network/width", json!(0.5), "layer2.0.conv1.weight"),
        (Checkpoint, "/network/architecture", json!("vgg"), "unknown variant"),
        (Checkpoint, "/network/width", json!(1e300), "width multiplier"),
        (
            Checkpoint,
            "/network/input/shape",
            json!([3, 1u64 << 40, 1u64 << 40]),
            "16 to 1024 pixels",
        ),
        (Checkpoint, "/network/input/std", json!([1e-60, 1.0, 1.0]), "deviation positive"),
        (Checkpoint, "/gates/kept", json!([true]), "each gate needs"),
        (Checkpoint, "/gates/alphas/0", json!(1e300), "number out of range"),
        (Checkpoint, "/gates", json!({ "alphas": [1.0], "kept": [true] }), "has 10 gates, not 1"),
        (FusedModel, "/mask", json!("01x"), "is no mask"),
        (FusedModel, "/layers", json!([]), "does not give 2 logits"),
        (FusedModel, "/layers/1/inputs", json!([7]), "does not follow its 1 inputs"),
        (FusedModel, "/layers/1/name", json!("fc"), "two layers are called fc"),
        (FusedModel, "/layers/2/shape", json!([2, 2, 2]), "cannot have shape 2x2x2"),
        (FusedModel, "/layers/2/op/conv/kernel", json!(1u64 << 40), "cannot have shape"),
        (FusedModel, "/layers/2/op/conv/stride", json!(0), "cannot have shape"),
        (FusedModel, "/layers/2/op/conv/out_channels", json!(1u64 << 40), "cannot have shape"),
    ];
    for (kind, pointer, value, fault) in cases {
        let (mut header, tensors) = parts(kind);
        *header.pointer_mut(pointer).expect(pointer) = value;
        let error = forge(kind, &header, &tensors).expect_err(pointer).to_string();
        assert!(error.contains(fault), "{pointer}: {error}");
    }
    let (mut header, tensors) = parts(Checkpoint);
    header["surprise"] = json!(1);
    let error = forge(Checkpoint, &header, &tensors).expect_err("a field too many").to_string();
    assert!(error.contains("surprise"), "{error}");
}

#[test]
fn wrong_plans_are_named() {
    let cases = [
        ("/steps", json!([]), "0 steps"),
        ("/steps/0/op", json!("reveal"), "needs 1 earlier values"),
        ("/steps/1/inputs", json!([9]), "needs 1 earlier values"),
        ("/steps/1/output", json!(9), "makes value 9"),
        ("/steps/2/op/linear/weight_bits", json!(33), "weights of 33 bits"),
        ("/steps/2/op/linear/weight_scale", json!(u32::MAX), "gives"),
        ("/steps/2/op/linear/geometry/kernel", json!(1u64 << 40), "absurd"),
        ("/steps/2/op/linear/geometry/groups", json!(0), "zero"),
        ("/steps/3/op/activation/mask/bits", json!("04"), "last byte are not zero"),
        ("/steps/3/op/activation/mask/bits", json!("03"), "all values or none"),
        ("/steps/3/op/activation/mask/shape", json!([5, 1, 1]), "mask of 5x1x1 on values of 2x1x1"),
        ("/steps/3/op/activation/mask/shape", json!([2, 1u64 << 40, 1]), "no map has the shape"),
        ("/steps/3/op/activation/mask", json!(null), "gives"),
        ("/values/0/scale", json!(u32::MAX), "at most 62"),
        ("/values/0/ring", json!(65), "65"),
        ("/values/1/shape", json!([3, 1u64 << 40, 1u64 << 40]), "gives"),
        ("/input/shape", json!([usize::MAX, usize::MAX, 3]), "gives"),
        ("/input/std", json!([0.0, 1.0, 1.0]), "deviation"),
        ("/provenance", json!(null), "a plan"),
    ];
    let folder = Folder::new();
    for (pointer, value, fault) in cases {
        let mut content = serde_json::to_value(plan("one")).expect("json");
        *content.pointer_mut(pointer).expect(pointer) = value;
        json_file::write(&folder.path(), ArtefactKind::Plan, &content).expect("written");
        let error = Plan::read(&folder.path()).expect_err(pointer).to_string();
        assert!(error.contains(fault), "{pointer}: {error}");
    }
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = Folder::new();
    let place = folder.path();
    std::fs::create_dir(&place).expect("a folder in the way");
    std::fs::write(place.join("inside"), "old").expect("writes");
    for path in [place.clone(), place.join("inside").join("below a file")] {
        let error = plan("one").write(&path).expect_err("in the way");
        assert!(matches!(error, ArtefactError::Io { .. }), "{error}");
    }
    assert_eq!(std::fs::read_to_string(place.join("inside")).expect("still there"), "old");
    let entries = std::fs::read_dir(folder.0.path()).expect("a folder").count();
    assert_eq!(entries, 1, "nothing is left lying beside it");
}

#[cfg(unix)]
#[test]
fn secrets_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    for kind in ArtefactKind::ALL {
        write_example(kind, &folder.path());
        let metadata = std::fs::metadata(folder.path()).expect("there");
        let others = metadata.permissions().mode() & 0o077;
        if kind == ArtefactKind::ServerWeights {
            assert_eq!(others, 0, "{kind}");
        } else {
            // As any new file has, whatever the mask of this process.
            let usual = folder.0.path().join("usual");
            std::fs::write(&usual, "").expect("writes");
            let usual = std::fs::metadata(usual).expect("there").permissions().mode();
            assert_eq!(others, usual & 0o077, "{kind}");
        }
    }
}

#[test]
fn a_plan_made_otherwise_has_another_digest() {
    let plan = plan("one");
    let digest = plan.digest();
    let provenance = Provenance::new("another", None, serde_json::Value::Null, None);
    let other = plan.clone().with_provenance(provenance);
    assert_ne!(other, plan);
    assert_ne!(other.digest(), digest);
    assert_eq!((plan.digest(), plan.clone().digest()), (digest, digest));
}
