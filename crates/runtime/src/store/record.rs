//! One prepared inference in a file: a header of 208 bytes, then one party's correlations.

use super::{RecordId, SeriesId, StoreError, StoreId};
use copriv_ir::{Digest, Party, cost};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes of the header.
pub(super) const HEADER: usize = cost::stored::RECORD_HEADER as usize;

const MAGIC: &[u8; 8] = b"CoPrivRc";
const VERSION: u32 = 1;

/// What is known of a record without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordInfo {
    /// The plan that it is for.
    pub plan: Digest,
    /// Whose half it is.
    pub party: Party,
    /// The stores of both halves, the server's and the client's.
    pub stores: [StoreId; 2],
    /// Its number among all records of these two stores.
    pub number: u64,
    /// Its name.
    pub id: RecordId,
    /// What both halves have in common and no other record has: a hash of all of the above but the party, and
    /// of what both parties drew for this record alone.
    pub binding: Digest,
    /// Bytes of the correlations.
    pub payload: u64,
}

impl RecordInfo {
    /// The record that both parties agree on, from what each has drawn for it (server, client).
    pub(crate) fn agree(
        (plan, party): (Digest, Party),
        stores: [StoreId; 2],
        number: u64,
        nonces: [[u8; 16]; 2],
        payload: u64,
    ) -> Self {
        let [server, client] = stores.map(|store| store.bytes());
        let number_bytes = number.to_le_bytes();
        let hash = |name: &str| {
            let parts: [&[u8]; 7] = [
                name.as_bytes(),
                plan.bytes(),
                &server,
                &client,
                &number_bytes,
                &nonces[0],
                &nonces[1],
            ];
            Digest::of(parts)
        };
        let mut id = [0; 16];
        id.copy_from_slice(&hash("CoPriv record id").bytes()[..16]);
        let binding = hash("CoPriv record binding");
        Self { plan, party, stores, number, id: RecordId::from_bytes(id), binding, payload }
    }

    /// The store that it belongs in.
    pub(super) fn home(&self) -> StoreId {
        let [server, client] = self.stores;
        match self.party {
            Party::Server => server,
            Party::Client => client,
        }
    }

    /// What its number counts.
    pub(super) fn series(&self) -> SeriesId {
        series(self.stores)
    }

    /// The header of a file with this payload.
    pub(super) fn header(&self, payload: &[u8]) -> [u8; HEADER] {
        let party = u32::from(self.party == Party::Client);
        let digest = Digest::of([payload]);
        let fields: [&[u8]; 11] = [
            MAGIC,
            &VERSION.to_le_bytes(),
            &party.to_le_bytes(),
            self.plan.bytes(),
            &self.stores[0].bytes(),
            &self.stores[1].bytes(),
            &self.number.to_le_bytes(),
            &self.id.bytes(),
            self.binding.bytes(),
            &self.payload.to_le_bytes(),
            digest.bytes(),
        ];
        let mut header = [0; HEADER];
        let (content, sum) = header.split_at_mut(HEADER - 32);
        let mut rest = &mut *content;
        for field in fields {
            let (now, later) = rest.split_at_mut(field.len());
            now.copy_from_slice(field);
            rest = later;
        }
        sum.copy_from_slice(Digest::of([&*content]).bytes());
        header
    }
}

/// What the records of two stores (the server's, the client's) are numbered under.
pub(super) fn series(stores: [StoreId; 2]) -> SeriesId {
    let [server, client] = stores.map(|store| store.bytes());
    SeriesId::of([b"CoPriv records".as_slice(), &server, &client])
}

/// A record's file whose header is sound.
pub(super) struct RecordFile {
    file: File,
    pub info: RecordInfo,
    digest: Digest,
}

impl RecordFile {
    /// Opens a file and checks its header and size.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut file = File::open(path).map_err(StoreError::io(path))?;
        let len = file.metadata().map_err(StoreError::io(path))?.len();
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let (expected, found) = (format!("at least {HEADER} bytes"), format!("{len}"));
                return Err(StoreError::damaged(path, "size", expected, found));
            }
            read => read.map_err(StoreError::io(path))?,
        }
        let (info, digest) = decode(path, &header)?;
        let expected = info.payload.saturating_add(HEADER as u64);
        if len != expected {
            let (expected, found) = (format!("{expected} bytes"), format!("{len}"));
            return Err(StoreError::damaged(path, "size", expected, found));
        }
        Ok(Self { file, info, digest })
    }

    /// Reads and checks the payload.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn payload(mut self, path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let too_big = || StoreError::io(path)(io::ErrorKind::FileTooLarge.into());
        let len = usize::try_from(self.info.payload).map_err(|_| too_big())?;
        let mut payload = Zeroizing::new(vec![0; len]);
        self.file.read_exact(&mut payload).map_err(StoreError::io(path))?;
        let found = Digest::of([&**payload]);
        if found == self.digest {
            return Ok(payload);
        }
        let (expected, found) = (self.digest.to_string(), found.to_string());
        Err(StoreError::damaged(path, "digest of the content", expected, found))
    }
}

/// What a header says, and the digest of the payload.
fn decode(path: &Path, header: &[u8; HEADER]) -> Result<(RecordInfo, Digest), StoreError> {
    let mut rest = &header[..];
    let magic: [u8; 8] = take(&mut rest);
    if magic != *MAGIC {
        let found = magic.escape_ascii().to_string();
        return Err(StoreError::damaged(path, "first bytes", "those of a record".into(), found));
    }
    let (content, sum) = header.split_at(HEADER - 32);
    if Digest::of([content]).bytes() != sum {
        let what = "digest of the header";
        return Err(StoreError::damaged(
            path,
            what,
            "that of its content".into(),
            "another".into(),
        ));
    }
    let version = u32::from_le_bytes(take(&mut rest));
    if version != VERSION {
        let (expected, found) = (VERSION.to_string(), version.to_string());
        return Err(StoreError::damaged(path, "format version", expected, found));
    }
    let party = match u32::from_le_bytes(take(&mut rest)) {
        0 => Party::Server,
        1 => Party::Client,
        other => {
            let found = format!("role {other}");
            return Err(StoreError::damaged(path, "role", "role 0 or 1".into(), found));
        }
    };
    let info = RecordInfo {
        plan: Digest::from_bytes(take(&mut rest)),
        party,
        stores: [(); 2].map(|()| StoreId::from_bytes(take(&mut rest))),
        number: u64::from_le_bytes(take(&mut rest)),
        id: RecordId::from_bytes(take(&mut rest)),
        binding: Digest::from_bytes(take(&mut rest)),
        payload: u64::from_le_bytes(take(&mut rest)),
    };
    Ok((info, Digest::from_bytes(take(&mut rest))))
}

/// The next bytes of a header, which has all of them.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (now, later) = rest.split_first_chunk().expect("a header is as long as its fields");
    *rest = later;
    *now
}
