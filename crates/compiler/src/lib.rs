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
//!
//! Costs are those of [`copriv_ir::cost`], which are exact to the byte.

mod calibration;
mod choose;
mod config;
mod draft;
mod error;
mod lower;
mod quantise;
mod ranges;
mod report;
mod select;

pub use calibration::{Calibration, CalibrationSource};
pub use config::{
    ChooserRule, CompileConfig, ConfigError, CorrelationRule, LoweringRule, Objective, Preset,
};
pub use error::CompileError;
pub use report::{Choice, CompileReport, Range};

use copriv_ir::{FusedModel, Plan, ServerWeights};

/// What [`compile`] makes.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// What both parties do. Public.
    pub plan: Plan,
    /// The server's integer weights. Secret.
    pub weights: ServerWeights,
    /// What was weighed and how much room is left.
    pub report: CompileReport,
}

/// Compiles `model` into a plan and the server's weights for it.
///
/// # Errors
/// [`CompileError`] names the layer, what it would need, and the remedy.
pub fn compile(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
) -> Result<Compilation, CompileError> {
    calibration.check_model(model)?;
    let draft = select::select(model, calibration, config)?;
    let draft = lower::lower(draft, config)?;
    let draft = choose::choose(draft, config)?;

    let ranges = ranges::check_ranges(&draft, calibration, config)?;
    let weights = quantise::quantise(model, &draft)?;
    let choices = report::choices(&draft);
    let report = CompileReport { calibration: calibration.source(), ranges, choices };
    Ok(Compilation { plan: draft.into_plan(), weights, report })
}
