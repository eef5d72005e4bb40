//! Weights in every naming come in; every fault is named.

use super::naming::parameter_nodes;
use super::*;
use crate::evaluate::CheckpointEvaluator;
use crate::{Architecture, ArtefactError, BatchNormInit};
use safetensors::tensor::{Dtype, TensorView};

fn network(architecture: Architecture) -> Network {
    Network::new(architecture, 0.25, 10, 32).expect("a usual size")
}

fn checkpoint(architecture: Architecture) -> Checkpoint {
    initialised(&network(architecture))
}

fn initialised(network: &Network) -> Checkpoint {
    Checkpoint::initialise(network.clone(), 1, BatchNormInit::Random)
}

/// Name, element type, shape, bytes.
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn stored(checkpoint: &Checkpoint, dtype: Dtype, bytes: fn(f32) -> Vec<u8>) -> Stored {
    let entry = |(name, tensor): (&String, &Tensor)| {
        let bytes = tensor.data().iter().flat_map(|x| bytes(*x)).collect();
        (name.clone(), (dtype, tensor.shape().to_vec(), bytes))
    };
    checkpoint.tensors().iter().map(entry).collect()
}

fn stored_f32(checkpoint: &Checkpoint) -> Stored {
    stored(checkpoint, Dtype::F32, |x| x.to_le_bytes().to_vec())
}

/// The checkpoint's tensors as a file of another naming holds them.
fn renamed(checkpoint: &Checkpoint, naming: Naming, prefix: &str) -> Stored {
    let network = checkpoint.network();
    let graph = network.graph();
    let names = naming.node_names(network, &graph);
    let nodes = parameter_nodes(graph.nodes()).map(|node| node.name.as_str());
    let names: BTreeMap<&str, String> = nodes.zip(names).collect();
    let rename = |(name, value): (String, _)| {
        let (node, suffix) = name.rsplit_once('.').expect("node and parameter");
        (format!("{prefix}{}.{suffix}", names[node]), value)
    };
    stored_f32(checkpoint).into_iter().map(rename).collect()
}

fn import(stored: &Stored, network: &Network) -> Result<Imported, ImportError> {
    import_bytes(&file(stored), network)
}

fn file(stored: &Stored) -> Vec<u8> {
    let views = stored.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("sizes agree"))
    });
    safetensors::serialize(views, None).expect("serialises")
}

fn import_bytes(bytes: &[u8], network: &Network) -> Result<Imported, ImportError> {
    import_as(bytes, network, None)
}

fn import_as(
    bytes: &[u8],
    network: &Network,
    naming: Option<Naming>,
) -> Result<Imported, ImportError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, bytes).expect("writes");
    import_safetensors(&path, network, naming)
}

