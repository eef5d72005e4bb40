//! Numbers that are used once, for ever.
//!
//! What must never be used twice (a prepared inference, a secret that follows from a counter) gets a number in a
//! *series*. Before anything that depends on it leaves this machine, the number is burnt: written to a file
//! and on disk. [`Burnt`] is the proof of that, and whatever must be used once is made from such a proof.
//!
//! The file is a header and a list of burnt ranges, 64 bytes each, so that none lies across two sectors of a disk: after a
//! crash its last entry is there, or missing, or zeros. Whatever else is wrong with it is damage and is refused.

use super::durable::{self, UNFINISHED};
use super::fault::{Place, pass};
use super::{StoreError, StoreId};
use copriv_ir::Digest;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const NAME: &str = "ledger";
const LOCK: &str = "ledger.lock";
const MAGIC: &[u8; 8] = b"CoPrivLg";
const VERSION: u32 = 1;

/// Bytes of the header and of an entry.
const ENTRY: usize = 64;

/// Entries beyond twice the ranges that they stand for before the file is written anew.
const SLACK: usize = 64;

/// What has its own count of numbers: 16 bytes that stand for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId([u8; 16]);

impl SeriesId {
    /// The series of which these parts are the name.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(parts).bytes()[..16]);
        Self(id)
    }
}

/// The proof that a number was burnt, here and now, and never before. Cannot be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Burnt {
    number: u64,
}

impl Burnt {
    /// The number, of the series in which it was burnt.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// A folder's list of burnt numbers. Safe between threads and processes: every call looks at the file under a lock.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    id: StoreId,
}

impl Ledger {
    /// The ledger of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::DamagedLedger`]; [`StoreError::Randomness`] where one is made.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        durable::private_folder(folder)?;
        let path = folder.join(NAME);
        let _lock = durable::lock(&folder.join(LOCK))?;
        if !path.try_exists().map_err(StoreError::io(&path))? {
            durable::write(&path, &[&header(StoreId::random()?)])?;
        }
        let id = Content::read(&path)?.id;
        Ok(Self { folder: folder.into(), id })
    }

    /// Whether a folder has one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn exists(folder: &Path) -> Result<bool, StoreError> {
        let path = folder.join(NAME);
        Ok(folder.is_dir() && path.try_exists().map_err(StoreError::io(&path))?)
    }

    /// Tells it from all other ledgers; copies of a ledger have the same.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Burns a number; `None` where it was burnt before.
    ///
    /// # Errors
    /// [`StoreError::Io`], after which it may or may not be burnt; [`StoreError::DamagedLedger`].
    pub fn burn(&self, series: SeriesId, number: u64) -> Result<Option<Burnt>, StoreError> {
        let _lock = durable::lock(&self.folder.join(LOCK))?;
        let mut content = self.read()?;
        let used = content.used.entry(series).or_default();
        if used.contains(number) {
            return Ok(None);
        }
        used.insert(number, number);
        let path = self.folder.join(NAME);
        append(&path, content.len, &entry(self.id, series, number, number))?;
        if content.len / ENTRY > SLACK + 2 * content.ranges() {
            durable::write(&path, &[&content.encode()])?;
        }
        Ok(Some(Burnt { number }))
    }

    /// Whether a number is burnt.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::DamagedLedger`].
    pub fn is_burnt(&self, series: SeriesId, number: u64) -> Result<bool, StoreError> {
        let _lock = durable::lock(&self.folder.join(LOCK))?;
        let content = self.read()?;
        Ok(content.used.get(&series).is_some_and(|used| used.contains(number)))
    }

    /// The number after the highest burnt one of a series; `None` after 2^64 of them.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::DamagedLedger`].
    pub fn next(&self, series: SeriesId) -> Result<Option<u64>, StoreError> {
        let _lock = durable::lock(&self.folder.join(LOCK))?;
        Ok(self.read()?.used.get(&series).map_or(Some(0), Ranges::next))
    }

    /// The list as it is now; the caller holds the lock.
    fn read(&self) -> Result<Content, StoreError> {
        let path = self.folder.join(NAME);
        let content = Content::read(&path)?;
        if content.id == self.id {
            return Ok(content);
        }
        let (expected, found) = (self.id.to_string(), content.id.to_string());
        Err(StoreError::DamagedLedger { path, what: "the ledger's id", expected, found })
    }
}

