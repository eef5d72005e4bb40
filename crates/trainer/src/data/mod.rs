//! Data sets: manifests, the readers of their layouts, and augmentation.
//!
//! Nothing here knows how networks are trained: evaluation and calibration read data the same way.

mod augment;
mod cifar;
mod dataset;
mod image_folder;
mod images;
mod manifest;
mod picture;
mod resize;

pub use augment::{Augmentation, Mixing, RandAugment, ResizedCrop, SampleKey, epoch_order};
pub use dataset::{Dataset, Split};
pub use image_folder::ImageFolder;
pub use images::{Images, class_labels};
pub use manifest::{Archive, CheckedFile, DataFile, Layout, Manifest};
pub use picture::{fit, read_picture};
pub use resize::resize;

use std::path::PathBuf;

/// Why data could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DataError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is no data set manifest: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    #[error(
        "no {split} images of {dataset}: {} is missing (as is {}.zst)",
        path.display(),
        path.display()
    )]
    Missing { dataset: String, split: Split, path: PathBuf },
    #[error("no {split} images of {dataset}: {} holds no folder of a class with images", path.display())]
    NoImages { dataset: String, split: Split, path: PathBuf },
    #[error("{}: {dataset} has no class with a folder of this name", path.display())]
    UnknownFolder { dataset: String, path: PathBuf },
    #[error("{} is no JPEG or PNG image: {reason}", path.display())]
    Picture { path: PathBuf, reason: String },
    #[error("{dataset} has no {split} split")]
    NoSplit { dataset: String, split: Split },
    #[error("{} ends within record {record} of {expected}", path.display())]
    Short { path: PathBuf, record: usize, expected: usize },
    #[error("{} goes on after its {expected} records", path.display())]
    Long { path: PathBuf, expected: usize },
    #[error(
        "{}: record {record} has label {found}, but there are {classes} classes",
        path.display()
    )]
    Label { path: PathBuf, record: usize, found: usize, classes: usize },
    #[error("{}: the content has SHA-256 {found}, not {expected}", path.display())]
    Digest { path: PathBuf, expected: String, found: String },
    #[error("{dataset} has no class number {found}; its {classes} classes count from 0")]
    Class { dataset: String, found: usize, classes: usize },
    #[error(
        "the class {class} of {dataset} is none of the network's {labels} labels: it was trained for another data set"
    )]
    UnknownClass { dataset: String, class: String, labels: usize },
}
