//! What all artefact files have in common: their kinds, their errors, and two containers.
//!
//! Weights travel as safetensors with a JSON header in the metadata ([`tensor_file`]), all else as
//! JSON ([`json_file`]). Both carry a kind, a format version and a digest of their content, so that
//! a foreign, outdated or damaged file is told apart from a good one. Files are written beside
//! their place and renamed into it: a failed write leaves what was there.

pub(crate) mod json_file;
pub(crate) mod tensor_file;

use crate::Digest;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The kinds of artefact that CoPriv keeps in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArtefactKind {
    /// Trained network.
    Checkpoint,
    /// Network whose linear runs are single convolutions.
    FusedModel,
    /// Private-inference plan; public.
    Plan,
    /// Integer weights of a plan; the server's secret.
    ServerWeights,
    /// What lattice correlations need of the model, hidden; public.
    Hint,
}

impl ArtefactKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Checkpoint, Self::FusedModel, Self::Plan, Self::ServerWeights, Self::Hint];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::FusedModel => "fused-model",
            Self::Plan => "plan",
            Self::ServerWeights => "server-weights",
            Self::Hint => "hint",
        }
    }

    /// The command that makes one.
    const fn made_by(self) -> &'static str {
        match self {
            Self::Checkpoint => "copriv train`, `init` or `import",
            Self::FusedModel => "copriv fuse",
            Self::Plan | Self::ServerWeights | Self::Hint => "copriv compile",
        }
    }

    /// The kind of the artefact in a file, from its first bytes and header alone.
    ///
    /// # Errors
    /// [`ArtefactError::Io`] or [`ArtefactError::NotAnArtefact`].
    pub fn of_file(path: &Path) -> Result<Self, ArtefactError> {
        let first = first_bytes(path)?;
        if first == *crate::lattice::HINT_MAGIC {
            return Ok(Self::Hint);
        }
        let name = if first[0] == b'{' { json_file::kind(path)? } else { tensor_file::kind(path)? };
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let reason = format!("it calls itself {name:?}");
            ArtefactError::NotAnArtefact { path: path.into(), reason }
        })
    }
}

impl fmt::Display for ArtefactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::FusedModel => "fused model",
            Self::Plan => "plan",
            Self::ServerWeights => "server weights",
            Self::Hint => "hint",
        })
    }
}

/// Why an artefact could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArtefactError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is no CoPriv artefact: {reason}", path.display())]
    NotAnArtefact { path: PathBuf, reason: String },
    #[error(
        "{} holds a {found}, but a {expected} is needed here (made by `{}`)",
        path.display(),
        expected.made_by()
    )]
    WrongKind { path: PathBuf, expected: ArtefactKind, found: String },
    #[error(
        "{} has format version {found}, but this build reads version {supported}; \
         make the artefact again with this build",
        path.display()
    )]
    Version { path: PathBuf, found: u64, supported: u64 },
    #[error("{} is damaged: {field}: expected {expected}, found {found}", path.display())]
    Damaged { path: PathBuf, field: String, expected: String, found: String },
}

impl ArtefactError {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    pub(crate) fn not_an_artefact(path: &Path, reason: impl fmt::Display) -> Self {
        Self::NotAnArtefact { path: path.into(), reason: reason.to_string() }
    }

    pub(crate) fn damaged(
        path: &Path,
        field: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::Damaged { path: path.into(), field: field.into(), expected, found }
    }
}

/// Version of every artefact's format; raised whenever a reader of the old one would be wrong.
pub(crate) const FORMAT_VERSION: u64 = 1;

/// Largest file that a reader takes, against hostile sizes: 8 GiB.
const MAX_FILE_BYTES: u64 = 8 << 30;

/// The whole file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ArtefactError> {
    let io = ArtefactError::io(path);
    let length = std::fs::metadata(path).map_err(&io)?.len();
    if length > MAX_FILE_BYTES {
        let found = format!("{length} bytes");
        return Err(ArtefactError::damaged(path, "size", "at most 8 GiB", found));
    }
    std::fs::read(path).map_err(io)
}

/// Writes the file in one step: to a temporary file in the same folder, then renamed. Secrets are for
/// the owner's eyes alone, all else has the permissions of any new file.
pub(crate) fn write_file(
    path: &Path,
    kind: ArtefactKind,
    content: &[u8],
) -> Result<(), ArtefactError> {
    let io = ArtefactError::io(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(&io)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    if kind != ArtefactKind::ServerWeights {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666)); // less the process's mask
    }
    let mut file = builder.tempfile_in(folder).map_err(&io)?;
    file.write_all(content).map_err(&io)?;
    file.as_file().sync_all().map_err(&io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The first eight bytes, zeros where the file is shorter.
fn first_bytes(path: &Path) -> Result<[u8; 8], ArtefactError> {
    use std::io::Read as _;
    let io = ArtefactError::io(path);
    let mut bytes = Vec::with_capacity(8);
    std::fs::File::open(path).map_err(&io)?.take(8).read_to_end(&mut bytes).map_err(&io)?;
    bytes.resize(8, 0);
    Ok(bytes.try_into().unwrap_or_default())
}

/// The error for a file that is no `expected` at all: it may be another artefact in the other container.
pub(crate) fn foreign(path: &Path, expected: ArtefactKind, error: ArtefactError) -> ArtefactError {
    match ArtefactKind::of_file(path) {
        Ok(found) if found != expected => {
            let found = found.name().to_owned();
            ArtefactError::WrongKind { path: path.into(), expected, found }
        }
        _ => error,
    }
}

/// Checks kind, version and digest as a file states them.
pub(crate) fn check_envelope(
    path: &Path,
    expected: ArtefactKind,
    kind: &str,
    version: u64,
) -> Result<(), ArtefactError> {
    if kind != expected.name() {
        return Err(ArtefactError::WrongKind { path: path.into(), expected, found: kind.into() });
    }
    if version != FORMAT_VERSION {
        let supported = FORMAT_VERSION;
        return Err(ArtefactError::Version { path: path.into(), found: version, supported });
    }
    Ok(())
}

pub(crate) fn check_digest(
    path: &Path,
    stated: Digest,
    content: Digest,
) -> Result<(), ArtefactError> {
    if stated == content {
        return Ok(());
    }
    Err(ArtefactError::damaged(path, "digest of the content", stated, content))
}

#[cfg(test)]
mod tests;
