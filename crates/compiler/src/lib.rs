//! From a fused model to a private-inference plan.
//!
//! [`compile`] is a pure function: the same model, calibration and settings give the same bytes. The plan
//! itself is the only intermediate form. Every pass takes a valid plan to a valid plan:
//!
//! | pass | verb | lives in | after it |
//! |---|---|---|---|
//! | 1 | select | `select.rs` | every layer is steps at their scales; direct lowerings, the client chooses |
//! | 2 | lower | `lower.rs` | every convolution has its cheapest lowering, truncations follow |
//! | 3 | choose | `choose.rs` | every linear step knows whose bits are the OT choices |
//! | 4 | check ranges | `ranges.rs` | no value can leave its ring on inputs like the calibration's |
//! | 5 | quantise | `quantise.rs` | the server's integer weights and bias maps |
//! | 6 | prove | `overflow.rs` | of every value, why it stays in its ring; the plan says so |
//! | 7 | attach | `lattice.rs` | steps that are to have them have lattice correlations, and the plan its hint |
//!
//! Before all else `allocate` chooses each layer's bits, where there is a budget of accuracy or bytes.
//! With mixed precision `narrow.rs` takes the place of passes 1 to 3.
//!
//! Costs are those of [`copriv_ir::cost`], which are exact to the byte.

mod allocate;
mod calibration;
mod choose;
mod config;
mod draft;
mod error;
mod intervals;
mod lattice;
mod lower;
mod narrow;
mod overflow;
mod quantise;
mod ranges;
mod report;
mod select;
mod widths;

pub use allocate::{Allocation, Progress, Verdict};
pub use calibration::{Calibration, CalibrationSource};
pub use config::{
    ChooserRule, CompileConfig, ConfigError, CorrelationRule, LoweringRule, Objective, Output,
    Precision, Preset,
};
pub use error::CompileError;
pub use lattice::LatticeSeeds;
pub use overflow::{Assurance, Overflow, OverflowSummary, overflows_of};
pub use report::{Choice, CompileReport, Range};
pub use widths::Widths;

use copriv_ir::lattice::Hint;
use copriv_ir::{FusedModel, Plan, ServerWeights};

/// What [`compile`] makes.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// What both parties do. Public.
    pub plan: Plan,
    /// The server's integer weights. Secret.
    pub weights: ServerWeights,
    /// What clients download once, where the plan has lattice correlations. Public.
    pub hint: Option<Hint>,
    /// What was weighed and how much room is left.
    pub report: CompileReport,
}

/// Compiles `model` into a plan and the server's weights for it, without lattice correlations.
///
/// # Errors
/// [`CompileError`] names the layer, what it would need, and the remedy.
pub fn compile(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
) -> Result<Compilation, CompileError> {
    compile_with_seeds(model, calibration, config, None)
}

/// As [`compile`], with seeds that lattice correlations may use: they are moved in, for they are to be used once.
///
/// # Errors
/// As [`compile`].
pub fn compile_with_seeds(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    seeds: Option<LatticeSeeds>,
) -> Result<Compilation, CompileError> {
    compile_observed(model, calibration, config, seeds, &mut |_| {})
}

/// As [`compile_with_seeds`], saying how far it has come where that takes long.
///
/// # Errors
/// As [`compile`].
pub fn compile_observed(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    seeds: Option<LatticeSeeds>,
    observer: &mut dyn FnMut(Progress),
) -> Result<Compilation, CompileError> {
    calibration.check_model(model)?;
    let allocation = allocate::allocate(model, calibration, config, observer)?;
    let widths = allocation.as_ref().map(|allocation| allocation.widths.clone());
    let config = &CompileConfig { widths: widths.or(config.widths.clone()), ..config.clone() };
    let (draft, lattice) = match config.precision {
        Precision::Uniform => {
            let draft = select::select(model, calibration, config)?;
            let lattice = lattice::select(model, &draft, config, seeds.as_ref())?;
            let draft = lower::lower(draft, config, &lattice)?;
            (choose::choose(draft, config, &lattice)?, lattice)
        }
        Precision::Mixed => {
            let draft = narrow::narrow(model, calibration, config)?;
            let lattice = lattice::select(model, &draft, config, seeds.as_ref())?;
            (draft, lattice)
        }
    };

    let ranges = ranges::check_ranges(&draft, calibration, config)?;
    let layers = quantise::quantise_layers(model, &draft)?;
    let overflows = overflow::overflows(&draft, &layers, calibration)?;
    let choices = report::choices(&draft, &lattice);
    let plan = overflow::noted(draft.into_plan(), &overflows);
    let report =
        CompileReport { calibration: calibration.source(), allocation, ranges, overflows, choices };
    let (plan, hint) = lattice::attach(plan, &lattice, &layers, config, seeds.as_ref())?;
    let seeds = seeds.filter(|_| hint.is_some());
    let weights = quantise::server_weights(model, &plan, layers, seeds.as_ref())?;
    Ok(Compilation { plan, weights, hint, report })
}
