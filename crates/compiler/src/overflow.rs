//! Can a value leave its ring?
//!
//! Three answers, in this order:
//!
//! - **Proven**: interval analysis from the range of the pixels through the server's integer weights shows that no image
//!   makes this value the first to leave its ring (`intervals.rs`).
//! - **Estimated**: a probability for one more image, from the plan's own integers on the calibration images. Let `z_i` be how
//!   much of its range the value fills at most on image `i`; more than 1 is an overflow. If images are drawn
//!   independently from one distribution, the next one exceeds the `(k+1)`-th largest `u` of `n` with probability
//!   `(k + 1) / (n + 1)`, whatever the distribution. How far it exceeds `u` needs an assumption:
//!   **the tail of `z` beyond `u` has a hazard rate that does not fall** (as normal, exponential and Gumbel distributions have; a
//!   power law has not). Then the mean excess `b` over `u` bounds the tail, `P(z > 1 | z > u) <= exp(-w)` with
//!   `1 - w / x = exp(-w)`, `x = (1 - u) / b > 1` (Barlow and Marshall, Annals of Mathematical Statistics 35, 1964). The mean of `k`
//!   such excesses has a standard deviation of at most `b / sqrt(k)`; three of them are added to it. Never more than
//!   `1 / (n + 1)`, which is what holds with no assumption on the tail where no image overflowed.
//! - **Assumed**: ranges come from noise, so nothing is known of real images.
//!
//! Probabilities of values add up to at least that of a wrong inference, whatever their dependence. For all values together
//! `1 / (n + 1)` holds as well, by the same argument on the fullest of them.

use crate::draft::Draft;
use crate::intervals::{Interval, Reading, unproven};
use crate::{Calibration, CalibrationSource, CompileError};
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{LinearWeights, Plan, ServerWeights, Step, StepId, StepOp};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Images from which a tail can be estimated at all.
const FEWEST_IMAGES: usize = 32;
/// Probabilities below this one are not told apart.
const LEAST_EXPONENT: i32 = -18;

/// Why the values of a layer stay in their rings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow {
    /// The step that makes the value.
    pub step: StepId,
    /// Its layer.
    pub layer: String,
    /// Why.
    #[serde(flatten)]
    pub assurance: Assurance,
}

/// How sure it is that a value stays in its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "overflow", rename_all = "lowercase")]
pub enum Assurance {
    /// No image makes this value the first to leave its ring: see the crate's `intervals.rs`.
    Proven,
    /// Estimated from calibration images: at most `10^exponent` for one image. That of other images is
    /// told by assumption: independent images of the calibration's distribution, and a tail that falls at least
    /// exponentially.
    Estimated {
        /// Power of ten, rounded up; a finer number would say more of the secret weights.
        exponent: i32,
    },
    /// The ranges come from noise: nothing is known of real images.
    Assumed,
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven => f.write_str("proven"),
            Self::Estimated { exponent } => write!(f, "1e{exponent}"),
            Self::Assumed => f.write_str("assumed"),
        }
    }
}

/// Where the compiler's findings stand in a plan's provenance.
const KEY: &str = "overflow";

/// What was found of a plan's values when it was compiled, in the order of the steps that make them; nothing where the plan does
/// not say.
#[must_use]
pub fn overflows_of(plan: &Plan) -> Option<(Vec<Overflow>, OverflowSummary)> {
    let config = &plan.provenance().config;
    let all: Vec<Overflow> = serde_json::from_value(config.get(KEY)?.clone()).ok()?;
    let images = config.pointer("/calibration/images/count").and_then(serde_json::Value::as_u64);
    let summary = OverflowSummary::of(&all, images.unwrap_or(0) as usize);
    Some((all, summary))
}

/// The plan, saying this of its values.
pub(crate) fn noted(plan: Plan, overflows: &[Overflow]) -> Plan {
    let mut provenance = plan.provenance().clone();
    if let serde_json::Value::Object(config) = &mut provenance.config {
        config.insert(KEY.into(), serde_json::json!(overflows));
    }
    plan.with_provenance(provenance)
}

