//! `copriv eval`: accuracy in the clear.

use crate::args::{Eval, SplitName};
use crate::artefact::{Artefact, read_plan_folder};
use crate::terminal::Terminal;
use crate::{datasets, format};
use anyhow::{Context as _, Result, bail, ensure};
use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator, PlanEvaluator};
use copriv_ir::{FusedModel, InputSpec};
use copriv_trainer::data::{Images, Split, class_labels};
use indicatif::ProgressBar;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
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
    let images = datasets::images(&manifest, args.data.as_deref(), split)?;
    let job = Job { images: &*images, limit: args.limit, keep: args.dump.is_some(), terminal };

    let judged = match &artefact {
        Artefact::Checkpoint(checkpoint) => {
            let evaluator = CheckpointEvaluator::new(checkpoint);
            let logits = |image: &[f32]| widen(&evaluator.logits(image));
            let network = checkpoint.network();
            job.judge(network.input(), network.labels(), logits)?
        }
        Artefact::Fused(fused) => job.judge_fused(fused)?,
        Artefact::Plan(_) => {
            ensure!(args.artefact.is_dir(), "a plan alone has no weights; give the plan's folder");
            let (plan, weights) = read_plan_folder(&args.artefact)?;
            let evaluator = PlanEvaluator::new(&plan, &weights)?;
            job.judge(plan.input(), plan.labels(), |image| evaluator.logits_f64(image))?
        }
    };
    if let Some(path) = &args.dump {
        dump(path, &judged)?;
    }

    let accuracy = Accuracy::of(&judged);
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
pub fn of_fused(fused: &FusedModel, images: &dyn Images, terminal: &Terminal) -> Result<Accuracy> {
    let job = Job { images, limit: None, keep: false, terminal };
    Ok(Accuracy::of(&job.judge_fused(fused)?))
}

/// Accuracy of anything that makes logits of normalised images; `labels` are the names of its classes.
///
/// # Errors
/// Where there are no images, or they are not of the network's size or classes.
pub fn measure(
    images: &dyn Images,
    (input, labels): (&InputSpec, &[String]),
    terminal: &Terminal,
    logits: impl Fn(&[f32]) -> Vec<f64> + Sync,
) -> Result<Accuracy> {
    let job = Job { images, limit: None, keep: false, terminal };
    Ok(Accuracy::of(&job.judge(input, labels, logits)?))
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

    fn of(judged: &[Judged]) -> Self {
        let sum = judged.iter().fold(Score::default(), |sum, judged| sum.add(judged.score));
        let count = judged.len() as f64;
        Self {
            count: judged.len(),
            top1: sum.top1 as f64 / count,
            top5: sum.top5 as f64 / count,
            loss: sum.loss / count,
        }
    }
}

/// Which images are to be judged.
struct Job<'a> {
    images: &'a dyn Images,
    limit: Option<usize>,
    /// Whether to keep what went in and came out.
    keep: bool,
    terminal: &'a Terminal,
}

/// One image's result.
struct Judged {
    label: usize,
    score: Score,
    /// The normalised image and its logits, where they are kept.
    kept: Option<(Vec<f32>, Vec<f64>)>,
}

impl Job<'_> {
    fn judge_fused(&self, fused: &FusedModel) -> Result<Vec<Judged>> {
        let evaluator = FusedEvaluator::new(fused);
        let logits = |image: &[f32]| widen(&evaluator.logits(image));
        self.judge(fused.network().input(), fused.network().labels(), logits)
    }

    /// Judges all images, threaded over them; `names` are those of the network's classes.
    fn judge(
        &self,
        input: &InputSpec,
        names: &[String],
        logits: impl Fn(&[f32]) -> Vec<f64> + Sync,
    ) -> Result<Vec<Judged>> {
        let Self { images, limit, keep, terminal } = *self;
        let places = class_labels(images, names)?;
        let labels = images.labels();
        let labels = &labels[..limit.unwrap_or(usize::MAX).min(labels.len())];
        ensure!(!labels.is_empty(), "the data set has no images to evaluate");
        if images.shape() != input.shape {
            let (found, expected) = (images.shape(), input.shape);
            bail!("{} has images of {found}, but the network takes {expected}", images.name());
        }
        let bar: ProgressBar = terminal.bar("evaluate", labels.len() as u64);
        let judged: Result<Vec<Judged>> = labels
            .par_iter()
            .enumerate()
            .map(|(index, &class)| {
                let image = input.normalise(&images.pixels(index)?);
                let logits = logits(&image);
                bar.inc(1);
                let label = places[class];
                let score = Score::new(&logits, label);
                Ok(Judged { label, score, kept: keep.then_some((image, logits)) })
            })
            .collect();
        bar.finish_and_clear();
        judged
    }
}

/// Writes what went in and came out: `images` `[n, 3, side, side]` (normalised), `labels` `[n]`, `logits`
/// `[n, classes]`.
fn dump(path: &Path, judged: &[Judged]) -> Result<()> {
    let kept: Vec<_> = judged.iter().filter_map(|judged| judged.kept.as_ref()).collect();
    let Some((image, logits)) = kept.first() else { return Ok(()) };
    let (count, classes) = (kept.len(), logits.len());
    let side = (image.len() / 3).isqrt();
    let images: Vec<u8> = kept.iter().flat_map(|(x, _)| x).flat_map(|x| x.to_le_bytes()).collect();
    let logits: Vec<u8> =
        kept.iter().flat_map(|(_, y)| y).flat_map(|y| (*y as f32).to_le_bytes()).collect();
    let labels: Vec<u8> =
        judged.iter().flat_map(|judged| (judged.label as i64).to_le_bytes()).collect();
    let tensors = [
        ("images", TensorView::new(Dtype::F32, vec![count, 3, side, side], &images)?),
        ("labels", TensorView::new(Dtype::I64, vec![count], &labels)?),
        ("logits", TensorView::new(Dtype::F32, vec![count, classes], &logits)?),
    ];
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
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
