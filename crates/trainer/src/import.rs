//! PyTorch's own weight files.

use burn::store::pytorch_reader::{DType, PytorchReader, Tensor};
use copriv_ir::{
    ElementType, ForeignTensor, ForeignTensors, ImportError, Imported, Naming, Network,
    import_tensors, sha256_of_file,
};
use std::borrow::Cow;
use std::path::Path;

/// The checkpoint of `network` with the weights in a file of `torch.save`, all gates kept: a state dict, or a dictionary
/// with one in it. Nothing in the file is executed. See [`import_tensors`].
///
/// # Errors
/// [`ImportError::Format`] where burn's reader cannot take the file; as [`import_tensors`].
pub fn import_pth(
    path: &Path,
    network: &Network,
    naming: Option<Naming>,
) -> Result<Imported, ImportError> {
    let format =
        |reason: String| ImportError::Format { path: path.into(), format: "PyTorch", reason };
    let sha256 = sha256_of_file(path)?;
    let reader = PytorchReader::new(path).map_err(|error| format(error.to_string()))?;
    let tensors: ForeignTensors<'_> =
        reader.tensors().iter().map(|(name, tensor)| (name.clone(), foreign(tensor))).collect();
    import_tensors(path, sha256, &tensors, network, naming)
}

fn foreign(tensor: &Tensor) -> ForeignTensor<'_> {
    let element = match tensor.dtype() {
        DType::F64 => ElementType::F64,
        DType::F32 => ElementType::F32,
        DType::F16 => ElementType::F16,
        DType::BF16 => ElementType::BF16,
        other => ElementType::Other(format!("{other:?}")),
    };
    ForeignTensor::new(element, tensor.shape().to_vec(), || {
        tensor.read().map(Cow::Owned).map_err(|error| error.to_string())
    })
}