/// All values of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverflowSummary {
    /// Values that are read.
    pub values: usize,
    /// How many of them are proven to stay in their rings.
    pub proven: usize,
    /// The probability that one of the rest leaves its ring in an inference; none where nothing is known.
    pub probability: Option<f64>,
}

impl OverflowSummary {
    /// The sum of all; `images` were used for calibration.
    pub(crate) fn of(all: &[Overflow], images: usize) -> Self {
        let proven = all.iter().filter(|one| one.assurance == Assurance::Proven).count();
        let probability = |one: &Overflow| match one.assurance {
            Assurance::Proven => Some(0.0),
            Assurance::Estimated { exponent } => Some(10f64.powi(exponent)),
            Assurance::Assumed => None,
        };
        let sum: Option<f64> = all.iter().map(probability).sum();
        let probability = sum.map(|sum| sum.min(1.0 / (images as f64 + 1.0)));
        Self { values: all.len(), proven, probability }
    }
}

impl fmt::Display for OverflowSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { values, proven, probability } = self;
        write!(f, "{proven} of {values} values proven to stay in their rings")?;
        match probability {
            _ if proven == values => Ok(()),
            None => f.write_str("; of the rest nothing is known: ranges are those of noise"),
            Some(probability) => write!(
                f,
                "; the rest leave them with a probability of at most {probability:.0e} an image, if images are like the \
                 calibration's and tails fall exponentially"
            ),
        }
    }
}

/// The assurance of each value that a step reads, in the order of the steps that make them.
pub(crate) fn overflows(
    draft: &Draft,
    weights: &BTreeMap<StepId, LinearWeights>,
    calibration: &Calibration,
) -> Result<Vec<Overflow>, CompileError> {
    let plan = draft.plan();
    let unproven = unproven(plan, weights);
    let reads = |step: &&Step| {
        step.inputs.first().is_some_and(|&input| Reading::of(step, plan.fact(input)).is_some())
    };
    // A value is made by the step of its number.
    let maker = |step: &Step| StepId(step.inputs[0].0);
    let all: BTreeSet<StepId> = plan.steps().iter().filter(reads).map(maker).collect();
    let open: BTreeSet<StepId> = unproven.iter().map(|id| maker(&plan.steps()[id.0])).collect();
    let estimates = match calibration.source() {
        CalibrationSource::Images { .. } if !open.is_empty() => {
            let fills = fills(plan, weights, calibration, &unproven)?;
            fills.into_iter().map(|(step, fills)| (step, estimate(fills))).collect()
        }
        _ => BTreeMap::new(),
    };
    let assurance = |step: &StepId| match (open.contains(step), estimates.get(step)) {
        (false, _) => Assurance::Proven,
        (true, Some(&probability)) => Assurance::Estimated { exponent: exponent(probability) },
        (true, None) => Assurance::Assumed,
    };
    let overflow = |step: StepId| Overflow {
        assurance: assurance(&step),
        layer: plan.steps()[step.0].name.clone(),
        step,
    };
    Ok(all.into_iter().map(overflow).collect())
}

/// How much of its range each value that these steps read fills, image by image.
fn fills(
    plan: &Plan,
    weights: &BTreeMap<StepId, LinearWeights>,
    calibration: &Calibration,
    steps: &[StepId],
) -> Result<BTreeMap<StepId, Vec<f64>>, CompileError> {
    let fault = |fault: String| CompileError::Weights { fault };
    let provenance = plan.provenance().clone();
    let weights = ServerWeights::new(plan, weights.clone(), provenance).map_err(fault)?;
    let evaluator = PlanEvaluator::new(plan, &weights).map_err(|found| fault(found.to_string()))?;
    let of_image = |image: &Vec<f32>| {
        let mut fills: BTreeMap<StepId, f64> = BTreeMap::new();
        evaluator.watch(image, |step, inputs| {
            if steps.contains(&step.id)
                && let Some(&x) = inputs.first()
            {
                let fill = fills.entry(StepId(step.inputs[0].0)).or_default();
                *fill = fill.max(fill_of(plan, step, x));
            }
        });
        fills
    };
    let images: Vec<_> = calibration.images().par_iter().map(of_image).collect();
    let mut all: BTreeMap<StepId, Vec<f64>> = BTreeMap::new();
    for (step, fill) in images.into_iter().flatten() {
        all.entry(step).or_default().push(fill);
    }
    Ok(all)
}

