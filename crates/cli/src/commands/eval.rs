//! `copriv eval`: accuracy in the clear.

use crate::args::{Eval, SplitName};
use crate::artefact::{Artefact, read_plan_folder};
use crate::terminal::Terminal;
use crate::{datasets, format};
use anyhow::{Result, bail, ensure};
use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator, PlanEvaluator};
use copriv_ir::{FusedModel, InputSpec};
use copriv_trainer::data::{Dataset, Split};
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

pub fn run(args: &Eval, terminal: &Terminal) -> Result<()> {
    let artefact = Artefact::open(&args.artefact)?;
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    let manifest = datasets::find(&args.dataset)?;
    let mut dataset = datasets::load(&manifest, args.data.as_deref(), split)?;
    if let Some(limit) = args.limit {
        dataset = dataset.limit(limit);
    }

    let accuracy = match &artefact {
        Artefact::Checkpoint(checkpoint) => {
            let evaluator = CheckpointEvaluator::new(checkpoint);
            let logits = |image: &[f32]| widen(&evaluator.logits(image));
            measure(&dataset, checkpoint.network().input(), terminal, logits)?
        }
        Artefact::Fused(fused) => of_fused(fused, &dataset, terminal)?,
        Artefact::Plan(_) => {
            ensure!(args.artefact.is_dir(), "a plan alone has no weights; give the plan's folder");
            let (plan, weights) = read_plan_folder(&args.artefact)?;
            let evaluator = PlanEvaluator::new(&plan, &weights)?;
            measure(&dataset, plan.input(), terminal, |image| evaluator.logits_f64(image))?
        }
    };

    if args.json {
        terminal.data(accuracy.json(&args.artefact, &args.dataset, split))?;
    } else {
        terminal.data(format_args!(
            "{} {split} images: top-1 {}, top-5 {}, loss {:.4}",
            accuracy.count,
            format::percent(accuracy.top1),
            format::percent(accuracy.top5),
            accuracy.loss
        ))?;
    }
    Ok(())
}

/// Accuracy of a fused model in the clear.
///
/// # Errors
/// Where the data set's images do not fit the model.
pub fn of_fused(fused: &FusedModel, dataset: &Dataset, terminal: &Terminal) -> Result<Accuracy> {
    let evaluator = FusedEvaluator::new(fused);
    let logits = |image: &[f32]| widen(&evaluator.logits(image));
    measure(dataset, fused.network().input(), terminal, logits)
}

/// How well logits agree with labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// Number of images.
    pub count: usize,
    /// Part of the images whose largest logit is the label's, 0 to 1.
    pub top1: f64,
    /// Part of the images whose label is among the five largest logits.
    pub top5: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

impl Accuracy {
    /// As `copriv eval --json` prints it.
    pub fn json(&self, artefact: &Path, dataset: &str, split: Split) -> Value {
        json!({
            "artefact": artefact,
            "dataset": dataset,
            "split": split,
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
        })
    }
}

/// Evaluates all images of a data set, threaded over images.
///
/// # Errors
/// Where there are no images, or they are not of the network's size.
pub fn measure(
    dataset: &Dataset,
    input: &InputSpec,
    terminal: &Terminal,
    logits: impl Fn(&[f32]) -> Vec<f64> + Sync,
) -> Result<Accuracy> {
    ensure!(!dataset.is_empty(), "the data set has no images to evaluate");
    if dataset.shape() != input.shape {
        let (found, expected) = (dataset.shape(), input.shape);
        bail!("{} has images of {found}, but the network takes {expected}", dataset.name());
    }
    let bar: ProgressBar = terminal.bar("evaluate", dataset.len() as u64);
    let sum = (0..dataset.len())
        .into_par_iter()
        .map(|i| {
            let image = input.normalise(dataset.image(i));
            let score = Score::new(&logits(&image), dataset.labels()[i]);
            bar.inc(1);
            score
        })
        .reduce(Score::default, Score::add);
    bar.finish_and_clear();
    let count = dataset.len() as f64;
    Ok(Accuracy {
        count: dataset.len(),
        top1: sum.top1 as f64 / count,
        top5: sum.top5 as f64 / count,
        loss: sum.loss / count,
    })
}

#[derive(Clone, Copy, Default)]
struct Score {
    top1: usize,
    top5: usize,
    loss: f64,
}

impl Score {
    fn new(logits: &[f64], label: usize) -> Self {
        let own = logits.get(label).copied().unwrap_or(f64::NEG_INFINITY);
        let above = logits.iter().filter(|&&logit| logit > own).count();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let partition: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
        Self {
            top1: usize::from(above < 1),
            top5: usize::from(above < 5),
            loss: partition.ln() + max - own,
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            top1: self.top1 + other.top1,
            top5: self.top5 + other.top5,
            loss: self.loss + other.loss,
        }
    }
}

fn widen(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&logit| f64::from(logit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_definition() {
        let score = Score::new(&[0.0, 2.0, 1.0, -1.0, 3.0, 4.0, 5.0], 1);
        assert_eq!((score.top1, score.top5), (0, 1));
        let score = Score::new(&[0.0, 0.0], 1);
        assert!((score.loss - 2f64.ln()).abs() < 1e-12);
    }
}
