//! The vocabulary of CoPriv: what the stages say to each other, and the arithmetic it means.
//!
//! Pure data and arithmetic: nothing here prints, opens a socket, trains, or draws randomness from
//! the operating system. Every stage of the toolchain imports this crate and no other of ours:
//!
//! | stage | reads | writes |
//! |---|---|---|
//! | `trainer` | [`Network`] | [`Checkpoint`] |
//! | `reparam` | [`Checkpoint`] | [`FusedModel`] |
//! | `compiler` | [`FusedModel`] | [`Plan`], [`ServerWeights`] |
//! | `runtime` | [`Plan`], [`ServerWeights`] | [`CommTable`] |
//!
//! The clear-text meaning of each artefact is in [`evaluate`]; what a plan will cost is in [`cost`].

pub mod cost;
pub mod evaluate;
pub mod fixed_point;
pub mod lattice;
pub mod lowering;
pub mod packing;

mod activation_mask;
mod artefact;
mod checkpoint;
mod comm;
mod conv;
mod digest;
mod export;
mod fused_model;
mod import;
mod network;
mod network_profile;
mod plan;
mod pool;
mod provenance;
mod ring;
mod server_weights;
mod shape;
mod tensor;
mod weight_scales;
mod widths;
pub mod winograd;

pub use activation_mask::{Activated, ActivationMask, Granularity, MaskFault};
pub use artefact::{ArtefactError, ArtefactKind};
pub use checkpoint::{BatchNormInit, Checkpoint, Gates};
pub use comm::{CommTable, Direction, Party, Phase, Traffic};
pub use conv::{BorderClasses, ConvGeometry};
pub use digest::Digest;
pub use export::{ExportError, ExportFormat, export_checkpoint, export_fused};
pub use fused_model::{FusedLayer, FusedModel, FusedOp, LayerId};
pub use import::{
    ElementType, ForeignTensor, ForeignTensors, ImportError, Imported, Naming, TensorFault,
    TensorFaultKind, import_safetensors, import_tensors, sha256_of_file,
};
pub use network::{
    Activation, Architecture, BlockId, BlockInfo, Condition, GateId, Graph, InputSpec, Network,
    NetworkError, Node, NodeId, Op,
};
pub use network_profile::{ComputeRates, Forecast, NetworkProfile, ProfileError};
pub use plan::{
    Answer, Comparison, Correlation, ExtendMethod, Fact, LatticePlan, LatticeSection, LinearStep,
    Lowering, MatMulShape, OtKind, Plan, PlanError, ReplyPlan, ReplySection, Sign, Step, StepId,
    StepOp, TruncateMethod, ValueId, Visibility, WinogradTile, class_digits, class_of_digits,
};
pub use pool::{Place, PoolWindow, SidePool, next_round};
pub use provenance::Provenance;
pub use ring::{Ring, RingError};
pub use server_weights::{LinearWeights, ServerWeights};
pub use shape::Shape;
pub use tensor::Tensor;
pub use weight_scales::{WeightNoise, WeightScales};
pub use widths::{LayerWidths, Widths};
