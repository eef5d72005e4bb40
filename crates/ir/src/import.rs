//! Weights from elsewhere: safetensors with PyTorch's (torchvision's) parameter names.

use crate::artefact::read_file;
use crate::{ArtefactError, Checkpoint, Digest, Gates, Network, Provenance, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// PyTorch's count of training steps in a batch norm, of no use for inference.
const IGNORED: &str = ".num_batches_tracked";

/// The checkpoint of `network` with the weights in a safetensors file, all gates kept.
///
/// The file must hold exactly the tensors of [`crate::Graph::parameters`], in `f32`, `f16` or `bf16`, all
/// finite; `num_batches_tracked` is passed over.
///
/// # Errors
/// [`ImportError`]; [`ImportError::Tensors`] names every tensor that is missing, unexpected or
/// unusable.
pub fn import_safetensors(path: &Path, network: &Network) -> Result<Checkpoint, ImportError> {
    let bytes = read_file(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| ImportError::NotSafetensors {
        path: path.into(),
        reason: error.to_string(),
    })?;
    let stored: BTreeMap<String, TensorView> = file.tensors().into_iter().collect();

    let (mut tensors, mut faults) = (BTreeMap::new(), Vec::new());
    let parameters = network.graph().parameters();
    for (name, shape) in &parameters {
        let tensor =
            stored.get(name).ok_or(TensorFaultKind::Missing).and_then(|view| tensor(view, shape));
        match tensor {
            Ok(tensor) => drop(tensors.insert(name.clone(), tensor)),
            Err(kind) => {
                faults.push(TensorFault { name: name.clone(), shape: shape.clone(), kind })
            }
        }
    }
    let known: BTreeSet<&String> = parameters.iter().map(|(name, _)| name).collect();
    let foreign = |name: &&String| !known.contains(name) && !name.ends_with(IGNORED);
    faults.extend(stored.keys().filter(foreign).map(|name| {
        let shape = stored[name].shape().to_vec();
        TensorFault { name: name.clone(), shape, kind: TensorFaultKind::Unexpected }
    }));
    if !faults.is_empty() {
        return Err(ImportError::Tensors {
            path: path.into(),
            network: network.to_string(),
            faults,
        });
    }

    let gates = Gates::all_kept(network.graph().blocks().len());
    let sha256 = Digest::from_bytes(Sha256::digest(&bytes).into());
    let config = serde_json::json!({
        "file": path.file_name().map(|name| name.to_string_lossy()),
        "sha256": sha256,
        "network": network,
    });
    let provenance = Provenance::new("import", None, config, None);
    Checkpoint::new(network.clone(), gates, tensors, provenance)
        .map_err(|fault| ImportError::Unusable { path: path.into(), fault })
}

/// Why weights could not be imported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ImportError {
    #[error(transparent)]
    File(#[from] ArtefactError),
    #[error("{} is no safetensors file: {reason}", path.display())]
    NotSafetensors { path: PathBuf, reason: String },
    #[error("{} does not fit {network}:{}", path.display(), listed(faults))]
    Tensors { path: PathBuf, network: String, faults: Vec<TensorFault> },
    #[error("{}: {fault}", path.display())]
    Unusable { path: PathBuf, fault: String },
}

/// A tensor that keeps a file from being imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFault {
    /// Its name.
    pub name: String,
    /// The shape that the network expects, or that the file has for what the network does not know.
    pub shape: Vec<usize>,
    /// What is wrong.
    pub kind: TensorFaultKind,
}

/// What is wrong with a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorFaultKind {
    /// The network has it, the file does not.
    Missing,
    /// The file has it, the network does not.
    Unexpected,
    /// It has another shape.
    Shape {
        /// That of the file.
        found: Vec<usize>,
    },
    /// Its elements are of a type that weights do not have.
    ElementType {
        /// That of the file.
        found: String,
    },
    /// A value is infinite or no number.
    NotFinite,
}

impl fmt::Display for TensorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, shape, kind } = self;
        match kind {
            TensorFaultKind::Missing => write!(f, "missing: {name} {shape:?}"),
            TensorFaultKind::Unexpected => write!(f, "unexpected: {name} {shape:?}"),
            TensorFaultKind::Shape { found } => {
                write!(f, "wrong shape: {name}: expected {shape:?}, found {found:?}")
            }
            TensorFaultKind::ElementType { found } => {
                write!(f, "wrong type: {name}: expected F32, F16 or BF16, found {found}")
            }
            TensorFaultKind::NotFinite => write!(f, "not finite: {name}"),
        }
    }
}

/// One fault a line, at most twenty.
fn listed(faults: &[TensorFault]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = faults.iter().take(SHOWN).map(|fault| format!("\n  {fault}")).collect();
    if faults.len() > SHOWN {
        text += &format!("\n  and {} more", faults.len() - SHOWN);
    }
    text
}

fn tensor(view: &TensorView, shape: &[usize]) -> Result<Tensor, TensorFaultKind> {
    if view.shape() != shape {
        return Err(TensorFaultKind::Shape { found: view.shape().to_vec() });
    }
    let bytes = view.data();
    let data: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
        Dtype::F16 => halves(bytes).map(from_f16).collect(),
        Dtype::BF16 => halves(bytes).map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        other => return Err(TensorFaultKind::ElementType { found: format!("{other:?}") }),
    };
    if !data.iter().all(|x| x.is_finite()) {
        return Err(TensorFaultKind::NotFinite);
    }
    Tensor::new(shape.to_vec(), data).ok_or(TensorFaultKind::Shape { found: view.shape().to_vec() })
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks().0.iter().map(|x| u16::from_le_bytes(*x))
}

