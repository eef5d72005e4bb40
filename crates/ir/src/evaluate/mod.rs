//! Clear-text meaning of the artefacts: the oracle of every later stage.

mod convolution;
mod float;

pub use convolution::reference_convolution;
pub use float::{CheckpointEvaluator, FusedEvaluator};
