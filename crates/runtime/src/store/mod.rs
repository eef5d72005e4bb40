//! Prepared inferences that wait on disk, each to be used once.
//!
//! A store is a folder of one party. `ID.record` holds that party's half of one prepared inference; the [`Ledger`]
//! holds the numbers of all records ever used. Using a record begins with burning its number, so that whatever
//! happens then (a crash, a second process, a file copied back into its place) it is not used again. A store that is
//! copied or restored whole is no danger either, as long as the peer's is not: the peer has burnt the number.
//!
//! If *both* parties' stores are set back to an earlier state, nothing is left that remembers the later one, and
//! records are used twice, from which the server learns the difference of two clients' inputs. No party can notice
//! that, and fresh randomness online does not help: masks and choices are bound to the peer's half, and to
//! bind them anew costs as much as to prepare anew. Stores must be left out of backups and snapshots; after a
//! restoration both are to be deleted.

mod durable;
mod error;
mod fault;
mod field;
mod id;
mod ledger;
mod record;

pub use error::StoreError;
pub use field::{RecordReader, RecordTooShort, RecordWriter, Stored};
pub use id::{RecordId, StoreId};
pub use ledger::{Burnt, Ledger, SeriesId};
pub use record::RecordInfo;

use copriv_ir::{Digest, Party};
use durable::UNFINISHED;
use fault::{Place, pass};
use record::RecordFile;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

const LOCK: &str = "lock";
const RECORD: &str = "record";

/// The highest number that a peer may propose for a record.
pub(crate) const MAX_NUMBER: u64 = 1 << 62;

/// One party's store. Safe between threads and processes.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    party: Party,
    ledger: Ledger,
    /// Numbers from which on none is given out, for sessions that run side by side.
    reserved: Mutex<BTreeMap<SeriesId, u64>>,
}

/// A record that nobody can claim again. To be used once; it is no longer on disk.
pub struct Claimed {
    /// The proof that this is its first use.
    burnt: Burnt,
    info: RecordInfo,
    payload: Zeroizing<Vec<u8>>,
}

impl Claimed {
    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &RecordInfo {
        &self.info
    }

    /// Its correlations, and the proof that this is their first use.
    pub(crate) fn into_parts(self) -> (Burnt, Zeroizing<Vec<u8>>) {
        (self.burnt, self.payload)
    }
}

/// What is in a store.
#[derive(Debug)]
pub struct Contents {
    /// Its records, by number.
    pub records: Vec<RecordInfo>,
    /// Why the others cannot be read: one error each, which names the file. They are of no use to anybody, and no
    /// harm to the rest.
    pub unreadable: Vec<StoreError>,
}

impl Store {
    /// The store of `party` in a folder, which is made if it is not there. What a crash left is cleared away.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Randomness`]; [`StoreError::DamagedLedger`], [`StoreError::NoLedger`]
    /// and [`StoreError::ForeignParty`], which name what is wrong with the folder.
    pub fn open(folder: &Path, party: Party) -> Result<Self, StoreError> {
        durable::private_folder(folder)?;
        let _lock = durable::lock(&folder.join(LOCK))?;
        if !Ledger::exists(folder)? && !record_paths(folder)?.is_empty() {
            return Err(StoreError::NoLedger { path: folder.into() });
        }
        let (ledger, reserved) = (Ledger::open(folder)?, Mutex::default());
        let store = Self { folder: folder.into(), party, ledger, reserved };
        store.clear()?;
        Ok(store)
    }

    /// What is in the store in a folder, whoever's it is; nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] where the folder is none; [`StoreError::Io`], [`StoreError::DamagedLedger`].
    pub fn list(folder: &Path) -> Result<Contents, StoreError> {
        if !Ledger::exists(folder)? {
            return Err(StoreError::NoStore { path: folder.into() });
        }
        let ledger = Ledger::open(folder)?;
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for path in record_paths(folder)? {
            match RecordFile::open(&path) {
                Ok(RecordFile { info, .. }) => {
                    if !ledger.is_burnt(info.series(), info.number)? {
                        records.push(info);
                    }
                }
                Err(error) if error.is_not_found() => {} // Somebody has just claimed it.
                Err(error) => unreadable.push(error),
            }
        }
        records.sort_by_key(|info| (info.stores, info.number));
        Ok(Contents { records, unreadable })
    }

