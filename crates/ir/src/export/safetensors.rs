//! Networks as named tensors.

use super::{ExportError, broadcast};
use crate::{Checkpoint, FusedModel, Network, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};

/// Element type, shape and content of a tensor to write.
type Entry = (Dtype, Vec<usize>, Vec<u8>);

/// A state dict with torchvision's names. In the metadata `copriv.mask` says which gates are kept, and `copriv.activation_masks`
/// (JSON, by the activation's name) which values the activations in part apply to.
pub(super) fn checkpoint(checkpoint: &Checkpoint) -> Result<Vec<u8>, ExportError> {
    let entries = checkpoint.tensors().iter().map(|(name, tensor)| (name.clone(), floats(tensor)));
    let gates = checkpoint.gates();
    let mut metadata = metadata(checkpoint.network(), &gates.mask());
    if !gates.parts().is_empty() {
        let masks = serde_json::json!(gates.parts()).to_string();
        metadata.insert("copriv.activation_masks".into(), masks);
    }
    serialise(&entries.collect(), metadata)
}

/// For each convolution `<name>.weight` and `<name>.bias`, with the list of layers in the metadata
/// (`copriv.layers`, JSON).
///
/// A bias that is the same everywhere has shape `[out]`. A bias map has shape `[out, row classes, column classes]`,
/// and `<name>.rows` and `<name>.columns` give the class of each row and column of the output. An activation in part has
/// `<name>.mask`, `[channels, 1, 1]` or the map's shape, true where it applies.
pub(super) fn fused(model: &FusedModel) -> Result<Vec<u8>, ExportError> {
    let mut entries = BTreeMap::new();
    for layer in model.layers() {
        let name = &layer.name;
        if let Some(mask) = &layer.mask {
            let (dims, bytes) = broadcast(mask);
            entries.insert(format!("{name}.mask"), (Dtype::BOOL, dims.to_vec(), bytes));
        }
        let Some((geometry, weight, bias)) = model.conv(layer) else { continue };
        entries.insert(format!("{name}.weight"), floats(weight));
        let outputs = geometry.out_channels;
        if bias.data().len() == outputs {
            let (dtype, _, bytes) = floats(bias);
            entries.insert(format!("{name}.bias"), (dtype, vec![outputs], bytes));
            continue;
        }
        let &[rows, columns, _] = bias.shape() else { continue };
        let channel = |channel| bias.data().iter().skip(channel).step_by(outputs).copied();
        let by_channel: Vec<f32> = (0..outputs).flat_map(channel).collect();
        let shape = vec![outputs, rows, columns];
        entries.insert(format!("{name}.bias"), (Dtype::F32, shape, bytes(&by_channel)));
        let Some(input) = layer.inputs.first().and_then(|id| model.layers().get(id.0)) else {
            continue;
        };
        for (suffix, extent) in [("rows", input.shape.height), ("columns", input.shape.width)] {
            let classes = geometry.border_classes(extent);
            let classes: Vec<i64> = classes.class_of_output().iter().map(|c| *c as i64).collect();
            let content = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
            entries.insert(format!("{name}.{suffix}"), (Dtype::I64, vec![classes.len()], content));
        }
    }
    let mut metadata = metadata(model.network(), model.mask());
    metadata.insert("copriv.layers".into(), serde_json::json!(model.layers()).to_string());
    serialise(&entries, metadata)
}

fn metadata(network: &Network, mask: &str) -> HashMap<String, String> {
    HashMap::from([
        ("format".into(), "pt".into()),
        ("copriv.network".into(), serde_json::json!(network).to_string()),
        ("copriv.mask".into(), mask.into()),
    ])
}

fn floats(tensor: &Tensor) -> Entry {
    (Dtype::F32, tensor.shape().to_vec(), bytes(tensor.data()))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn serialise(
    entries: &BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, ExportError> {
    let failed = |error: safetensors::SafeTensorError| ExportError::Safetensors {
        reason: error.to_string(),
    };
    let mut views = Vec::with_capacity(entries.len());
    for (name, (dtype, shape, bytes)) in entries {
        views.push((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?));
    }
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}
