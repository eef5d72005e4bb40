//! Why weights could not be imported: each tensor at fault, by name.

use super::Naming;
use crate::ArtefactError;
use std::fmt;
use std::path::PathBuf;

/// Why weights could not be imported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ImportError {
    #[error(transparent)]
    File(#[from] ArtefactError),
    #[error("{} is no {format} file: {reason}", path.display())]
    Format { path: PathBuf, format: &'static str, reason: String },
    #[error(
        "{} does not fit {network} under the names of {naming}, prefix {prefix:?}: {fitting} of {expected} tensors fit{}",
        path.display(),
        listed(faults)
    )]
    Tensors {
        path: PathBuf,
        network: String,
        naming: Naming,
        prefix: String,
        fitting: usize,
        expected: usize,
        faults: Vec<TensorFault>,
    },
    #[error("{naming} has no names for {network}; known are {}", known.join(", "))]
    Naming { naming: Naming, network: String, known: Vec<&'static str> },
    #[error("{}: {fault}", path.display())]
    Unusable { path: PathBuf, fault: String },
}

/// A tensor that keeps a file from being imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFault {
    /// Its name in the file, or the name that it should have there.
    pub name: String,
    /// The network's parameter that it is mapped to; `None` for what the network does not know.
    pub parameter: Option<String>,
    /// The shape that the network expects, or that the file has for what the network does not know.
    pub shape: Vec<usize>,
    /// What is wrong.
    pub kind: TensorFaultKind,
}

/// What is wrong with a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorFaultKind {
    /// The network has it, the file does not.
    Missing,
    /// The file has it, the network does not.
    Unexpected,
    /// It has another shape.
    Shape {
        /// That of the file.
        found: Vec<usize>,
    },
    /// Its elements are of a type that weights do not have.
    ElementType {
        /// That of the file.
        found: String,
    },
    /// A value is infinite or no number, or beyond single precision.
    NotFinite,
    /// A variance is below zero.
    NegativeVariance,
    /// The file states it, but its content cannot be read.
    Unreadable {
        /// The reader's words.
        reason: String,
    },
}

impl fmt::Display for TensorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, parameter, shape, kind } = self;
        let name = match parameter {
            Some(parameter) if parameter != name => format!("{name} (for {parameter})"),
            _ => name.clone(),
        };
        match kind {
            TensorFaultKind::Missing => write!(f, "missing: {name} {shape:?}"),
            TensorFaultKind::Unexpected => write!(f, "unexpected: {name} {shape:?}"),
            TensorFaultKind::Shape { found } => {
                write!(f, "wrong shape: {name}: expected {shape:?}, found {found:?}")
            }
            TensorFaultKind::ElementType { found } => {
                write!(f, "wrong type: {name}: expected F64, F32, F16 or BF16, found {found}")
            }
            TensorFaultKind::NotFinite => write!(f, "not finite: {name}"),
            TensorFaultKind::NegativeVariance => write!(f, "negative variance: {name}"),
            TensorFaultKind::Unreadable { reason } => write!(f, "unreadable: {name}: {reason}"),
        }
    }
}

/// One fault a line.
fn listed(faults: &[TensorFault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