/// Appends an entry after the first `len` bytes of the file, and waits until it is on disk.
fn append(path: &Path, len: usize, entry: &[u8; ENTRY]) -> Result<(), StoreError> {
    let appended = || {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len as u64)?;
        file.seek(SeekFrom::End(0))?;
        let (first, second) = entry.split_at(ENTRY / 2);
        file.write_all(first)?;
        pass(Place::HalfAppended)?;
        file.write_all(second)?;
        pass(Place::Appended)?;
        file.sync_all()?;
        pass(Place::Burnt)
    };
    appended().map_err(StoreError::io(path))
}

/// What is in the file.
struct Content {
    id: StoreId,
    used: BTreeMap<SeriesId, Ranges>,
    /// Bytes of the header and of all whole entries.
    len: usize,
}

impl Content {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = std::fs::read(path).map_err(StoreError::io(path))?;
        let damaged = |what, expected: &str, found: String| StoreError::DamagedLedger {
            path: path.into(),
            what,
            expected: expected.into(),
            found,
        };
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        let Some((first, entries)) = entries.split_first() else {
            let found = format!("{} bytes", bytes.len());
            return Err(damaged("size", "a header of 64 bytes", found));
        };
        let mut id = [0; 16];
        id.copy_from_slice(&first[16..32]);
        let id = StoreId::from_bytes(id);
        if *first != header(id) {
            return Err(damaged("header", "that of a ledger", "another".into()));
        }
        let mut content = Self { id, used: BTreeMap::new(), len: ENTRY };
        for (index, bytes) in entries.iter().enumerate() {
            let last = index + 1 == entries.len() && rest.is_empty();
            if last && *bytes == [0; ENTRY] {
                break;
            }
            let Some((series, first, end)) = decode(id, bytes) else {
                let found = format!("another in entry {index}");
                return Err(damaged("entry", "one with its checksum", found));
            };
            content.used.entry(series).or_default().insert(first, end);
            content.len += ENTRY;
        }
        Ok(content)
    }

    fn ranges(&self) -> usize {
        self.used.values().map(|used| used.0.len()).sum()
    }

    /// The shortest file that says the same.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = header(self.id).to_vec();
        for (&series, used) in &self.used {
            for (&first, &last) in &used.0 {
                bytes.extend_from_slice(&entry(self.id, series, first, last));
            }
        }
        bytes
    }
}

fn header(id: StoreId) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&id.bytes());
    let sum = Digest::of([&bytes[..32]]);
    bytes[32..].copy_from_slice(sum.bytes());
    bytes
}

fn entry(id: StoreId, series: SeriesId, first: u64, last: u64) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..16].copy_from_slice(&series.0);
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    bytes[24..32].copy_from_slice(&last.to_le_bytes());
    let sum = Digest::of([id.bytes().as_slice(), &bytes[..32]]);
    bytes[32..].copy_from_slice(sum.bytes());
    bytes
}

/// Series, first and last number of an entry; `None` if it is none.
fn decode(id: StoreId, bytes: &[u8; ENTRY]) -> Option<(SeriesId, u64, u64)> {
    let (series, numbers) = bytes.split_first_chunk::<16>()?;
    let (first, numbers) = numbers.split_first_chunk::<8>()?;
    let (last, _) = numbers.split_first_chunk::<8>()?;
    let series = SeriesId(*series);
    let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    (first <= last && entry(id, series, first, last) == *bytes).then_some((series, first, last))
}

/// Numbers as ranges, first to last, that neither overlap nor touch.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    /// The number after the highest.
    fn next(&self) -> Option<u64> {
        self.0.last_key_value().map_or(Some(0), |(_, last)| last.checked_add(1))
    }

    fn insert(&mut self, mut first: u64, mut last: u64) {
        // All ranges that overlap or touch the new one become part of it.
        while let Some((&low, &high)) = self.0.range(..=last.saturating_add(1)).next_back()
            && high.saturating_add(1) >= first
        {
            self.0.remove(&low);
            (first, last) = (first.min(low), last.max(high));
        }
        self.0.insert(first, last);
    }
}

/// Whether a file in a ledger's folder is the ledger's own.
pub(super) fn owns(name: &str) -> bool {
    name == NAME || name == LOCK || name == format!("{NAME}.{UNFINISHED}")
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
