//! Artefacts as safetensors: named tensors, and a JSON header in the metadata.

use super::{
    ArtefactError, ArtefactKind, FORMAT_VERSION, check_digest, check_envelope, foreign, read_file,
    write_file,
};
use crate::{ActivationMask, Digest, Granularity, Shape, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use zeroize::Zeroizing;

const KIND: &str = "copriv.kind";
const VERSION: &str = "copriv.version";
const HEADER: &str = "copriv.header";
const DIGEST: &str = "copriv.digest";

/// One stored tensor: its element type, shape and little-endian bytes, which forget themselves: they may be secret.
#[derive(Clone, PartialEq)]
pub(crate) struct StoredTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

pub(crate) type StoredTensors = BTreeMap<String, StoredTensor>;

impl StoredTensor {
    pub(crate) fn f32(tensor: &Tensor) -> Self {
        let bytes = bytes(tensor.data(), |x| x.to_le_bytes());
        Self { dtype: Dtype::F32, shape: tensor.shape().to_vec(), bytes }
    }

    pub(crate) fn i64(shape: Vec<usize>, data: &[i64]) -> Self {
        Self { dtype: Dtype::I64, shape, bytes: bytes(data, |x| x.to_le_bytes()) }
    }
}

fn bytes<T: Copy, const N: usize>(data: &[T], value: fn(T) -> [u8; N]) -> Zeroizing<Vec<u8>> {
    // All room at once: what a vector leaves behind as it grows is not cleared.
    let mut bytes = Zeroizing::new(Vec::with_capacity(N * data.len()));
    data.iter().for_each(|&x| bytes.extend_from_slice(&value(x)));
    bytes
}

/// Name and form of an activation's mask: its packed bytes, a vector by channel, a matrix of one row by pixel.
pub(crate) fn stored_mask(activation: &str, mask: &ActivationMask) -> (String, StoredTensor) {
    let bytes = Zeroizing::new(mask.packed());
    let shape = mask_shape(mask.shape(), mask.granularity());
    (format!("{activation}.mask"), StoredTensor { dtype: Dtype::U8, shape, bytes })
}

fn mask_shape(shape: Shape, granularity: Granularity) -> Vec<usize> {
    let bytes = granularity.bits(shape).div_ceil(8);
    match granularity {
        Granularity::Channel => vec![bytes],
        Granularity::Pixel => vec![1, bytes],
    }
}

/// Takes the mask of an activation on a map of shape `shape` out of a file's tensors, if it has one.
pub(crate) fn take_mask(
    path: &Path,
    tensors: &mut StoredTensors,
    activation: &str,
    shape: Shape,
) -> Result<Option<ActivationMask>, ArtefactError> {
    let name = format!("{activation}.mask");
    let Some(found) = tensors.get(&name) else { return Ok(None) };
    let granularity =
        if found.shape.len() == 2 { Granularity::Pixel } else { Granularity::Channel };
    let expected = mask_shape(shape, granularity);
    let stored = take(path, tensors, &name, Dtype::U8, &expected)?;
    let mask = ActivationMask::unpacked(shape, granularity, &stored.bytes);
    let bad = |fault| ArtefactError::damaged(path, &name, "a mask of some of its values", fault);
    mask.map(Some).map_err(bad)
}

/// Takes the tensor `name` of the expected shape out of those of a file; every value finite.
pub(crate) fn take_f32(
    path: &Path,
    tensors: &mut StoredTensors,
    name: &str,
    shape: &[usize],
) -> Result<Tensor, ArtefactError> {
    let stored = take(path, tensors, name, Dtype::F32, shape)?;
    let data: Vec<f32> = values(&stored.bytes, f32::from_le_bytes);
    if let Some(bad) = data.iter().find(|x| !x.is_finite()) {
        return Err(ArtefactError::damaged(path, name, "finite values", bad));
    }
    let expected = format!("{shape:?}");
    Tensor::new(stored.shape, data)
        .ok_or_else(|| ArtefactError::damaged(path, name, expected, "another number of values"))
}

/// Takes the tensor `name` of 64-bit integers.
pub(crate) fn take_i64(
    path: &Path,
    tensors: &mut StoredTensors,
    name: &str,
    shape: &[usize],
) -> Result<Vec<i64>, ArtefactError> {
    let stored = take(path, tensors, name, Dtype::I64, shape)?;
    Ok(values(&stored.bytes, i64::from_le_bytes))
}

fn values<T, const N: usize>(bytes: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}

fn take(
    path: &Path,
    tensors: &mut StoredTensors,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<StoredTensor, ArtefactError> {
    let describe = |dtype: Dtype, shape: &[usize]| format!("{dtype:?} {shape:?}");
    let expected = describe(dtype, shape);
    let Some(stored) = tensors.remove(name) else {
        return Err(ArtefactError::damaged(path, name, expected, "nothing"));
    };
    if stored.dtype != dtype || stored.shape != shape {
        let found = describe(stored.dtype, &stored.shape);
        return Err(ArtefactError::damaged(path, name, expected, found));
    }
    Ok(stored)
}

/// Refuses what is left once all known tensors were taken.
pub(crate) fn expect_no_more(path: &Path, tensors: &StoredTensors) -> Result<(), ArtefactError> {
    match tensors.keys().next() {
        None => Ok(()),
        Some(name) => Err(ArtefactError::damaged(path, name, "no such tensor", "one")),
    }
}

/// Digest over kind, header and every tensor's name, type, shape and bytes.
pub(crate) fn digest(
    kind: ArtefactKind,
    header: &impl Serialize,
    tensors: &StoredTensors,
) -> Digest {
    let header = serde_json::to_string(header).unwrap_or_default();
    digest_of_text(kind, &header, tensors)
}

fn digest_of_text(kind: ArtefactKind, header: &str, tensors: &StoredTensors) -> Digest {
    let descriptions: Vec<String> = tensors
        .iter()
        .map(|(name, tensor)| format!("{name} {:?} {:?}", tensor.dtype, tensor.shape))
        .collect();
    let version = FORMAT_VERSION.to_le_bytes();
    let head = [kind.name().as_bytes(), &version, header.as_bytes()];
    let body = descriptions
        .iter()
        .zip(tensors.values())
        .flat_map(|(description, tensor)| [description.as_bytes(), &tensor.bytes[..]]);
    Digest::of(head.into_iter().chain(body))
}

pub(crate) fn write(
    path: &Path,
    kind: ArtefactKind,
    header: &impl Serialize,
    tensors: &StoredTensors,
) -> Result<(), ArtefactError> {
    let unwritable = |e: String| ArtefactError::io(path)(std::io::Error::other(e));
    let header = serde_json::to_string(header).map_err(|e| unwritable(e.to_string()))?;
    let digest = digest_of_text(kind, &header, tensors);
    let metadata = BTreeMap::from([
        (KIND.to_owned(), kind.name().to_owned()),
        (VERSION.to_owned(), FORMAT_VERSION.to_string()),
        (HEADER.to_owned(), header),
        (DIGEST.to_owned(), digest.to_string()),
    ]);
    let unordered: HashMap<_, _> = metadata.clone().into_iter().collect();
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect();
    let bytes = views.and_then(|views| safetensors::serialize(views, Some(unordered)));
    let mut bytes = Zeroizing::new(bytes.map_err(|e| unwritable(e.to_string()))?);
    order_metadata(&mut bytes, &metadata).map_err(|e| unwritable(e.to_string()))?;
    write_file(path, kind, &bytes)
}

/// Puts the metadata's entries in order: safetensors writes them in a hash map's, which changes from
/// run to run, and equal artefacts shall be equal files. The text only changes its order.
fn order_metadata(
    bytes: &mut [u8],
    metadata: &BTreeMap<String, String>,
) -> Result<(), serde_json::Error> {
    let ordered = serde_json::to_string(metadata)?;
    let start = size_of::<u64>() + b"{\"__metadata__\":".len();
    if let Some(written) = bytes.get_mut(start..start + ordered.len()) {
        written.copy_from_slice(ordered.as_bytes());
    }
    Ok(())
}

pub(crate) fn read<H: DeserializeOwned>(
    path: &Path,
    kind: ArtefactKind,
) -> Result<(H, StoredTensors), ArtefactError> {
    let bytes = Zeroizing::new(read_file(path)?);
    let metadata = metadata(path, &bytes).map_err(|error| foreign(path, kind, error))?;
    let field = |key: &str| field(path, &metadata, key);
    let version = field(VERSION)?;
    let version =
        version.parse().map_err(|_| ArtefactError::damaged(path, VERSION, "a number", version))?;
    check_envelope(path, kind, field(KIND)?, version)?;

    let tensors = stored_tensors(path, &bytes)?;
    let stated = field(DIGEST)?
        .parse()
        .map_err(|e| ArtefactError::damaged(path, DIGEST, "64 hexadecimal digits", e))?;
    let header = field(HEADER)?;
    check_digest(path, stated, digest_of_text(kind, header, &tensors))?;
    let header = serde_json::from_str(header)
        .map_err(|e| ArtefactError::damaged(path, HEADER, format!("that of a {kind}"), e))?;
    Ok((header, tensors))
}

pub(crate) fn kind(path: &Path) -> Result<String, ArtefactError> {
    let bytes = Zeroizing::new(read_file(path)?);
    let metadata = metadata(path, &bytes)?;
    field(path, &metadata, KIND).map(str::to_owned)
}

fn field<'a>(
    path: &Path,
    metadata: &'a HashMap<String, String>,
    key: &str,
) -> Result<&'a str, ArtefactError> {
    let missing = || ArtefactError::not_an_artefact(path, format!("its metadata has no {key}"));
    metadata.get(key).map(String::as_str).ok_or_else(missing)
}

