//! The private-inference plan: what both parties do, step by step. Public; holds no weights.

mod answer;
mod fact;
mod lattice;
mod output;
mod reply;
mod sharing;
mod step;
mod verify;
mod verify_lattice;

pub use answer::{Answer, class_digits, class_of_digits};
pub use fact::{Fact, Sign, ValueId, Visibility};
pub use lattice::{LatticePlan, LatticeSection};
pub use reply::{ReplyPlan, ReplySection};
pub use step::{
    Comparison, Correlation, ExtendMethod, LinearStep, Lowering, MatMulShape, OtKind, Step, StepId,
    StepOp, TruncateMethod, WinogradTile,
};
pub use verify::PlanError;

use crate::artefact::json_file;
use crate::{ArtefactError, ArtefactKind, CommTable, Digest, InputSpec, Provenance, cost};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A straight list of steps over shared values, the same for both parties.
///
/// The first step takes in the client's image, the last reveals the logits to the client, or the class alone
/// ([`Plan::answer`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "PlanFields", into = "PlanFields")]
pub struct Plan {
    fields: PlanFields,
    /// Of the fields, once it has been asked for.
    digest: OnceLock<Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFields {
    network: String,
    preset: String,
    input: InputSpec,
    labels: Vec<String>,
    values: Vec<Fact>,
    steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lattice: Option<LatticeSection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<ReplySection>,
    provenance: Provenance,
}

impl Plan {
    /// File name in the folder that `copriv compile` makes.
    pub const FILE: &str = "plan.json";

    /// The file of the plan in such a folder; any other path is the plan's own.
    #[must_use]
    pub fn file_at(path: &Path) -> PathBuf {
        if path.is_dir() { path.join(Self::FILE) } else { path.to_owned() }
    }

    /// A plan for the network described by `network` (one line for people), checked whole.
    ///
    /// `provenance` must not name a secret parent: see [`Provenance::parent`].
    ///
    /// # Errors
    /// [`PlanError`] names the first step that is wrong and how.
    pub fn new(
        network: String,
        preset: String,
        (input, labels): (InputSpec, Vec<String>),
        (values, steps): (Vec<Fact>, Vec<Step>),
        provenance: Provenance,
    ) -> Result<Self, PlanError> {
        let (lattice, reply) = (None, None);
        Self::try_from(PlanFields {
            network,
            preset,
            input,
            labels,
            values,
            steps,
            lattice,
            reply,
            provenance,
        })
    }

    /// One line about the network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.fields.network
    }

    /// The preset that it was compiled with.
    #[must_use]
    pub fn preset(&self) -> &str {
        &self.fields.preset
    }

    /// The image that the client brings.
    #[must_use]
    pub fn input(&self) -> &InputSpec {
        &self.fields.input
    }

    /// Names of the classes; empty where none are known.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.fields.labels
    }

    /// All steps in the order of execution.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.fields.steps
    }

    /// The steps in the order in which both parties make their correlations: those whose messages all go from client to server
    /// first, so that the client can send them without a pause while the server works through them; then the others. Each in
    /// the order of the plan.
    #[must_use]
    pub fn offline_order(&self) -> Vec<&Step> {
        let (ahead, others): (Vec<_>, Vec<_>) = self.steps().iter().partition(|step| {
            let StepOp::Linear(linear) = &step.op else { return false };
            matches!(linear.correlation, Correlation::Lattice(_))
        });
        [ahead, others].concat()
    }

    /// What is known of all values.
    #[must_use]
    pub fn values(&self) -> &[Fact] {
        &self.fields.values
    }

    /// What is known of one value of this plan.
    #[must_use]
    pub fn fact(&self, value: ValueId) -> &Fact {
        &self.fields.values[value.0]
    }

    /// Where it came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.fields.provenance
    }

    /// The same plan, made otherwise.
    #[must_use]
    pub fn with_provenance(self, provenance: Provenance) -> Self {
        Self { fields: PlanFields { provenance, ..self.fields }, digest: OnceLock::new() }
    }

    /// What executing it once in a fresh session will send, to the byte.
    #[must_use]
    pub fn predicted_comm(&self) -> CommTable {
        cost::plan(self)
    }

    /// Digest of the content, compared by the parties before anything else.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| json_file::digest(ArtefactKind::Plan, &self.fields))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`ArtefactError::Io`]; what was at `path` is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        json_file::write(path, ArtefactKind::Plan, self)
    }

    /// Reads it back and checks it whole.
    ///
    /// # Errors
    /// [`ArtefactError`] that names the file, the field and what was expected.
    pub fn read(path: &Path) -> Result<Self, ArtefactError> {
        json_file::read(path, ArtefactKind::Plan)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan        {}", self.digest().short())?;
        writeln!(f, "network     {}", self.fields.network)?;
        writeln!(f, "preset      {}", self.fields.preset)?;
        writeln!(f, "steps       {}", self.fields.steps.len())?;
        write!(f, "made by     {}", self.fields.provenance)
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl From<Plan> for PlanFields {
    fn from(plan: Plan) -> Self {
        plan.fields
    }
}

impl TryFrom<PlanFields> for Plan {
    type Error = PlanError;

    fn try_from(fields: PlanFields) -> Result<Self, PlanError> {
        let lattice = (fields.lattice.as_ref(), fields.reply.as_ref());
        verify::verify(&fields.input, &fields.values, &fields.steps, lattice)?;
        Ok(Self { fields, digest: OnceLock::new() })
    }
}
