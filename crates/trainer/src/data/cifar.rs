//! The binary layouts of CIFAR-10 and CIFAR-100: records of labels and three colour planes.

use super::manifest::hexadecimal;
use super::{DataError, Dataset, Layout};
use sha2::{Digest as _, Sha256};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

/// The records of one file, read one after the other and hashed on the way.
pub(super) struct Records {
    path: PathBuf,
    content: Box<dyn Read>,
    hash: Sha256,
    expected: usize,
    read: usize,
}

impl Records {
    pub(super) fn new(path: PathBuf, content: Box<dyn Read>, expected: usize) -> Self {
        Self { path, content, hash: Sha256::new(), expected, read: 0 }
    }

    /// Fills `record` with the next one; false once all were read.
    pub(super) fn next(&mut self, record: &mut [u8]) -> Result<bool, DataError> {
        if self.read == self.expected {
            return Ok(false);
        }
        self.content.read_exact(record).map_err(|source| {
            let path = self.path.clone();
            if source.kind() == ErrorKind::UnexpectedEof {
                DataError::Short { path, record: self.read, expected: self.expected }
            } else {
                DataError::Io { path, source }
            }
        })?;
        self.hash.update(record);
        self.read += 1;
        Ok(true)
    }

    /// Checks that nothing follows the last record and that the content is the one expected, where that is known.
    pub(super) fn finish(mut self, sha256: &str) -> Result<PathBuf, DataError> {
        let mut after = [0];
        let io = |source| DataError::Io { path: self.path.clone(), source };
        if self.content.read(&mut after).map_err(io)? != 0 {
            return Err(DataError::Long { path: self.path, expected: self.expected });
        }
        let found = hexadecimal(self.hash);
        if !sha256.is_empty() && found != sha256 {
            return Err(DataError::Digest { path: self.path, expected: sha256.into(), found });
        }
        Ok(self.path)
    }
}

/// Appends the images of one file.
pub(super) fn read(
    mut records: Records,
    layout: Layout,
    sha256: &str,
    dataset: &mut Dataset,
) -> Result<(), DataError> {
    let label_bytes = layout.label_bytes();
    let mut record = vec![0; label_bytes + dataset.shape().elements()];
    let classes = dataset.classes().len();
    while records.next(&mut record)? {
        let (labels, pixels) = record.split_at(label_bytes);
        let label = usize::from(labels.last().copied().unwrap_or_default());
        if label >= classes {
            let (path, record) = (records.path, records.read - 1);
            return Err(DataError::Label { path, record, found: label, classes });
        }
        dataset.push(pixels, label);
    }
    records.finish(sha256)?;
    Ok(())
}
