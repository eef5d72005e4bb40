//! Artefacts as JSON: `{ "kind", "version", "digest", "content" }`.

use super::{
    ArtefactError, ArtefactKind, FORMAT_VERSION, check_digest, check_envelope, foreign, read_file,
    write_file,
};
use crate::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    kind: String,
    version: u64,
    digest: Digest,
    content: Value,
}

/// Digest of the content in its compact form with sorted keys: independent of layout.
pub(crate) fn digest(kind: ArtefactKind, content: &impl Serialize) -> Digest {
    let content = serde_json::to_value(content).unwrap_or(Value::Null);
    digest_of_value(kind, &content)
}

fn digest_of_value(kind: ArtefactKind, content: &Value) -> Digest {
    let text = content.to_string();
    Digest::of([kind.name().as_bytes(), &FORMAT_VERSION.to_le_bytes(), text.as_bytes()])
}

pub(crate) fn write(
    path: &Path,
    kind: ArtefactKind,
    content: &impl Serialize,
) -> Result<(), ArtefactError> {
    let unwritable = |e: serde_json::Error| ArtefactError::io(path)(e.into());
    let content = serde_json::to_value(content).map_err(unwritable)?;
    let digest = digest_of_value(kind, &content);
    let envelope =
        Envelope { kind: kind.name().to_owned(), version: FORMAT_VERSION, digest, content };
    let mut text = serde_json::to_string_pretty(&envelope).map_err(unwritable)?;
    text.push('\n');
    write_file(path, kind, text.as_bytes())
}

pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    kind: ArtefactKind,
) -> Result<T, ArtefactError> {
    let envelope = envelope(path).map_err(|error| foreign(path, kind, error))?;
    check_envelope(path, kind, &envelope.kind, envelope.version)?;
    check_digest(path, envelope.digest, digest_of_value(kind, &envelope.content))?;
    serde_json::from_value(envelope.content)
        .map_err(|e| ArtefactError::damaged(path, "content", format!("a {kind}"), e))
}

pub(crate) fn kind(path: &Path) -> Result<String, ArtefactError> {
    Ok(envelope(path)?.kind)
}

fn envelope(path: &Path) -> Result<Envelope, ArtefactError> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|e| ArtefactError::not_an_artefact(path, e))
}
