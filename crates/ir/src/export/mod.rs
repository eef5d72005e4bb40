//! Weights to elsewhere: networks in forms that other tools load.
//!
//! | format | checkpoint | fused model |
//! |---|---|---|
//! | safetensors (`safetensors.rs`) | torchvision's names, as `load_state_dict` takes them | weights, biases, bias maps and masks, with the layers in the metadata |
//! | ONNX (`onnx.rs`) | convolutions and batch norms | convolutions, bias maps as sums with constants |
//!
//! An activation in part is a choice between its result and its input by a constant mask.
//!
//! Both are exact: the same single-precision numbers in the same operations, borders included.

mod onnx;
mod protobuf;
mod safetensors;

use crate::artefact::write_file;
use crate::{ActivationMask, ArtefactError, ArtefactKind, Checkpoint, FusedModel, Granularity};
use std::path::Path;

/// A form that other tools load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Named tensors.
    Safetensors,
    /// A graph with its weights, operator set 13, any batch size.
    Onnx,
}

/// Why a network cannot be exported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ExportError {
    #[error(transparent)]
    File(#[from] ArtefactError),
    #[error("an ONNX file holds less than 2 GiB, but this network takes {bytes} bytes")]
    TooLarge { bytes: usize },
    #[error("the network cannot be written as safetensors: {reason}")]
    Safetensors { reason: String },
}

/// Writes a checkpoint. Removed gates and activations in part are no part of safetensors (the metadata says them) but are of
/// ONNX.
///
/// # Errors
/// [`ExportError`]; what was at `path` is then untouched.
pub fn export_checkpoint(
    checkpoint: &Checkpoint,
    format: ExportFormat,
    path: &Path,
) -> Result<(), ExportError> {
    let content = match format {
        ExportFormat::Safetensors => safetensors::checkpoint(checkpoint)?,
        ExportFormat::Onnx => onnx::checkpoint(checkpoint)?,
    };
    Ok(write_file(path, ArtefactKind::Checkpoint, &content)?)
}

/// Writes a fused model.
///
/// # Errors
/// [`ExportError`]; what was at `path` is then untouched.
pub fn export_fused(
    model: &FusedModel,
    format: ExportFormat,
    path: &Path,
) -> Result<(), ExportError> {
    let content = match format {
        ExportFormat::Safetensors => safetensors::fused(model)?,
        ExportFormat::Onnx => onnx::fused(model)?,
    };
    Ok(write_file(path, ArtefactKind::FusedModel, &content)?)
}

/// A mask as a tensor that broadcasts over a batch of maps: `[channels, 1, 1]` or `[channels, height, width]`, a byte each.
fn broadcast(mask: &ActivationMask) -> ([usize; 3], Vec<u8>) {
    let shape = mask.shape();
    let dims = match mask.granularity() {
        Granularity::Channel => [shape.channels, 1, 1],
        Granularity::Pixel => shape.into(),
    };
    (dims, mask.bits().iter().map(|bit| u8::from(*bit)).collect())
}

#[cfg(test)]
mod tests;