fn metadata(path: &Path, bytes: &[u8]) -> Result<HashMap<String, String>, ArtefactError> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| ArtefactError::not_an_artefact(path, format!("no safetensors file: {e}")))?;
    metadata.metadata().clone().ok_or_else(|| {
        ArtefactError::not_an_artefact(
            path,
            "it is safetensors without CoPriv's metadata (to bring weights in, use `copriv import`)",
        )
    })
}

fn stored_tensors(path: &Path, bytes: &[u8]) -> Result<StoredTensors, ArtefactError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| ArtefactError::damaged(path, "tensors", "safetensors", e))?;
    let stored = |view: TensorView| StoredTensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: Zeroizing::new(view.data().to_vec()),
    };
    Ok(file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_artefacts_are_equal_files() {
        let tensor = Tensor::filled(vec![2, 3], 0.5);
        let tensors = StoredTensors::from([("a".to_owned(), StoredTensor::f32(&tensor))]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let written = || {
            let header = BTreeMap::from([("text", "with \"quotes\"")]);
            write(&path, ArtefactKind::Checkpoint, &header, &tensors).expect("written");
            let read: (BTreeMap<String, String>, _) =
                read(&path, ArtefactKind::Checkpoint).expect("readable");
            assert_eq!(read.0["text"], header["text"]);
            std::fs::read(&path).expect("readable")
        };
        let first = written();
        assert!((0..8).all(|_| written() == first));
    }
}
