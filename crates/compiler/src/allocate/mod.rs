//! How many bits each layer's weights and values get: fewer where that saves most bytes for what it does to the logits.
//!
//! 1. **Sensitivity** (`sensitivity.rs`): one layer's bits at a time are taken away, and the plan evaluator says by how much the
//!    logits of some calibration images change.
//! 2. **Path** (`path.rs`): from a plan a little finer than the settings ask for, one bit after the other is taken where the loss
//!    that it adds is smallest for the bytes that it saves (or for the time, as the objective has it). Costs are exact; losses add up, and a bit less means four times
//!    the noise.
//! 3. **Verdict** (`judge.rs`): the plan evaluator measures what some of the plans on that path do to other calibration images,
//!    and bisection finds the cheapest that keeps the accuracy.

mod judge;
mod path;
mod sensitivity;

use crate::context::Context;
use crate::lattice::LatticeLayers;
use crate::pricing::Pricing;
use crate::{
    Calibration, CalibrationSource, CompileConfig, CompileError, LatticeSeeds, Objective, Precision,
};
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{
    Correlation, FusedLayer, FusedModel, FusedOp, LayerId, OtKind, ServerWeights, Widths,
};
use judge::Judge;
use path::Path;
use sensitivity::sensitivities;
use serde::Serialize;
use std::fmt;

/// Bits that the search starts with above those of the settings.
const FINER: u32 = 2;
/// Images that sensitivity is measured on at most: a part of all, the rest decides.
const PROBED_IMAGES: usize = 32;
/// Fewest images for a search at all.
const FEWEST_IMAGES: usize = 16;
/// Plans that are measured at most.
const EVALUATIONS: usize = 10;

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// How much of it is done.
    pub done: usize,
    /// Of how much.
    pub of: usize,
}

/// What a search for widths found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Allocation {
    /// The widths.
    pub widths: Widths,
    /// Bytes of an inference, with its part of the session's setup and the hint, where every layer has the bits of the
    /// settings.
    pub uniform_bytes: u64,
    /// The same with these widths.
    pub bytes: u64,
    /// What is lost against floating point.
    pub verdict: Verdict,
    /// Plans that were measured.
    pub evaluations: usize,
}

/// What a plan loses against floating point on calibration images that the search did not use otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Points of accuracy lost by the images' labels; where there are none, images in a hundred that change their class.
    pub drop: f64,
    /// Standard error of `drop`.
    pub error: f64,
    /// How many images.
    pub images: usize,
    /// Whether they had labels.
    pub labelled: bool,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uniform_bytes, bytes, verdict, evaluations, .. } = self;
        let (before, after) = (*uniform_bytes as f64 / 1e6, *bytes as f64 / 1e6);
        let change = 100.0 * (after / before.max(f64::MIN_POSITIVE) - 1.0);
        let Verdict { drop, error, images, labelled } = verdict;
        let what = if *labelled { "points of accuracy lost" } else { "% of classes changed" };
        write!(
            f,
            "{after:.1} MB ({change:+.0} % against the same bits everywhere); {drop:.2} +- {error:.2} {what} \
             on {images} calibration images, {evaluations} plans tried"
        )
    }
}

/// One thing whose bits can be changed by themselves.
#[derive(Clone, Copy, Debug)]
struct Knob<'a> {
    /// Of a convolution, or the first of those that share a format.
    layer: LayerId,
    /// Its name.
    name: &'a str,
    of: Of,
}

/// Whose bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The weights of a convolution.
    Weights,
    /// The values of all layers that share this one's format.
    Activations,
}

impl<'a> Knob<'a> {
    /// The bits in `widths`.
    fn bits(self, widths: &Widths) -> u32 {
        match self.of {
            Of::Weights => widths.weight(self.name),
            Of::Activations => widths.activation(self.name),
        }
    }

    /// The same widths but for its bits.
    fn with(self, bits: u32, mut widths: Widths) -> Widths {
        let layers = widths.layers.get_or_insert_default();
        let own = match self.of {
            Of::Weights => &mut layers.weights,
            Of::Activations => &mut layers.activations,
        };
        own.insert(self.name.to_owned(), bits);
        widths
    }

    /// All of a model: `groups` tells for each layer the first that it shares a format with.
    fn all(model: &'a FusedModel, groups: &[usize]) -> Vec<Self> {
        let layers = model.layers().iter().enumerate();
        let weights = layers.clone().filter(|(_, layer)| matches!(layer.op, FusedOp::Conv(_)));
        let knob = |of| {
            move |(id, layer): (usize, &'a FusedLayer)| Self {
                layer: LayerId(id),
                name: &layer.name,
                of,
            }
        };
        let weights = weights.map(knob(Of::Weights));
        // The logits' format follows from those of the last convolution's factors, a mean's from its sum.
        let last = model.layers().len() - 1;
        let values = layers.filter(|(id, layer)| {
            groups[*id] == *id && *id != last && layer.op != FusedOp::GlobalAveragePool
        });
        weights.chain(values.map(knob(Of::Activations))).collect()
    }
}

