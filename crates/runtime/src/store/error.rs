//! What can go wrong with a store.

use super::RecordId;
use copriv_ir::{Digest, Party};
use std::io;
use std::path::{Path, PathBuf};

/// A failure of a store. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness: {source}")]
    Randomness {
        /// What it said.
        source: getrandom::Error,
    },
    /// A record is not what it was when it was written.
    #[error("{} is damaged: {what}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The list of what was used is not what was written: nobody knows which records may be.
    #[error(
        "{} is damaged: {what}: expected {expected}, found {found}; no record beside it can be trusted: delete the folder",
        path.display()
    )]
    DamagedLedger {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// There are records without the list of what was used: nobody knows which of them may be.
    #[error(
        "{} holds records but not its ledger of those used: none of them can be trusted; delete the folder",
        path.display()
    )]
    NoLedger {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is no store.
    #[error("{} is no store of prepared inferences", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// The record was used already, or may have been.
    #[error("{} was used before", path.display())]
    Used {
        /// The file.
        path: PathBuf,
    },
    /// There is no such record.
    #[error("{} is not there", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The record is for another plan.
    #[error("{} is for plan {found}, not for plan {expected}", path.display())]
    ForeignPlan {
        /// The file.
        path: PathBuf,
        /// Ours.
        expected: Digest,
        /// The record's.
        found: Digest,
    },
    /// The record is another party's or another store's.
    #[error(
        "{} was made for another store: it cannot be used here, as nobody knows whether it was used there",
        path.display()
    )]
    ForeignStore {
        /// The file.
        path: PathBuf,
    },
    /// The folder keeps the records of the other party.
    #[error("{} is the store of a {found}, not of a {expected}", path.display())]
    ForeignParty {
        /// The folder.
        path: PathBuf,
        /// Who we are.
        expected: Party,
        /// Whose records are there.
        found: Party,
    },
    /// The parties' halves of a record are not of the same inference.
    #[error("{} is not half of the same inference as the peer's record", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
    },
    /// A record holds more or less than its plan asks for.
    #[error("record {id} is damaged: expected {expected} bytes, found {found}")]
    Size {
        /// The record.
        id: RecordId,
        /// Bytes of its plan's correlations.
        expected: u64,
        /// What it has.
        found: String,
    },
    /// The numbers of these two stores' records have run out.
    #[error("{} has no numbers left for this peer", path.display())]
    OutOfNumbers {
        /// The folder.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    /// Whether a file is not there, or no longer.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn damaged(
        path: &Path,
        what: &'static str,
        expected: String,
        found: String,
    ) -> Self {
        Self::Damaged { path: path.into(), what, expected, found }
    }
}
