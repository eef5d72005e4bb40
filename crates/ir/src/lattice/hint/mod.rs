//! The hint: the model's part of every product, hidden, in a public file.
//!
//! Little-endian: magic (8 bytes), format version (4), the plan's public seed (32), number of steps (4); for each step its
//! number (4), polynomials (4) and bytes of one (8); then all polynomials, each `rank * 512` coefficients packed
//! without gaps. The plan holds the SHA-256 of the whole file.

mod compute;

pub use compute::HintError;
pub(super) use compute::check;

use super::residue;
use super::step::LatticeStep;
use super::stream::PublicSeed;
use crate::artefact::{FORMAT_VERSION, foreign, write_file};
use crate::{ArtefactError, ArtefactKind, Digest, StepId};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The first bytes of a hint file.
pub(crate) const MAGIC: &[u8; 8] = b"CoPrivH\n";

/// The hint of a plan. The same for all clients.
#[derive(Clone, PartialEq, Eq)]
pub struct Hint {
    /// The file as it is.
    bytes: Vec<u8>,
    /// Where the polynomials of each step begin.
    starts: Vec<(StepId, usize)>,
}

impl Hint {
    /// SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(Sha256::digest(&self.bytes).into())
    }

    #[cfg(test)]
    pub(super) fn content(&self) -> &[u8] {
        &self.bytes
    }

    /// Size of the file.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Size of the hint file of a plan with these steps.
    #[must_use]
    pub fn predicted_size(steps: &[LatticeStep]) -> u64 {
        48 + 16 * steps.len() as u64 + steps.iter().map(LatticeStep::hint_bytes).sum::<u64>()
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`ArtefactError::Io`]; what was at `path` is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        write_file(path, ArtefactKind::Hint, &self.bytes)
    }

    /// Reads the hint of a plan: these steps, this seed, this digest.
    ///
    /// # Errors
    /// [`ArtefactError`]: also where it is that of another plan.
    pub fn read(
        path: &Path,
        seed: &PublicSeed,
        steps: &[LatticeStep],
        digest: Digest,
    ) -> Result<Self, ArtefactError> {
        let io = ArtefactError::io(path);
        let expected = header(seed, steps);
        let size = Self::predicted_size(steps);
        let mut file = File::open(path).map_err(&io)?;
        let length = file.metadata().map_err(&io)?.len();
        let mut bytes = vec![0; expected.len()];
        let read = file.read_exact(&mut bytes[..12]).ok().filter(|()| bytes.starts_with(MAGIC));
        if read.is_none() {
            let error = ArtefactError::not_an_artefact(path, "it does not begin as a hint does");
            return Err(foreign(path, ArtefactKind::Hint, error));
        }
        if bytes[8..12] != expected[8..12] {
            let found = bytes[8..12].iter().rev().fold(0, |v, &byte| v << 8 | u64::from(byte));
            let supported = FORMAT_VERSION;
            return Err(ArtefactError::Version { path: path.into(), found, supported });
        }
        if length != size {
            let (expected, found) = (format!("{size} bytes"), format!("{length} bytes"));
            return Err(ArtefactError::damaged(path, "size", expected, found));
        }
        file.read_exact(&mut bytes[12..]).map_err(&io)?;
        if bytes != expected {
            let found = "that of another plan or compilation";
            return Err(ArtefactError::damaged(path, "header", "the hint of the plan", found));
        }
        let body = size - bytes.len() as u64;
        bytes.reserve_exact(body as usize);
        file.take(body).read_to_end(&mut bytes).map_err(&io)?;
        let hint = Self::of_bytes(bytes, steps);
        if hint.size() as u64 != size || hint.digest() != digest {
            let field = "digest of the content";
            return Err(ArtefactError::damaged(path, field, digest, hint.digest()));
        }
        Ok(hint)
    }

    fn of_bytes(bytes: Vec<u8>, steps: &[LatticeStep]) -> Self {
        let mut start = 48 + 16 * steps.len();
        let mut starts = Vec::with_capacity(steps.len());
        for step in steps {
            starts.push((step.id, start));
            start += step.hint_bytes() as usize;
        }
        Self { bytes, starts }
    }

    /// The residues of a polynomial of a step, component after component; zeros where the hint has no such polynomial.
    pub(super) fn polynomial(
        &self,
        step: &LatticeStep,
        number: usize,
    ) -> impl Iterator<Item = u128> + '_ {
        let (size, rounding) = (step.hint_polynomial_bytes(), step.layer.hint_rounding);
        let start = self.starts.iter().find(|(id, _)| *id == step.id).map(|(_, start)| *start);
        let bytes = start.and_then(|start| self.bytes.get(start + number * size..));
        let residues = residue::all(bytes.unwrap_or_default(), step.hint_bits());
        residues.map(move |residue| residue << rounding)
    }
}

/// The bytes before the first polynomial.
fn header(seed: &PublicSeed, steps: &[LatticeStep]) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend((FORMAT_VERSION as u32).to_le_bytes());
    header.extend(seed.bytes());
    header.extend((steps.len() as u32).to_le_bytes());
    for step in steps {
        header.extend((step.id.0 as u32).to_le_bytes());
        header.extend((step.layout.polynomials() as u32).to_le_bytes());
        header.extend((step.hint_polynomial_bytes() as u64).to_le_bytes());
    }
    header
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hint").field("size", &self.size()).finish_non_exhaustive()
    }
}
