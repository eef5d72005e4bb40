//! Prepared inferences that wait on disk.

mod field;

pub use field::{RecordReader, RecordTooShort, RecordWriter, Stored};