    /// The records in the store that can be read, by number.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn records(&self) -> Result<Vec<RecordInfo>, StoreError> {
        let _lock = self.lock()?;
        Ok(Self::list(&self.folder)?.records)
    }

    /// Tells it from all other stores.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.ledger.id()
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Both stores, the server's first, if the peer's is `peer`.
    pub(crate) fn beside(&self, peer: StoreId) -> [StoreId; 2] {
        match self.party {
            Party::Server => [self.id(), peer],
            Party::Client => [peer, self.id()],
        }
    }

    /// A number of at least `least` that no record with this peer's store has had, as far as we know. It
    /// is given out once by this `Store`.
    pub(crate) fn reserve(&self, peer: StoreId, least: u64) -> Result<u64, StoreError> {
        let stores = self.beside(peer);
        let series = record::series(stores);
        let burnt = self.ledger.next(series)?.unwrap_or(u64::MAX).max(least);
        let kept = self.records()?.into_iter().filter(|info| info.stores == stores);
        let next = kept.map(|info| info.number.saturating_add(1)).fold(burnt, u64::max);
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = reserved.entry(series).or_default();
        let number = next.max(*reserved);
        if number > MAX_NUMBER {
            return Err(StoreError::OutOfNumbers { path: self.folder.clone() });
        }
        *reserved = number + 1;
        Ok(number)
    }

    /// Writes a record; when this returns it is on disk.
    pub(crate) fn keep(&self, info: &RecordInfo, payload: &[u8]) -> Result<(), StoreError> {
        let path = self.path(info.id);
        let _lock = self.lock()?;
        if self.ledger.is_burnt(info.series(), info.number)? {
            return Err(StoreError::Used { path });
        }
        durable::write(&path, &[&info.header(payload), payload])
    }

    /// Claims the first record for a plan whose other half is in the store `peer`; `None` where there is none.
    pub(crate) fn claim_next(
        &self,
        plan: Digest,
        peer: StoreId,
    ) -> Result<Option<Claimed>, StoreError> {
        let _lock = self.lock()?;
        let fits = |info: &RecordInfo| {
            info.plan == plan && info.party == self.party && info.stores == self.beside(peer)
        };
        let Some(info) = Self::list(&self.folder)?.records.into_iter().find(fits) else {
            return Ok(None);
        };
        self.take(&self.path(info.id), plan).map(Some)
    }

    /// Claims a record as the peer names it.
    pub(crate) fn claim(
        &self,
        plan: Digest,
        id: RecordId,
        binding: Digest,
    ) -> Result<Claimed, StoreError> {
        let _lock = self.lock()?;
        let path = self.path(id);
        if !path.try_exists().map_err(StoreError::io(&path))? {
            return Err(StoreError::Unknown { path });
        }
        let info = RecordFile::open(&path)?.info;
        if (info.id, info.binding) != (id, binding) {
            return Err(StoreError::Mismatch { path });
        }
        self.take(&path, plan)
    }

    /// Burns the number of a record, reads it and deletes it. The caller holds the lock.
    fn take(&self, path: &Path, plan: Digest) -> Result<Claimed, StoreError> {
        let record = RecordFile::open(path)?;
        let info = record.info.clone();
        if info.party != self.party || info.home() != self.id() {
            return Err(StoreError::ForeignStore { path: path.into() });
        }
        if info.plan != plan {
            let (path, expected, found) = (path.into(), plan, info.plan);
            return Err(StoreError::ForeignPlan { path, expected, found });
        }
        let Some(burnt) = self.ledger.burn(info.series(), info.number)? else {
            durable::delete(path)?;
            return Err(StoreError::Used { path: path.into() });
        };
        let payload = record.payload(path);
        pass(Place::Read).map_err(StoreError::io(path))?;
        durable::delete(path)?;
        Ok(Claimed { burnt, info, payload: payload? })
    }

    /// Deletes unfinished files and used records. The caller holds the lock.
    fn clear(&self) -> Result<(), StoreError> {
        for path in paths(&self.folder)? {
            let own = path.file_name().and_then(OsStr::to_str).is_some_and(ledger::owns);
            if !own && path.extension() == Some(OsStr::new(UNFINISHED)) {
                durable::delete(&path)?;
            }
        }
        for path in record_paths(&self.folder)? {
            // One that cannot be read is reported when somebody wants it: the others are still good.
            let Ok(RecordFile { info, .. }) = RecordFile::open(&path) else { continue };
            if info.party != self.party {
                let (expected, found) = (self.party, info.party);
                return Err(StoreError::ForeignParty {
                    path: self.folder.clone(),
                    expected,
                    found,
                });
            }
            if self.ledger.is_burnt(info.series(), info.number)? {
                durable::delete(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, id: RecordId) -> PathBuf {
        self.folder.join(format!("{id}.{RECORD}"))
    }

    fn lock(&self) -> Result<std::fs::File, StoreError> {
        durable::lock(&self.folder.join(LOCK))
    }
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed").field("info", &self.info).finish_non_exhaustive()
    }
}

/// The files of a folder.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = std::fs::read_dir(folder).map_err(StoreError::io(folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<_, _>>().map_err(StoreError::io(folder))
}

/// The records of a folder.
fn record_paths(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = paths(folder)?;
    paths.retain(|path| path.extension() == Some(OsStr::new(RECORD)));
    Ok(paths)
}

#[cfg(test)]
mod tests;
