//! `copriv eval`: accuracy in the clear.

use crate::args::{Eval, SplitName};
use crate::artefact::{Artefact, read_plan_folder};
use crate::terminal::Terminal;
use crate::{datasets, format, memory};
use anyhow::{Context as _, Result, bail, ensure};
use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator, PlanEvaluator};
use copriv_ir::{Checkpoint, FusedModel, InputSpec};
use copriv_trainer::data::{Images, Split, class_labels};
use copriv_trainer::train::{Accuracy, Tally, evaluate};
use indicatif::ProgressBar;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

pub fn run(args: &Eval, terminal: &Terminal) -> Result<()> {
    let artefact = Artefact::open(&args.artefact)?;
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    let manifest = datasets::find(&args.dataset)?;
    let images = datasets::images(&manifest, args.data.as_deref(), split, args.limit)?;
    let images = &*images;
    ensure!(!images.labels().is_empty(), "the data set has no images to evaluate");

    let accuracy = match (&artefact, &args.dump) {
        (Artefact::Checkpoint(checkpoint), None) => {
            let device = args.device.as_deref().unwrap_or("cpu");
            of_checkpoint(checkpoint, images, device, terminal)?
        }
        _ => {
            ensure!(args.device.is_none(), "--device is for checkpoints");
            let job = Job { images, keep: args.dump.is_some(), terminal };
            let judged = judge(&artefact, &args.artefact, &job)?;
            if let Some(path) = &args.dump {
                dump(path, &judged)?;
            }
            accuracy(&judged)
        }
    };
    if args.json {
        terminal.data(json(&accuracy, &args.artefact, &args.dataset, split))?;
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

/// Images of a checkpoint that go through the network together.
const BATCH: usize = 128;

/// Accuracy of a checkpoint as training measures it.
fn of_checkpoint(
    checkpoint: &Checkpoint,
    images: &dyn Images,
    device: &str,
    terminal: &Terminal,
) -> Result<Accuracy> {
    memory::keep_freed();
    let bar = terminal.bar("evaluate", images.labels().len() as u64);
    let mut seen = |count| bar.set_position(count as u64);
    let accuracy = evaluate(checkpoint, images, (device, BATCH), &mut seen)?;
    bar.finish_and_clear();
    Ok(accuracy)
}

/// What an artefact says of each image, by its clear-text evaluator.
fn judge(artefact: &Artefact, path: &Path, job: &Job<'_>) -> Result<Vec<Judged>> {
    match artefact {
        Artefact::Checkpoint(checkpoint) => {
            let evaluator = CheckpointEvaluator::new(checkpoint);
            let logits = |image: &[f32]| widen(&evaluator.logits(image));
            let network = checkpoint.network();
            job.judge(network.input(), network.labels(), logits)
        }
        Artefact::Fused(fused) => job.judge_fused(fused),
        Artefact::Plan(_) => {
            ensure!(path.is_dir(), "a plan alone has no weights; give the plan's folder");
            let (plan, weights) = read_plan_folder(path)?;
            let evaluator = PlanEvaluator::new(&plan, &weights)?;
            job.judge(plan.input(), plan.labels(), |image| evaluator.logits_f64(image))
        }
    }
}

/// Accuracy of a fused model in the clear.
///
/// # Errors
/// Where the data set's images do not fit the model.
pub fn of_fused(fused: &FusedModel, images: &dyn Images, terminal: &Terminal) -> Result<Accuracy> {
    let job = Job { images, keep: false, terminal };
    Ok(accuracy(&job.judge_fused(fused)?))
}

/// Accuracy of anything that makes logits of normalised images; `labels` are the names of its classes.
///
/// # Errors
/// Where the images are not of the network's size or classes.
pub fn measure(
    images: &dyn Images,
    (input, labels): (&InputSpec, &[String]),
    terminal: &Terminal,
    logits: impl Fn(&[f32]) -> Vec<f64> + Sync,
) -> Result<Accuracy> {
    let job = Job { images, keep: false, terminal };
    Ok(accuracy(&job.judge(input, labels, logits)?))
}

/// As `copriv eval --json` prints it.
pub fn json(accuracy: &Accuracy, artefact: &Path, dataset: &str, split: Split) -> Value {
    json!({
        "artefact": artefact,
        "dataset": dataset,
        "split": split,
        "count": accuracy.count,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
    })
}

/// Which images are to be judged.
struct Job<'a> {
    images: &'a dyn Images,
    /// Whether to keep what went in and came out.
    keep: bool,
    terminal: &'a Terminal,
}

/// One image's result.
struct Judged {
    label: usize,
    tally: Tally,
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
        let Self { images, keep, terminal } = *self;
        let places = class_labels(images, names)?;
        let labels = images.labels();
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
                let tally = Tally::of(&logits, label);
                Ok(Judged { label, tally, kept: keep.then_some((image, logits)) })
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

fn accuracy(judged: &[Judged]) -> Accuracy {
    judged.iter().map(|judged| judged.tally).sum::<Tally>().accuracy()
}

fn widen(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&logit| f64::from(logit)).collect()
}