/// How much of its range the input of a step that reads it fills.
fn fill_of(plan: &Plan, step: &Step, x: &[u64]) -> f64 {
    let fact = plan.fact(step.inputs[0]);
    let Some(reading) = Reading::of(step, fact) else { return 0.0 };
    let read: Vec<u64>;
    let x = match &step.op {
        StepOp::Activation { mask: Some(mask), .. } => {
            read = mask.positions().map(|position| x[position]).collect();
            &read
        }
        _ => x,
    };
    let channels = match reading {
        Reading::Values(_) | Reading::Contest(_) => x.len(),
        Reading::Differences(_) => fact.shape.area(),
    };
    let fill = |channel: &[u64]| {
        let (read, limit) = reading.view(Interval::of(fact.ring, channel)?);
        Some(read.fill(limit))
    };
    x.chunks(channels.max(1)).filter_map(fill).fold(0.0, f64::max)
}

/// The probability that one more image fills more than everything: see the top of this file.
fn estimate(mut fills: Vec<f64>) -> f64 {
    let n = fills.len();
    let rare = 1.0 / (n as f64 + 1.0);
    fills.sort_by(|a, b| b.total_cmp(a));
    if fills.first().is_some_and(|&most| most > 1.0) {
        let over = fills.iter().filter(|&&fill| fill > 1.0).count();
        return (over + 1) as f64 * rare;
    }
    if n < FEWEST_IMAGES {
        return rare;
    }
    let k = n / 4;
    let threshold = fills[k];
    let mean = fills[..k].iter().map(|fill| fill - threshold).sum::<f64>() / k as f64;
    let mean = mean * (1.0 + 3.0 / (k as f64).sqrt());
    if mean <= 0.0 {
        // Always the same number: there is no tail to speak of.
        return rare;
    }
    let exceeds = (k + 1) as f64 * rare;
    (exceeds * tail((1.0 - threshold) / mean)).min(rare)
}

/// The most that a distribution of mean 1 whose hazard rate does not fall has beyond `x`.
fn tail(x: f64) -> f64 {
    if x <= 1.0 {
        return 1.0;
    }
    // The solution of `1 - w = exp(-w x)` other than 0; each step comes closer from above.
    let rate = (0..200).fold(1.0, |w: f64, _| 1.0 - (-w * x).exp());
    (-rate * x).exp()
}

/// The least power of ten that is no less.
fn exponent(probability: f64) -> i32 {
    (probability.log10().ceil() as i32).max(LEAST_EXPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_tail_is_that_of_the_truncated_exponential_distribution() {
        assert_eq!(tail(0.5), 1.0);
        for x in [1.1, 2.0, 5.0, 20.0] {
            // The extreme distribution: exponential of rate w up to x, where all the rest is. Its mean is 1.
            let beyond = tail(x);
            let rate = -beyond.ln() / x;
            assert!(((1.0 - beyond) / rate - 1.0).abs() < 1e-6, "{x}: {beyond}");
            assert!(beyond >= (-x).exp());
        }
    }

    /// Of many calibrations by exponential fills, the true probability is within the estimate almost always.
    #[test]
    fn estimates_hold_for_tails_that_fall_exponentially() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for scale in [0.05f64, 0.1, 0.15] {
            let truth = (-1.0 / scale).exp();
            let low = (0..300).filter(|_| {
                let draw = |_| -scale * (1.0 - rng.random::<f64>()).ln();
                let fills: Vec<f64> = (0..128).map(draw).collect();
                fills.iter().all(|&fill| fill <= 1.0) && estimate(fills) < truth
            });
            assert!(low.count() <= 9, "{scale}");
        }
    }

    #[test]
    fn without_a_tail_to_go_by_the_rank_alone_counts() {
        assert_eq!(estimate(vec![0.1, 0.2, 0.3]), 0.25);
        assert_eq!(estimate(vec![0.5; 99]), 0.01);
        assert_eq!(estimate([vec![0.5; 98], vec![1.2]].concat()), 0.02);
        assert_eq!((exponent(0.01), exponent(0.011), exponent(0.0)), (-2, -1, LEAST_EXPONENT));
    }
}