/// The widths that the settings' budgets ask for; none where they set no budget.
///
/// # Errors
/// [`CompileError::Budget`] where no widths keep to the budgets, and where there are no images to judge by.
pub(crate) fn allocate(
    model: &FusedModel,
    calibration: &Calibration,
    (config, seeds): (&CompileConfig, Option<&LatticeSeeds>),
    observer: &mut dyn FnMut(Progress),
) -> Result<Option<Allocation>, CompileError> {
    let (max_drop, max_bytes) = (config.max_drop, config.max_bytes);
    if max_drop.is_none() && max_bytes.is_none() {
        return Ok(None);
    }
    check(calibration, config)?;
    let formats = crate::narrow::format_groups(model);
    let knobs = Knob::all(model, formats.groups());
    let finer = |widths: Widths, knob: &Knob<'_>| {
        let bits = (knob.bits(&widths) + FINER).min(*Widths::RANGE.end());
        knob.with(bits, widths)
    };
    let finest = knobs.iter().fold(config.widths.clone(), finer);
    let probed = PROBED_IMAGES.min(calibration.images().len() / 2);
    let search = Search::new((model, calibration), (config, seeds), &finest)?;
    let losses = sensitivities(&search, (&knobs, &finest), probed, observer)?;
    let path = Path::new(&search, (&knobs, &losses), finest, observer)?;
    let mut judge = Judge::new(&search, probed..calibration.images().len());
    let place = choose((&search, &path), &mut judge, (max_drop, max_bytes), observer)?;
    let widths = path.place(place);
    let verdict = judge.verdict(&widths)?;
    Ok(Some(Allocation {
        uniform_bytes: search.bytes(&config.widths)?,
        bytes: search.bytes(&widths)?,
        widths,
        verdict,
        evaluations: judge.evaluations(),
    }))
}

fn check(calibration: &Calibration, config: &CompileConfig) -> Result<(), CompileError> {
    let budget =
        |fault: String, remedy: &str| CompileError::Budget { fault, remedy: remedy.into() };
    if config.precision != Precision::Mixed {
        let fault = "max_drop and max_bytes choose bits for each layer".to_owned();
        return Err(budget(fault, "set precision=mixed, as the preset fast does"));
    }
    match calibration.source() {
        CalibrationSource::Noise { .. } => {
            let fault = "accuracy cannot be judged by noise".to_owned();
            Err(budget(fault, "calibrate with images"))
        }
        CalibrationSource::Images { count } if count < FEWEST_IMAGES => {
            let fault = format!("{count} calibration images are too few to judge accuracy by");
            Err(budget(fault, "calibrate with a few hundred"))
        }
        CalibrationSource::Images { .. } => Ok(()),
    }
}

