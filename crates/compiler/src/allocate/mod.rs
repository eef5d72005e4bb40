//! How many bits each layer's weights and values get: fewer where that saves most bytes for what it does to the logits.
//!
//! 1. **Sensitivity** (`sensitivity.rs`): one layer's bits at a time are taken away, and the plan evaluator says by how much the
//!    logits of some calibration images change.
//! 2. **Path** (`path.rs`): from a plan a little finer than the settings ask for, one bit after the other is taken where the loss
//!    that it adds is smallest for the bytes that it saves. Bytes are exact; losses add up, and a bit less means four times
//!    the noise.
//! 3. **Verdict** (`judge.rs`): the plan evaluator measures what some of the plans on that path do to other calibration images,
//!    and bisection finds the cheapest that keeps the accuracy.

mod judge;
mod path;
mod sensitivity;

use crate::context::Context;
use crate::draft::Draft;
use crate::pricing::Pricing;
use crate::{Calibration, CalibrationSource, CompileConfig, CompileError, Precision, Widths};
use copriv_ir::{FusedModel, FusedOp, LayerId, OtKind};
use judge::Judge;
use path::Path;
use sensitivity::sensitivities;
use serde::Serialize;
use std::collections::BTreeSet;
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
    /// Bytes of an inference, offline and online, where every layer has the bits of the settings.
    pub uniform_bytes: u64,
    /// Bytes of an inference with these widths.
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
        let saved = 100.0 * (1.0 - after / before.max(f64::MIN_POSITIVE));
        let Verdict { drop, error, images, labelled } = verdict;
        let what = if *labelled { "points of accuracy lost" } else { "% of classes changed" };
        write!(
            f,
            "{before:.1} -> {after:.1} MB ({saved:.0} % less than with the same bits everywhere); {drop:.2} +- {error:.2} {what} \
             on {images} calibration images, {evaluations} plans tried"
        )
    }
}

/// One thing whose bits can be changed by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knob {
    /// The weights of a convolution.
    Weights(LayerId),
    /// The values of all layers that share this one's format.
    Activations(LayerId),
}

impl Knob {
    /// The bits in `widths`.
    fn bits(self, widths: &mut Widths) -> &mut u32 {
        match self {
            Self::Weights(layer) => &mut widths.weights[layer.0],
            Self::Activations(layer) => &mut widths.activations[layer.0],
        }
    }

    /// All of a model: `groups` tells for each layer the first that it shares a format with.
    fn all(model: &FusedModel, groups: &[usize]) -> Vec<Self> {
        let layers = model.layers().iter().enumerate();
        let weights = layers.clone().filter(|(_, layer)| matches!(layer.op, FusedOp::Conv(_)));
        let weights = weights.map(|(id, _)| Self::Weights(LayerId(id)));
        // The logits' format follows from those of the last convolution's factors, a mean's from its sum.
        let last = model.layers().len() - 1;
        let values = layers.filter(|(id, layer)| {
            groups[*id] == *id && *id != last && layer.op != FusedOp::GlobalAveragePool
        });
        weights.chain(values.map(|(id, _)| Self::Activations(LayerId(id)))).collect()
    }
}

/// The widths that the settings' budgets ask for; none where they set no budget.
///
/// # Errors
/// [`CompileError::Budget`] where no widths keep to the budgets, and where there are no images to judge by.
pub(crate) fn allocate(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    observer: &mut dyn FnMut(Progress),
) -> Result<Option<Allocation>, CompileError> {
    let (max_drop, max_bytes) = (config.max_drop, config.max_bytes);
    if max_drop.is_none() && max_bytes.is_none() {
        return Ok(None);
    }
    check(calibration, config)?;
    let layers = model.layers().len();
    let uniform = Widths::uniform(layers, config.weight_bits, config.activation_bits);
    let finest = Widths::uniform(
        layers,
        (config.weight_bits + FINER).min(24),
        (config.activation_bits + FINER).min(24),
    );
    let groups = crate::narrow::groups(model);
    let knobs = Knob::all(model, &groups);
    let probed = PROBED_IMAGES.min(calibration.images().len() / 2);
    let search = Search { model, calibration, config };
    let losses = sensitivities(&search, (&knobs, &finest), probed, observer)?;
    let path = Path::new(&search, (&knobs, &losses), finest, observer)?;
    let mut judge = Judge::new(&search, probed..calibration.images().len());
    let place = choose(&path, &mut judge, (max_drop, max_bytes), observer)?;
    let (widths, _) = path.place(place);
    let verdict = judge.verdict(&widths)?;
    Ok(Some(Allocation {
        uniform_bytes: search.bytes(&uniform)?,
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
    path: &Path,
    judge: &mut Judge<'_>,
    (max_drop, max_bytes): (Option<f64>, Option<u64>),
    observer: &mut dyn FnMut(Progress),
) -> Result<usize, CompileError> {
    let cheap = match max_bytes {
        None => 0,
        Some(most) => path.first_within(most).ok_or_else(|| CompileError::Budget {
            fault: format!("no widths bring an inference below {} bytes", path.least_bytes()),
            remedy: format!("raise max_bytes from {most}"),
        })?,
    };
    let Some(most) = max_drop else { return Ok(cheap) };
    let mut keeps = |place: usize, done: usize| -> Result<bool, CompileError> {
        observer(Progress { stage: "judge", done, of: EVALUATIONS });
        Ok(judge.verdict(&path.place(place).0)?.is_within(most))
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
}

impl Search<'_> {
    /// The settings with these widths.
    fn with(&self, widths: &Widths) -> CompileConfig {
        CompileConfig { widths: Some(widths.clone()), ..self.config.clone() }
    }

    /// The draft with these widths, by one kind of transfer: what is chosen in the end is no dearer.
    fn draft(&self, widths: &Widths) -> Result<Draft, CompileError> {
        let (config, lattice) = (&self.with(widths), &BTreeSet::new());
        let (pricing, ot) = (Pricing::new(config), config.ot.or(OtKind::SoftSpoken4));
        let context = Context { config, pricing, ot, lattice };
        crate::narrow::narrow(self.model, self.calibration, &context)
    }

    /// Bytes of an inference, offline and online.
    fn bytes(&self, widths: &Widths) -> Result<u64, CompileError> {
        let draft = self.draft(widths)?;
        let steps = draft.plan().steps().iter();
        Ok(steps
            .map(|step| {
                let (offline, online) = copriv_ir::cost::step_cost(draft.plan(), step);
                offline.traffic.bytes() + online.bytes()
            })
            .sum())
    }

    /// The logits of some calibration images with these widths.
    fn logits(
        &self,
        widths: &Widths,
        images: std::ops::Range<usize>,
    ) -> Result<Vec<Vec<f64>>, CompileError> {
        let draft = self.draft(widths)?;
        let weights = crate::quantise::quantise_layers(self.model, &draft)?;
        let plan = draft.into_plan();
        let fault = |fault: String| CompileError::Weights { fault };
        let provenance = plan.provenance().clone();
        let weights = copriv_ir::ServerWeights::new(&plan, weights, provenance).map_err(fault)?;
        let evaluator = copriv_ir::evaluate::PlanEvaluator::new(&plan, &weights)
            .map_err(|foreign| fault(foreign.to_string()))?;
        Ok(evaluator.batch_logits(&self.calibration.images()[images]))
    }
}
