//! Clear-text meaning of the artefacts: the oracle of every later stage.

mod convolution;
mod elementwise;
mod float;
mod integer;
mod plan;
mod rounding;

pub use convolution::reference_convolution;
pub use float::{CheckpointEvaluator, FusedEvaluator};
pub use plan::{ForeignWeights, PlanEvaluator, quantise_input};
pub use rounding::Rounding;
