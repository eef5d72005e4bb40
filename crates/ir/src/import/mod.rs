//! Weights from elsewhere: tensors with PyTorch's parameter names, in the namings of several projects.
//!
//! | step | file |
//! |---|---|
//! | what a file says of its tensors, and their values | `tensor.rs` |
//! | what other projects call our layers | `naming.rs` |
//! | the naming and prefix that fit best; folded batch norms | `mapping.rs` |
//! | every tensor that does not fit, by name | `error.rs` |

mod error;
mod mapping;
mod naming;
mod tensor;

pub use error::{ImportError, TensorFault, TensorFaultKind};
pub use naming::Naming;
pub use tensor::{ElementType, ForeignTensor, ForeignTensors};

use crate::artefact::read_file;
use crate::{Checkpoint, Digest, Gates, Network, Provenance, Tensor};
use mapping::{Mapping, Source};
use safetensors::tensor::SafeTensors;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// What came in, and how it was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The weights, all gates kept.
    pub checkpoint: Checkpoint,
    /// Whose names the file uses.
    pub naming: Naming,
    /// What stands before all of them, such as `module.`.
    pub prefix: String,
    /// Batch norms that were folded into their convolutions and now only add the bias.
    pub folded: Vec<String>,
}

/// The checkpoint of `network` with the weights in a safetensors file, all gates kept.
///
/// See [`import_tensors`].
///
/// # Errors
/// [`ImportError`].
pub fn import_safetensors(
    path: &Path,
    network: &Network,
    naming: Option<Naming>,
) -> Result<Imported, ImportError> {
    let bytes = read_file(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| ImportError::Format {
        path: path.into(),
        format: "safetensors",
        reason: error.to_string(),
    })?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let (element, shape, data) = (view.dtype().into(), view.shape().to_vec(), view.data());
        (name, ForeignTensor::new(element, shape, move || Ok(Cow::Borrowed(data))))
    });
    let sha256 = Digest::from_bytes(Sha256::digest(&bytes).into());
    import_tensors(path, sha256, &tensors.collect(), network, naming)
}

/// SHA-256 of a file of weights, for [`import_tensors`].
///
/// # Errors
/// [`ImportError::File`] where it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<Digest, ImportError> {
    Ok(Digest::from_bytes(Sha256::digest(read_file(path)?).into()))
}

/// The checkpoint of `network` with the tensors of a file, all gates kept.
///
/// The names are those of `naming`, or of the naming that fits best, under any prefix. The file must hold
/// exactly the tensors of the network, in `f64`, `f32`, `f16` or `bf16`, all finite and all variances
/// positive; `num_batches_tracked` is passed over. A convolution with a bias and without the batch norm
/// that should follow has it folded in: it gets a batch norm that adds the bias and nothing else, exactly.
///
/// `path` and `sha256` are for messages and for the provenance.
///
/// # Errors
/// [`ImportError`]; [`ImportError::Tensors`] names every tensor that is missing, unexpected or
/// unusable.
pub fn import_tensors(
    path: &Path,
    sha256: Digest,
    tensors: &ForeignTensors<'_>,
    network: &Network,
    naming: Option<Naming>,
) -> Result<Imported, ImportError> {
    let mapping = Mapping::best(tensors, network, naming).ok_or_else(|| {
        let known = Naming::ALL.into_iter().filter(|naming| naming.form_of(network).is_some());
        ImportError::Naming {
            naming: naming.unwrap_or(Naming::Torchvision),
            network: network.to_string(),
            known: known.map(Naming::name).collect(),
        }
    })?;
    let faults = mapping.faults(tensors);
    let values = if faults.is_empty() { values(&mapping, tensors) } else { Err(faults) };
    let Mapping { naming, prefix, network, folded, .. } = &mapping;
    let values = values.map_err(|faults| {
        let unfit = faults.iter().filter(|fault| fault.parameter.is_some()).count();
        let expected = mapping.expected();
        let (path, network) = (path.into(), network.to_string());
        let (naming, prefix, fitting) = (*naming, prefix.clone(), expected.saturating_sub(unfit));
        ImportError::Tensors { path, network, naming, prefix, fitting, expected, faults }
    })?;

    let config = serde_json::json!({
        "file": path.file_name().map(|name| name.to_string_lossy()),
        "sha256": sha256,
        "network": network,
        "naming": naming.name(),
        "prefix": prefix,
        "folded": folded,
    });
    let gates = Gates::all_kept(network.graph().blocks().len());
    let provenance = Provenance::new("import", None, config, None);
    let checkpoint = Checkpoint::new(network.clone(), gates, values, provenance)
        .map_err(|fault| ImportError::Unusable { path: path.into(), fault })?;
    let (naming, prefix, folded) = (*naming, prefix.clone(), folded.clone());
    Ok(Imported { checkpoint, naming, prefix, folded })
}

/// The values of all parameters, or every tensor whose content is unusable.
fn values(
    mapping: &Mapping,
    tensors: &ForeignTensors<'_>,
) -> Result<BTreeMap<String, Tensor>, Vec<TensorFault>> {
    let (mut values, mut faults) = (BTreeMap::new(), Vec::new());
    for entry in &mapping.entries {
        let (name, value) = match &entry.source {
            Source::Known(tensor) => (&entry.parameter, Ok(tensor.clone())),
            Source::Stored(name) => {
                let tensor = tensors.get(name).ok_or(TensorFaultKind::Missing);
                (name, tensor.and_then(|tensor| stored(tensor, &entry.parameter)))
            }
        };
        match value {
            Ok(value) => drop(values.insert(entry.parameter.clone(), value)),
            Err(kind) => faults.push(TensorFault {
                name: name.clone(),
                parameter: Some(entry.parameter.clone()),
                shape: entry.shape.clone(),
                kind,
            }),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

fn stored(tensor: &ForeignTensor<'_>, parameter: &str) -> Result<Tensor, TensorFaultKind> {
    let values = tensor.values()?;
    let is_variance = parameter.ends_with(".running_var");
    if is_variance && values.data().iter().any(|x| *x < 0.0) {
        return Err(TensorFaultKind::NegativeVariance);
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
