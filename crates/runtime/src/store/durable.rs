//! Files of the owner's eyes alone that are on disk whole, or not at all.

use super::StoreError;
use super::fault::{Place, pass};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// How the names of files end that are not yet whole.
pub(super) const UNFINISHED: &str = "tmp";

/// Makes a folder that only its owner may look into, if it is not there.
pub(super) fn private_folder(path: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(StoreError::io(path))
}

/// Writes a file in one step: beside its place, then, once it is on disk, renamed. The caller holds the
/// folder's lock. What a crash leaves beside its place ends in [`UNFINISHED`].
pub(super) fn write(path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let unfinished = path.with_extension(UNFINISHED);
    let written = || {
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true))
            .open(&unfinished)?;
        for part in parts {
            let (first, second) = part.split_at(part.len() / 2);
            file.write_all(first)?;
            pass(Place::HalfWritten)?;
            file.write_all(second)?;
        }
        pass(Place::Written)?;
        file.sync_all()?;
        pass(Place::Synced)?;
        fs::rename(&unfinished, path)?;
        pass(Place::Renamed)?;
        sync_folder(path)
    };
    written().map_err(StoreError::io(path))
}

/// Deletes a file for good. What was in it may still be read from the disk by whoever has it in hand: modern disks
/// write elsewhere what is overwritten, so that overwriting it first would not help.
pub(super) fn delete(path: &Path) -> Result<(), StoreError> {
    let deleted = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        deleted => deleted.and_then(|()| pass(Place::Deleted)).and_then(|()| sync_folder(path)),
    };
    deleted.map_err(StoreError::io(path))
}

/// Keeps others, processes and threads, out of what the lock file stands for until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let locked = || {
        let file =
            private(OpenOptions::new().write(true).create(true).truncate(false)).open(path)?;
        file.lock()?;
        Ok(file)
    };
    locked().map_err(StoreError::io(path))
}

/// New files are for their owner alone.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Puts on disk that a file in the folder of `path` has another name or is no more.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
