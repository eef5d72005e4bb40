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
//! | 4 | join | `join.rs` | branches that meet are added before they are truncated, where that is cheaper |
//! | 5 | share | `share.rs` | no value is extended twice |
//! | 6 | schedule | `schedule.rs` | messages that can leave together do |
//! | 7 | compare | `compare.rs` | every comparison has its cheapest digits and tables |
//! | 8 | check ranges | `ranges.rs` | no value can leave its ring on inputs like the calibration's |
//! | 9 | quantise | `quantise.rs` | the server's integer weights and bias maps |
//! | 10 | prove | `overflow.rs` | of every value, why it stays in its ring; the plan says so |
//! | 11 | attach | `lattice.rs` | steps that are to have them have lattice correlations, and the plan its hint |
//!
//! Before all else `allocate` chooses each layer's bits, where there is a budget of accuracy or bytes.
//! With mixed precision `narrow.rs` takes the place of passes 1 to 3; the preset `cryptflow2` leaves out 4 to 6, which
//! it does not have. Passes 1 to 7 run for every kind of transfer that the settings allow (`search`), and the cheapest plan
//! goes on. What is cheap the objective says (`pricing.rs`): bytes, or predicted seconds on a network.
//!
//! Costs are those of [`copriv_ir::cost`], which are exact to the byte.

mod allocate;
mod calibration;
mod choose;
mod compare;
mod config;
mod context;
mod draft;
mod error;
mod hold;
mod intervals;
mod join;
mod lattice;
mod lower;
mod narrow;
mod overflow;
mod pricing;
mod quantise;
mod ranges;
mod report;
mod schedule;
mod select;
mod share;

pub use allocate::{Allocation, Progress, Verdict};
pub use calibration::{Calibration, CalibrationSource};
pub use config::{
    ChooserRule, CompileConfig, ConfigError, CorrelationRule, LatticeRule, LoweringRule, Objective,
    Output, Precision, Preset, Rule,
};
pub use error::CompileError;
pub use hold::{Widened, widths_that_hold};
pub use lattice::LatticeSeeds;
pub use overflow::{Assurance, Overflow, OverflowSummary, overflows_of};
pub use report::{Choice, CompileReport, Range};

use context::Context;
use copriv_ir::lattice::Hint;
use copriv_ir::{FusedModel, OtKind, Plan, ServerWeights};
use draft::Draft;
use lattice::{Kind, LatticeLayers};
use pricing::Pricing;

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
    config.check()?;
    config.check_widths(model)?;
    let allocation = allocate::allocate(model, calibration, (config, seeds.as_ref()), observer)?;
    let widths = allocation.as_ref().map(|allocation| allocation.widths.clone());
    let widths = widths.unwrap_or_else(|| config.widths.clone());
    let config = &CompileConfig { widths, ..config.clone() };
    let (draft, lattice) = search(model, calibration, config, seeds.as_ref())?;

    let ranges = ranges::check_ranges(&draft, calibration, config)?;
    let layers = quantise::quantise_layers(model, &draft)?;
    let overflows = overflow::overflows(&draft, &layers, calibration)?;
    let choices = report::choices(&draft, &lattice);
    let steps = [Kind::Hint, Kind::Reply].map(|kind| lattice.steps(&draft, kind));
    let plan = overflow::noted(draft.into_plan(), &overflows);
    let report =
        CompileReport { calibration: calibration.source(), allocation, ranges, overflows, choices };
    let (plan, hint) = lattice::attach(plan, &steps, &layers, config, seeds.as_ref())?;
    let seeds = seeds.filter(|_| hint.is_some());
    let weights = quantise::server_weights(model, &plan, layers, seeds.as_ref())?;
    Ok(Compilation { plan, weights, hint, report })
}

/// The cheapest draft over the kinds of transfer, and the layers that are to have lattice correlations.
///
/// All else is chosen step by step. Kinds are not: what silent transfers cost depends on how many there are.
fn search(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    seeds: Option<&LatticeSeeds>,
) -> Result<(Draft, LatticeLayers), CompileError> {
    let pricing = Pricing::new(config);
    let kinds = || config.ot.allowed(&OtKind::ALL);
    let all = LatticeLayers::everywhere(model);
    let direct = Context { config, pricing, ot: config.ot.or(OtKind::Iknp), lattice: &all };
    let lattice = match config.correlation {
        CorrelationRule::Ot => LatticeLayers::default(),
        _ => lattice::select(model, &draft(model, calibration, &direct)?, &direct, seeds)?,
    };

    let mut best = None;
    for ot in kinds() {
        let context = Context { config, pricing, ot, lattice: &lattice };
        let draft = draft(model, calibration, &context)?;
        for kind in kinds() {
            let draft = compare::compare(&draft, kind, &context)?;
            let price = pricing.plan(&draft, &lattice);
            if best.as_ref().is_none_or(|(least, _)| price < *least) {
                best = Some((price, draft));
            }
        }
    }
    let (_, draft) = best.expect("every setting allows at least one kind");
    Ok((draft, lattice))
}

/// Passes 1 to 6.
fn draft(
    model: &FusedModel,
    calibration: &Calibration,
    context: &Context<'_>,
) -> Result<Draft, CompileError> {
    let draft = match context.config.precision {
        Precision::Uniform => {
            let draft = select::select(model, calibration, context)?;
            choose::choose(lower::lower(draft, context)?, context)?
        }
        Precision::Mixed => narrow::narrow(model, calibration, context)?,
    };
    if context.config.preset == Preset::CrypTFlow2 {
        return Ok(draft);
    }
    let draft = share::share(join::join(draft, calibration, context)?)?;
    Ok(schedule::schedule(draft)?)
}