fn faults(result: Result<Imported, ImportError>) -> Vec<String> {
    match result {
        Err(ImportError::Tensors { faults, .. }) => {
            faults.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn tensor(shape: &[usize], values: &[f32]) -> (Dtype, Vec<usize>, Vec<u8>) {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    (Dtype::F32, shape.to_vec(), bytes)
}

#[test]
fn every_network_comes_in_as_it_is() {
    for architecture in Architecture::ALL {
        let original = checkpoint(architecture);
        let mut stored = stored_f32(&original);
        let counter = "layer1.0.bn1.num_batches_tracked";
        stored.insert(counter.into(), (Dtype::I64, vec![], vec![0; 8]));
        let imported = import(&stored, original.network()).expect("imports");
        let Imported { checkpoint, naming, prefix, folded } = imported;
        assert_eq!(checkpoint.tensors(), original.tensors());
        assert!(checkpoint.gates().kept().iter().all(|kept| *kept));
        assert_eq!(checkpoint.provenance().config["file"], "weights.safetensors");
        assert_eq!((naming, prefix.as_str(), folded.len()), (Naming::Torchvision, "", 0));
    }
}

#[test]
fn every_naming_is_recognised_under_any_prefix() {
    for architecture in Architecture::ALL {
        for naming in [Naming::Timm, Naming::Kuangliu] {
            let form = naming.form_of(&network(architecture)).expect("both know all");
            let original = initialised(&form);
            for prefix in ["", "module.", "state_dict.model."] {
                let stored = renamed(&original, naming, prefix);
                let imported = import(&stored, &network(architecture)).expect("imports");
                assert_eq!(imported.checkpoint.tensors(), original.tensors());
                assert_eq!(imported.checkpoint.network(), &form);
                assert_eq!(imported.prefix, prefix);
                let same_names =
                    naming == Naming::Timm && architecture != Architecture::MobileNetV2;
                let expected = if same_names { Naming::Torchvision } else { naming };
                assert_eq!(imported.naming, expected);
            }
        }
    }
}

/// Names and shapes as the projects' own models have them at width 1.
#[test]
fn names_are_those_of_the_projects() {
    type Shapes = [(&'static str, &'static [usize])];
    let known: [(Architecture, Naming, &Shapes); 4] = [
        (
            Architecture::MobileNetV2,
            Naming::Timm,
            &[
                ("conv_stem.weight", &[32, 3, 3, 3]),
                ("bn1.running_var", &[32]),
                ("blocks.0.0.conv_dw.weight", &[32, 1, 3, 3]),
                ("blocks.0.0.bn1.weight", &[32]),
                ("blocks.0.0.conv_pw.weight", &[16, 32, 1, 1]),
                ("blocks.0.0.bn2.weight", &[16]),
                ("blocks.1.1.conv_pw.weight", &[144, 24, 1, 1]),
                ("blocks.3.3.conv_dw.weight", &[384, 1, 3, 3]),
                ("blocks.6.0.conv_pwl.weight", &[320, 960, 1, 1]),
                ("blocks.6.0.bn3.bias", &[320]),
                ("conv_head.weight", &[1280, 320, 1, 1]),
                ("bn2.bias", &[1280]),
                ("classifier.weight", &[10, 1280]),
            ],
        ),
        (
            Architecture::MobileNetV2,
            Naming::Kuangliu,
            &[
                ("conv1.weight", &[32, 3, 3, 3]),
                ("layers.0.conv1.weight", &[32, 32, 1, 1]),
                ("layers.0.shortcut.0.weight", &[16, 32, 1, 1]),
                ("layers.1.shortcut.1.running_mean", &[24]),
                ("layers.10.conv2.weight", &[384, 1, 3, 3]),
                ("layers.10.shortcut.0.weight", &[96, 64, 1, 1]),
                ("layers.16.bn3.weight", &[320]),
                ("conv2.weight", &[1280, 320, 1, 1]),
                ("linear.bias", &[10]),
            ],
        ),
        (
            Architecture::ResNet18,
            Naming::Kuangliu,
            &[
                ("layer1.0.conv1.weight", &[64, 64, 3, 3]),
                ("layer2.0.shortcut.0.weight", &[128, 64, 1, 1]),
                ("layer4.0.shortcut.1.running_var", &[512]),
                ("linear.weight", &[10, 512]),
            ],
        ),
        (
            Architecture::ResNet50,
            Naming::Torchvision,
            &[
                ("layer1.0.downsample.0.weight", &[256, 64, 1, 1]),
                ("layer4.2.bn3.weight", &[2048]),
                ("fc.weight", &[10, 2048]),
            ],
        ),
    ];
    for (architecture, naming, names) in known {
        let network = Network::new(architecture, 1.0, 10, 32).expect("a usual size");
        let network = naming.form_of(&network).expect("known");
        let stored = renamed(&initialised(&network), naming, "");
        for (name, shape) in names {
            let found = stored.get(*name).map(|(_, shape, _)| shape.as_slice());
            assert_eq!(found, Some(*shape), "{naming}: {name}");
        }
    }
}

#[test]
fn a_naming_can_be_demanded() {
    let original = checkpoint(Architecture::ResNet18);
    let bytes = file(&renamed(&original, Naming::Kuangliu, ""));
    let import = |naming| import_as(&bytes, original.network(), Some(naming));
    assert_eq!(import(Naming::Kuangliu).expect("its own").naming, Naming::Kuangliu);
    let faults = faults(import(Naming::Torchvision));
    assert!(faults.contains(&"missing: fc.bias [10]".to_owned()), "{faults:?}");
    assert!(faults.contains(&"unexpected: linear.bias [10]".to_owned()), "{faults:?}");
    let error = import(Naming::Akamaster).expect_err("has no ResNet-18").to_string();
    assert!(error.contains("known are torchvision, timm, kuangliu"), "{error}");
}

/// Each batch norm of the checkpoint folded into its convolution.
fn folded(checkpoint: &Checkpoint) -> (Stored, Vec<String>) {
    let graph = checkpoint.network().graph();
    let mut stored = stored_f32(checkpoint);
    let mut folded = Vec::new();
    for node in graph.nodes().iter().filter(|node| node.op == crate::Op::BatchNorm) {
        let conv = &graph.nodes()[node.inputs[0].0].name;
        let values = |suffix: &str| checkpoint.tensors()[&format!("{}.{suffix}", node.name)].data();
        let scale: Vec<f32> = values("weight")
            .iter()
            .zip(values("running_var"))
            .map(|(weight, var)| weight / (var + 1e-5).sqrt())
            .collect();
        let bias: Vec<f32> = values("bias")
            .iter()
            .zip(values("running_mean").iter().zip(&scale))
            .map(|(bias, (mean, scale))| bias - mean * scale)
            .collect();
        let name = format!("{conv}.weight");
        let weight = &checkpoint.tensors()[&name];
        let rows = weight.data().chunks_exact(weight.data().len() / scale.len());
        let values: Vec<f32> =
            rows.zip(&scale).flat_map(|(row, scale)| row.iter().map(move |w| w * scale)).collect();
        stored.insert(name, tensor(weight.shape(), &values));
        stored.insert(format!("{conv}.bias"), tensor(&[bias.len()], &bias));
        for suffix in ["weight", "bias", "running_mean", "running_var"] {
            stored.remove(&format!("{}.{suffix}", node.name)).expect("there");
        }
        folded.push(node.name.clone());
    }
    (stored, folded)
}

#[test]
fn folded_batch_norms_come_in_exactly() {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet20] {
        let original = checkpoint(architecture);
        let (stored, folded) = folded(&original);
        let imported = import(&stored, original.network()).expect("imports");
        assert_eq!(imported.folded, folded);
        let tensors = imported.checkpoint.tensors();
        for (name, (_, _, bytes)) in &stored {
            let conv_bias = !tensors.contains_key(name);
            let found: Vec<u8> = tensors
                .get(name)
                .into_iter()
                .flat_map(|tensor| tensor.data().iter().flat_map(|x| x.to_le_bytes()))
                .collect();
            assert!(conv_bias || found == *bytes, "{name}");
        }
        // Scale 1 and shift the bias, to the last bit, in single and in double precision.
        let values = |norm: &str, suffix: &str| tensors[&format!("{norm}.{suffix}")].data()[0];
        for norm in &folded {
            let (weight, var) = (values(norm, "weight"), values(norm, "running_var"));
            assert_eq!(weight / (var + 1e-5f32).sqrt(), 1.0);
            assert_eq!(f64::from(weight) / (f64::from(var) + f64::from(1e-5f32)).sqrt(), 1.0);
            assert_eq!(values(norm, "running_mean"), 0.0);
        }

        let image = vec![0.5; original.network().input().shape.elements()];
        let [before, after] = [&original, &imported.checkpoint]
            .map(|checkpoint| CheckpointEvaluator::new(checkpoint).logits(&image));
        let most = before.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (before, after) in before.iter().zip(&after) {
            assert!((before - after).abs() <= 1e-4 * most, "{before} {after}");
        }
    }
}

#[test]
fn shortcuts_without_parameters_come_in_as_the_convolutions_they_equal() {
    let network = Network::new(Architecture::ResNet20, 1.0, 10, 16).expect("a usual size");
    let original = initialised(&network);
    let mut stored = renamed(&original, Naming::Akamaster, "module.");
    stored.retain(|name, _| !name.contains("shortcut"));
    let imported = import(&stored, &network).expect("imports");
    assert_eq!(imported.naming, Naming::Akamaster);

    let image: Vec<f32> = (0..768).map(|i| (i as f32 * 0.37).sin()).collect();
    let layers = CheckpointEvaluator::new(&imported.checkpoint).layers(&image);
    let graph = network.graph();
    let values = |name: &str| {
        let id = graph.nodes().iter().position(|node| node.name == name).expect("known");
        (graph.nodes()[id].shape, &layers[id])
    };
    let (before, input) = values("layer1.2.activation");
    let (after, output) = values("layer2.0.downsample.1");
    assert_eq!((before.channels, after.channels), (16, 32));
    for channel in 0..32 {
        for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
            let found = output[(channel * 8 + y) * 8 + x];
            let expected = match channel {
                8..24 => input[((channel - 8) * 16 + 2 * y) * 16 + 2 * x],
                _ => 0.0,
            };
            assert_eq!(found, expected, "channel {channel}, {y}, {x}");
        }
    }
}

#[test]
fn other_precisions_come_in_rounded() {
    let original = checkpoint(Architecture::ResNet20);
    let truncated = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
    let stored = stored(&original, Dtype::BF16, |x| x.to_le_bytes()[2..].to_vec());
    let imported = import(&stored, original.network()).expect("imports").checkpoint;
    for (name, tensor) in original.tensors() {
        let expected: Vec<f32> = tensor.data().iter().map(|x| truncated(*x)).collect();
        assert_eq!(imported.tensors()[name].data(), expected, "{name}");
    }

    let ones = self::stored(&original, Dtype::F16, |_| 0x3c00u16.to_le_bytes().to_vec());
    let imported = import(&ones, original.network()).expect("imports").checkpoint;
    assert!(imported.tensors().values().all(|t| t.data().iter().all(|x| *x == 1.0)));

    let doubles = self::stored(&original, Dtype::F64, |x| f64::from(x).to_le_bytes().to_vec());
    let imported = import(&doubles, original.network()).expect("imports").checkpoint;
    assert_eq!(imported.tensors(), original.tensors());
}

#[test]
fn every_fault_is_named() {
    let original = checkpoint(Architecture::ResNet20);
    let mut stored = stored_f32(&original);
    stored.remove("conv1.weight").expect("there");
    stored.insert("conv1.scale".into(), tensor(&[2], &[0.0; 2]));
    stored.insert("fc.bias".into(), tensor(&[5], &[0.0; 5]));
    assert_eq!(
        faults(import(&stored, original.network())),
        [
            "missing: conv1.weight [8, 3, 3, 3]",
            "wrong shape: fc.bias: expected [10], found [5]",
            "unexpected: conv1.scale [2]",
        ]
    );

    let mut stored = stored_f32(&original);
    stored.insert("bn1.bias".into(), (Dtype::I32, vec![8], vec![0; 32]));
    stored.insert("bn1.weight".into(), tensor(&[8], &[f32::NAN; 8]));
    stored.insert("bn1.running_mean".into(), tensor(&[8], &[f32::NEG_INFINITY; 8]));
    stored.insert("bn1.running_var".into(), tensor(&[8], &[-1.0; 8]));
    let huge = 1e300f64.to_le_bytes().repeat(10);
    stored.insert("fc.bias".into(), (Dtype::F64, vec![10], huge));
    assert_eq!(
        faults(import(&stored, original.network())),
        [
            "not finite: bn1.weight",
            "wrong type: bn1.bias: expected F64, F32, F16 or BF16, found I32",
            "not finite: bn1.running_mean",
            "negative variance: bn1.running_var",
            "not finite: fc.bias",
        ]
    );
}

#[test]
fn the_mapping_is_shown_where_names_differ() {
    let original = initialised(
        &network(Architecture::MobileNetV2).with_convolution_shortcuts(true), //
    );
    let mut stored = renamed(&original, Naming::Kuangliu, "net.");
    stored.remove("net.layers.0.conv1.weight").expect("there");
    let error = import(&stored, &network(Architecture::MobileNetV2)).expect_err("one is missing");
    let text = error.to_string();
    let fault =
        "\n  missing: net.layers.0.conv1.weight (for features.1.conv.0.0.weight) [8, 8, 1, 1]";
    assert!(text.ends_with(fault), "{text}");
    assert!(text.contains("names of kuangliu, prefix \"net.\""), "{text}");
}

#[test]
fn another_network_is_refused_tensor_by_tensor() {
    let stored = stored_f32(&checkpoint(Architecture::MobileNetV2));
    let error = import(&stored, &network(Architecture::ResNet20)).expect_err("another network");
    let text = error.to_string();
    let [missing, unexpected] = ["missing:", "unexpected:"].map(|kind| text.matches(kind).count());
    let expected = network(Architecture::ResNet20).graph().parameters().len();
    assert_eq!((missing, unexpected), (expected, stored.len()), "{text}");
    assert!(text.contains("does not fit resnet20 x0.25"), "{text}");
}

#[test]
fn hostile_files_are_refused() {
    let network = network(Architecture::ResNet20);
    let header = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let entry = |from: usize, to: usize| {
        format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
    };
    let overlapping = format!(r#"{{"a":{},"b":{}}}"#, entry(0, 8), entry(4, 12));
    let twice = format!(r#"{{"a":{},"a":{}}}"#, entry(0, 8), entry(8, 16));
    let beyond = format!(r#"{{"a":{}}}"#, entry(0, 8));
    let huge_shape =
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
    let files: [Vec<u8>; 9] = [
        vec![],
        vec![0xff; 8],
        u64::MAX.to_le_bytes().to_vec(),
        [(1u64 << 40).to_le_bytes().as_slice(), b"{}"].concat(),
        header("not json", 0),
        header(&overlapping, 12),
        header(&twice, 16),
        header(&beyond, 4),
        header(huge_shape, 8),
    ];
    for (number, bytes) in files.iter().enumerate() {
        let error = import_bytes(bytes, &network).expect_err("hostile");
        let expected = matches!(error, ImportError::Format { .. });
        assert!(expected, "file {number}: {error}");
    }
    let absent = import_safetensors(Path::new("/nowhere/weights"), &network, None);
    assert!(matches!(absent, Err(ImportError::File(ArtefactError::Io { .. }))));
}
