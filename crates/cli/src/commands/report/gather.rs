//! Finds what a report can show in the files and folders given to it.

use super::content::{Content, Drawing, Evaluation, PlanEntry, Training, block_name};
use crate::commands::inspect::plan_json;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, bail, ensure};
use copriv_ir::{ArtefactKind, FusedModel, Plan};
use copriv_trainer::train::Metrics;
use std::fs;
use std::path::{Path, PathBuf};

/// The metrics of a training run.
const METRICS_FILE: &str = "metrics.jsonl";
/// What `copriv eval --json` printed, left beside the plan or as `MODEL.eval.json` beside the model.
pub const EVALUATION: &str = "eval.json";
/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 6;

/// Looks through all of `runs`; files that are no artefacts are passed over inside folders.
///
/// # Errors
/// Where a file that was named itself, or any artefact found, cannot be read.
pub fn gather(runs: &[PathBuf], terminal: &Terminal) -> Result<Content> {
    let mut content = Content::default();
    for run in runs {
        ensure!(run.exists(), "there is no {}", run.display());
        let name = |path: &Path| name_of(path, runs);
        if run.is_dir() {
            look_into(run, &name, MAX_DEPTH, &mut content, terminal)?;
        } else if !add_file(run, &name, &mut content)? {
            bail!("{} is no training metrics, fused model or plan", run.display());
        }
    }
    Ok(content)
}

fn look_into(
    folder: &Path,
    name: &dyn Fn(&Path) -> String,
    depth: usize,
    content: &mut Content,
    terminal: &Terminal,
) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_symlink() {
            terminal.detail(format_args!("passed over the link {}", path.display()));
        } else if path.is_dir() {
            if depth > 0 {
                look_into(&path, name, depth - 1, content, terminal)?;
            }
        } else if !add_file(&path, name, content)? {
            terminal.detail(format_args!("nothing to show in {}", path.display()));
        }
    }
    Ok(())
}

/// Adds what a file holds; whether it is of a kind that reports show.
fn add_file(path: &Path, name: &dyn Fn(&Path) -> String, content: &mut Content) -> Result<bool> {
    let file = path.file_name().unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("."));
    if file == METRICS_FILE {
        content.trainings.push(read_training(path, name(folder))?);
    } else if file == Plan::FILE {
        let plan = Plan::read(path)?;
        let blocks = plan.steps().iter().map(|step| block_name(&step.name)).collect();
        let accuracy = read_evaluation(&folder.join(EVALUATION))?;
        content.plans.push(PlanEntry {
            name: name(folder),
            plan: plan_json(&plan),
            blocks,
            accuracy,
        });
    } else if ArtefactKind::of_file(path).is_ok_and(|kind| kind == ArtefactKind::FusedModel) {
        let accuracy = read_evaluation(&path.with_extension(EVALUATION))?;
        let drawing = Drawing::new(name(path), &FusedModel::read(path)?, accuracy);
        content.networks.push(drawing);
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// The epochs of a run; its steps are too many to draw.
fn read_training(path: &Path, name: String) -> Result<Training> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut epochs, mut search) = (vec![], None);
    for (number, line) in text.lines().enumerate() {
        let metrics: Metrics = serde_json::from_str(line)
            .with_context(|| format!("{} line {}", path.display(), number + 1))?;
        match metrics {
            Metrics::Epoch(epoch) => epochs.push(epoch),
            Metrics::Search(chosen) => search = Some(chosen),
            Metrics::Step(_) => {}
        }
    }
    Ok(Training { name, epochs, search })
}

fn read_evaluation(path: &Path) -> Result<Option<Evaluation>> {
    if !path.exists() {
        return Ok(None);
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let evaluation = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `copriv eval --json` prints", path.display()))?;
    Ok(Some(evaluation))
}

/// A path as people call it: below the folder that was given, or the folder's own name.
fn name_of(path: &Path, runs: &[PathBuf]) -> String {
    let below = runs.iter().filter_map(|run| path.strip_prefix(run).ok());
    let shortest = below.min_by_key(|below| below.components().count());
    let shown = match shortest {
        Some(below) if below.components().next().is_some() => below,
        _ => Path::new(path.file_name().unwrap_or(path.as_os_str())),
    };
    shown.display().to_string().trim_end_matches(".safetensors").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_but_tell_apart() {
        let runs = ["out/demo", "out/other/plan"].map(PathBuf::from);
        let name = |path: &str| name_of(Path::new(path), &runs);
        assert_eq!(name("out/demo/plans/pruned"), "plans/pruned");
        assert_eq!(name("out/other/plan"), "plan");
        assert_eq!(name("out/demo/unpruned.fused.safetensors"), "unpruned.fused");
    }
}