/// The place on the path that keeps to the budgets: the cheapest that keeps the accuracy, or the finest that is cheap enough.
fn choose(
    (search, path): (&Search<'_>, &Path<'_>),
    judge: &mut Judge<'_>,
    (max_drop, max_bytes): (Option<f64>, Option<u64>),
    observer: &mut dyn FnMut(Progress),
) -> Result<usize, CompileError> {
    let cheap = max_bytes.map_or(Ok(0), |most| first_within(search, path, most))?;
    let Some(most) = max_drop else { return Ok(cheap) };
    let mut keeps = |place: usize, done: usize| -> Result<bool, CompileError> {
        observer(Progress { stage: "judge", done, of: EVALUATIONS });
        Ok(judge.verdict(&path.place(place))?.is_within(most))
    };
    if !keeps(cheap, 0)? {
        let fault = match max_bytes {
            None => format!("even the finest widths lose more than {most} points"),
            Some(bytes) => format!("no widths within {bytes} bytes lose at most {most} points"),
        };
        let remedy =
            "raise max_drop, max_bytes, weight_bits or activation_bits, or fuse with --equalise";
        return Err(CompileError::Budget { fault, remedy: remedy.into() });
    }
    // Everything up to `good` is taken to keep the accuracy, `bad` not to.
    let (mut good, mut bad) = (cheap, path.len());
    for evaluation in 1..EVALUATIONS {
        let middle = (good + bad) / 2;
        if middle == good {
            break;
        }
        if keeps(middle, evaluation)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    observer(Progress { stage: "judge", done: EVALUATIONS, of: EVALUATIONS });
    Ok(good)
}

/// The finest place of at most so many bytes.
fn first_within(search: &Search<'_>, path: &Path<'_>, most: u64) -> Result<usize, CompileError> {
    let is_within = |place: usize| Ok::<_, CompileError>(search.bytes(&path.place(place))? <= most);
    let last = path.len() - 1;
    if !is_within(last)? {
        let least = search.bytes(&path.place(last))?;
        return Err(CompileError::Budget {
            fault: format!("no widths bring an inference below {least} bytes"),
            remedy: format!("raise max_bytes from {most}"),
        });
    }
    // `over` and all before it are taken to be too dear, `within` is not.
    let (mut over, mut within) = (0, last);
    if is_within(0)? {
        return Ok(0);
    }
    while over + 1 < within {
        let middle = (over + within) / 2;
        if is_within(middle)? { within = middle } else { over = middle }
    }
    Ok(within)
}

impl Verdict {
    /// Whether at most `most` is lost, with a standard error to spare.
    fn is_within(&self, most: f64) -> bool {
        self.drop + self.error <= most
    }
}

/// What is searched for.
struct Search<'a> {
    model: &'a FusedModel,
    calibration: &'a Calibration,
    config: &'a CompileConfig,
    seeds: Option<&'a LatticeSeeds>,
    /// What the finest plan takes: it decides for all while bits are weighed.
    ot: OtKind,
    lattice: LatticeLayers,
}

impl<'a> Search<'a> {
    fn new(
        (model, calibration): (&'a FusedModel, &'a Calibration),
        (config, seeds): (&'a CompileConfig, Option<&'a LatticeSeeds>),
        finest: &Widths,
    ) -> Result<Self, CompileError> {
        let (ot, lattice) = (config.ot.or(OtKind::SoftSpoken4), LatticeLayers::default());
        let search = Self { model, calibration, config, seeds, ot, lattice };
        let (draft, lattice) = crate::search(model, calibration, &search.with(finest), seeds)?;
        let kind =
            draft.linear_steps().into_iter().find_map(|(id, linear, _)| match linear.correlation {
                Correlation::Ot { kind, .. } if !lattice.contains(&draft.layer(id)) => Some(kind),
                _ => None,
            });
        Ok(Self { ot: kind.unwrap_or(search.ot), lattice, ..search })
    }

    /// The settings with these widths.
    fn with(&self, widths: &Widths) -> CompileConfig {
        CompileConfig { widths: widths.clone(), ..self.config.clone() }
    }

    fn context<'b>(&'b self, config: &'b CompileConfig) -> Context<'b> {
        Context { config, pricing: Pricing::new(config), ot: self.ot, lattice: &self.lattice }
    }

    /// What an inference with these widths costs under the objective, step by step.
    fn price(&self, widths: &Widths) -> Result<u64, CompileError> {
        let config = self.with(widths);
        let context = self.context(&config);
        let draft = crate::narrow::narrow(self.model, self.calibration, &context)?;
        Ok(context.pricing.steps(&draft, &self.lattice))
    }

    /// Bytes of an inference with these widths, everything chosen anew.
    fn bytes(&self, widths: &Widths) -> Result<u64, CompileError> {
        let config = self.with(widths);
        let (draft, lattice) = crate::search(self.model, self.calibration, &config, self.seeds)?;
        let config = CompileConfig { objective: Objective::Bytes, ..config };
        let pricing = Pricing::new(&config);
        let ahead = (&pricing, config.inferences);
        let ahead = crate::lattice::price(self.model, &draft, &lattice, ahead)?;
        Ok(pricing.plan(&draft, &lattice).0 + ahead.0)
    }

    /// The logits of some calibration images with these widths.
    fn logits(
        &self,
        widths: &Widths,
        images: std::ops::Range<usize>,
    ) -> Result<Vec<Vec<f64>>, CompileError> {
        let config = self.with(widths);
        let draft = crate::draft(self.model, self.calibration, &self.context(&config))?;
        let weights = crate::quantise::quantise_layers(self.model, &draft)?;
        let plan = draft.into_plan();
        let fault = |fault: String| CompileError::Weights { fault };
        let provenance = plan.provenance().clone();
        let weights = ServerWeights::new(&plan, weights, provenance).map_err(fault)?;
        let evaluator =
            PlanEvaluator::new(&plan, &weights).map_err(|foreign| fault(foreign.to_string()))?;
        Ok(evaluator.batch_logits(&self.calibration.images()[images]))
    }
}