/// The value of an IEEE 754 half: sign, 5 bits of exponent, 10 of fraction.
fn from_f16(bits: u16) -> f32 {
    let (exponent, fraction) = (bits >> 10 & 0x1f, f32::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, BatchNormInit};

    fn network(architecture: Architecture) -> Network {
        Network::new(architecture, 0.25, 10, 32).expect("a usual size")
    }

    fn checkpoint(architecture: Architecture) -> Checkpoint {
        Checkpoint::initialise(network(architecture), 1, BatchNormInit::Random)
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

    fn import(stored: &Stored, network: &Network) -> Result<Checkpoint, ImportError> {
        let views = stored.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("sizes agree"))
        });
        import_bytes(&safetensors::serialize(views, None).expect("serialises"), network)
    }

    fn import_bytes(bytes: &[u8], network: &Network) -> Result<Checkpoint, ImportError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, bytes).expect("writes");
        import_safetensors(&path, network)
    }

    fn faults(result: Result<Checkpoint, ImportError>) -> Vec<String> {
        match result {
            Err(ImportError::Tensors { faults, .. }) => {
                faults.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_network_comes_in_as_it_is() {
        for architecture in Architecture::ALL {
            let original = checkpoint(architecture);
            let mut stored = stored_f32(&original);
            stored.insert(
                "layer1.0.bn1.num_batches_tracked".into(),
                (Dtype::I64, vec![], vec![0; 8]),
            );
            let imported = import(&stored, original.network()).expect("imports");
            assert_eq!(imported.tensors(), original.tensors());
            assert!(imported.gates().kept().iter().all(|kept| *kept));
            assert_eq!(imported.provenance().config["file"], "weights.safetensors");
        }
    }

    #[test]
    fn half_precision_comes_in_rounded() {
        let original = checkpoint(Architecture::ResNet20);
        let truncated = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        let stored = stored(&original, Dtype::BF16, |x| x.to_le_bytes()[2..].to_vec());
        let imported = import(&stored, original.network()).expect("imports");
        for (name, tensor) in original.tensors() {
            let expected: Vec<f32> = tensor.data().iter().map(|x| truncated(*x)).collect();
            assert_eq!(imported.tensors()[name].data(), expected, "{name}");
        }

        let ones = self::stored(&original, Dtype::F16, |_| 0x3c00u16.to_le_bytes().to_vec());
        let imported = import(&ones, original.network()).expect("imports");
        assert!(imported.tensors().values().all(|t| t.data().iter().all(|x| *x == 1.0)));
    }

    #[test]
    fn halves_have_their_values() {
        let known = [
            (0x0000, 0.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x3c01, 1.000_976_6),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in known {
            assert_eq!(from_f16(bits), value, "{bits:#06x}");
        }
        assert!(from_f16(0x7c01).is_nan());
    }

    #[test]
    fn every_fault_is_named() {
        let original = checkpoint(Architecture::ResNet20);
        let mut stored = stored_f32(&original);
        stored.remove("conv1.weight").expect("there");
        stored.insert("conv1.bias".into(), (Dtype::F32, vec![2], vec![0; 8]));
        stored.insert("fc.bias".into(), (Dtype::F32, vec![5], vec![0; 20]));
        stored.insert("bn1.bias".into(), (Dtype::I32, vec![8], vec![0; 32]));
        let nan = f32::NAN.to_le_bytes().repeat(8);
        stored.insert("bn1.weight".into(), (Dtype::F32, vec![8], nan));
        assert_eq!(
            faults(import(&stored, original.network())),
            [
                "missing: conv1.weight [8, 3, 3, 3]",
                "not finite: bn1.weight",
                "wrong type: bn1.bias: expected F32, F16 or BF16, found I32",
                "wrong shape: fc.bias: expected [10], found [5]",
                "unexpected: conv1.bias [2]",
            ]
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let stored = stored_f32(&checkpoint(Architecture::MobileNetV2));
        let error = import(&stored, &network(Architecture::ResNet20)).expect_err("another network");
        let text = error.to_string();
        assert_eq!(text.lines().count(), 22, "{text}");
        assert!(text.contains("does not fit resnet20 x0.25"), "{text}");
        assert!(text.contains("\n  missing: conv1.weight"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.ends_with(" more")), "{text}");
    }

    #[test]
    fn negative_variances_are_refused() {
        let original = checkpoint(Architecture::ResNet20);
        let mut stored = stored_f32(&original);
        let negative = (-1f32).to_le_bytes().repeat(8);
        stored.insert("bn1.running_var".into(), (Dtype::F32, vec![8], negative));
        let error = import(&stored, original.network()).expect_err("negative");
        assert!(error.to_string().ends_with("bn1.running_var holds negative variances"), "{error}");
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
            let expected = matches!(error, ImportError::NotSafetensors { .. });
            assert!(expected, "file {number}: {error}");
        }
        let absent = import_safetensors(Path::new("/nowhere/weights"), &network);
        assert!(matches!(absent, Err(ImportError::File(ArtefactError::Io { .. }))));
    }
}
