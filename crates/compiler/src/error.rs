//! Why a model cannot be compiled.

use crate::ConfigError;
use copriv_ir::lattice::LatticeError;
use copriv_ir::{Digest, PlanError, Ring, Shape};

/// A model that has no plan under the settings. Layers are named as in the fused model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompileError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("layer {layer}: {operation} has no step in plans; {remedy}")]
    Unsupported { layer: String, operation: String, remedy: String },
    #[error(
        "objective=total is a latency: name the network with --network lan|wan|mobile|FILE.toml"
    )]
    NoNetwork,
    #[error("calibration needs at least one image")]
    NoCalibrationImages,
    #[error("calibration image {number} has {found} values, not {expected}", expected = .expected.elements())]
    CalibrationImage { number: usize, expected: Shape, found: usize },
    #[error("{expected} calibration images have {found} labels")]
    CalibrationLabels { expected: usize, found: usize },
    #[error("layer {layer} gives values that are not finite in calibration: look at its weights")]
    NotFinite { layer: String },
    #[error("the calibration belongs to model {}, not to {}", found.short(), expected.short())]
    ForeignCalibration { expected: Digest, found: Digest },
    #[error(
        "layer {layer} needs {needed} bits ({largest:.4} seen in calibration, head room {head_room}, \
         {scale} fractional bits), but the ring has {}; raise ring, or lower scale, weight_scale or head_room",
        ring.bits()
    )]
    Overflow { layer: String, needed: u32, ring: Ring, largest: f32, head_room: u32, scale: u32 },
    #[error(
        "layer {layer} needs a ring of {needed} bits ({largest:.4} seen in calibration, head room {head_room}); no ring has more \
         than 64: lower activation_bits, weight_bits or head_room"
    )]
    TooWide { layer: String, needed: u32, largest: f32, head_room: u32 },
    #[error(
        "layer {layer} has a weight of {largest:.4}, which needs {needed} bits at {weight_scale} \
         fractional bits under its lowering; there are {available}: lower weight_scale or raise ring"
    )]
    WeightOverflow { layer: String, largest: f64, needed: u32, available: u32, weight_scale: u32 },
    #[error("lattice correlations need fresh seeds: compile with `compile_with_seeds`")]
    NoLatticeSeeds,
    #[error("layer {layer}: {fault}")]
    Lattice { layer: String, fault: LatticeError },
    #[error(
        "layer {layer} has a weight of {largest:.4}, of which the integer part alone takes {needed} bits; there are \
         {available}: raise weight_bits, or fuse with --equalise"
    )]
    CoarseWeights { layer: String, largest: f64, needed: u32, available: u32 },
    #[error("{fault}: {remedy}")]
    Widths { fault: String, remedy: String },
    #[error("{fault}: {remedy}")]
    Budget { fault: String, remedy: String },
    #[error("the compiler made a plan that does not hold: {0}")]
    Plan(#[from] PlanError),
    #[error("the compiler made weights that do not fit the plan: {fault}")]
    Weights { fault: String },
}
