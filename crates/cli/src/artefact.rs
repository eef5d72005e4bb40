//! Artefacts as the command line takes them: any file, or the folder that `copriv compile` made.

use anyhow::{Context as _, Result, bail};
use copriv_ir::lattice::Hint;
use copriv_ir::{ArtefactKind, Checkpoint, FusedModel, LatticePlan, Plan, ServerWeights};
use std::path::Path;

/// Name of the server's secret weights in a plan folder.
pub const WEIGHTS_FILE: &str = "server.safetensors";

/// Name of the public hint in a plan folder, where the plan has lattice correlations.
pub const HINT_FILE: &str = "hint.bin";

/// An artefact of any kind that can be shown or evaluated.
pub enum Artefact {
    Checkpoint(Box<Checkpoint>),
    Fused(Box<FusedModel>),
    Plan(Box<Plan>),
}

impl Artefact {
    /// Opens a file by what it holds, or the plan in a folder.
    ///
    /// # Errors
    /// Where it cannot be read or is no artefact that can be looked at by itself.
    pub fn open(path: &Path) -> Result<Self> {
        let path = Plan::file_at(path);
        Ok(match ArtefactKind::of_file(&path)? {
            ArtefactKind::Checkpoint => Self::Checkpoint(Box::new(Checkpoint::read(&path)?)),
            ArtefactKind::FusedModel => Self::Fused(Box::new(FusedModel::read(&path)?)),
            ArtefactKind::Plan => Self::Plan(Box::new(Plan::read(&path)?)),
            ArtefactKind::ServerWeights => bail!(
                "{} holds a server's secret weights; give the folder of the plan instead",
                path.display()
            ),
            ArtefactKind::Hint => {
                bail!("{} holds a plan's hint; give the folder of the plan instead", path.display())
            }
        })
    }
}

/// The plan of a folder made by `copriv compile`, or of the file itself.
///
/// # Errors
/// Where it cannot be read.
pub fn read_plan(path: &Path) -> Result<Plan> {
    Ok(Plan::read(&Plan::file_at(path))?)
}

/// The hint beside a plan, if it has lattice correlations.
///
/// # Errors
/// Where it is missing, damaged, or that of another plan.
pub fn read_hint(path: &Path, plan: &Plan) -> Result<Option<Hint>> {
    let Some(LatticePlan { section, steps, .. }) = plan.lattice_plan() else { return Ok(None) };
    let path = if path.is_dir() { path.join(HINT_FILE) } else { path.with_file_name(HINT_FILE) };
    let missing = || format!("the plan needs its hint, {HINT_FILE} beside {}", Plan::FILE);
    Hint::read(&path, &section.seed, &steps, section.hint).with_context(missing).map(Some)
}

/// Plan and server weights of a folder made by `copriv compile`.
///
/// # Errors
/// Where one is missing, damaged, or belongs to another.
pub fn read_plan_folder(folder: &Path) -> Result<(Plan, ServerWeights)> {
    let missing = || format!("{} is no folder made by `copriv compile`", folder.display());
    let plan = Plan::read(&folder.join(Plan::FILE)).with_context(missing)?;
    let weights = ServerWeights::read(&folder.join(WEIGHTS_FILE), &plan)?;
    Ok((plan, weights))
}
