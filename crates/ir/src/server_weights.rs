//! The server's secret half of a plan: integer weights and bias maps.

use crate::artefact::tensor_file::{self, StoredTensor, StoredTensors};
use crate::lattice::SecretSeed;
use crate::{ArtefactError, ArtefactKind, ConvGeometry, Digest, Plan, Provenance, StepId, StepOp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Weights and bias map of one linear step. No `Debug`: they are secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LinearWeights {
    /// `[out_channels, in_channels / groups, kernel, kernel]`, scaled by `2^weight_scale`; before
    /// any filter transform.
    pub weight: Vec<i64>,
    /// `[row classes, column classes, out_channels]` (see [`crate::BorderClasses`]) at the scale of the
    /// step's output; `[1, 1, out_channels]` where it is the same everywhere.
    pub bias: Vec<i64>,
}

impl LinearWeights {
    /// Whether the bias is the same at every position.
    #[must_use]
    pub fn bias_is_uniform(&self, geometry: &ConvGeometry) -> bool {
        self.bias.len() == geometry.out_channels
    }
}

/// Everything secret that the server needs to execute a plan.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerWeights {
    plan: Digest,
    provenance: Provenance,
    layers: BTreeMap<StepId, LinearWeights>,
    /// What the hint's secrets follow from, where the plan has lattice correlations.
    lattice: Option<Zeroizing<[u8; 32]>>,
}

impl Eq for Provenance {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    plan: Digest,
    provenance: Provenance,
    steps: Vec<StepId>,
}

impl ServerWeights {
    /// The weights of `plan`'s linear steps.
    ///
    /// # Errors
    /// In words: the first step whose weights are missing, too many or of the wrong size.
    pub fn new(
        plan: &Plan,
        layers: BTreeMap<StepId, LinearWeights>,
        provenance: Provenance,
    ) -> Result<Self, String> {
        check(plan, &layers)?;
        Ok(Self { plan: plan.digest(), provenance, layers, lattice: None })
    }

    /// The same with the secret that the plan's hint was made with.
    #[must_use]
    pub fn with_lattice_seed(self, seed: &SecretSeed) -> Self {
        Self { lattice: Some(Zeroizing::new(*seed.expose())), ..self }
    }

    /// The secret that the plan's hint was made with.
    #[must_use]
    pub fn lattice_seed(&self) -> Option<SecretSeed> {
        self.lattice.as_ref().map(|bytes| SecretSeed::new(**bytes))
    }

    /// Digest of the plan that they belong to.
    #[must_use]
    pub fn plan(&self) -> Digest {
        self.plan
    }

    /// Where they came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Weights of a linear step.
    #[must_use]
    pub fn layer(&self, step: StepId) -> Option<&LinearWeights> {
        self.layers.get(&step)
    }

    /// Writes them as safetensors.
    ///
    /// # Errors
    /// [`ArtefactError::Io`]; what was at `path` is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        let mut tensors = StoredTensors::new();
        for (step, layer) in &self.layers {
            let (weight, bias) = names(*step);
            tensors.insert(weight, StoredTensor::i64(vec![layer.weight.len()], &layer.weight));
            tensors.insert(bias, StoredTensor::i64(vec![layer.bias.len()], &layer.bias));
        }
        if let Some(seed) = &self.lattice {
            let words = Zeroizing::new(
                seed.as_chunks().0.iter().map(|w| i64::from_le_bytes(*w)).collect::<Vec<_>>(),
            );
            tensors.insert(SEED.into(), StoredTensor::i64(vec![words.len()], &words));
        }
        let header = Header {
            plan: self.plan,
            provenance: self.provenance.clone(),
            steps: self.layers.keys().copied().collect(),
        };
        tensor_file::write(path, ArtefactKind::ServerWeights, &header, &tensors)
    }

    /// Reads the weights of `plan` back.
    ///
    /// # Errors
    /// [`ArtefactError`] that names the file, the field and what was expected: also where they
    /// belong to another plan.
    pub fn read(path: &Path, plan: &Plan) -> Result<Self, ArtefactError> {
        let (header, mut stored): (Header, _) =
            tensor_file::read(path, ArtefactKind::ServerWeights)?;
        if header.plan != plan.digest() {
            let expected = format!("that of the plan, {}", plan.digest());
            return Err(ArtefactError::damaged(path, "plan digest", expected, header.plan));
        }
        let mut layers = BTreeMap::new();
        for step in header.steps {
            let mut take = |name: String| {
                let length = stored.get(&name).map_or(0, |t| t.shape.iter().product());
                tensor_file::take_i64(path, &mut stored, &name, &[length])
            };
            let (weight, bias) = names(step);
            let layer = LinearWeights { weight: take(weight)?, bias: take(bias)? };
            layers.insert(step, layer);
        }
        let lattice = match plan.lattice() {
            Some(_) => Some(take_seed(path, &mut stored)?),
            None => None,
        };
        tensor_file::expect_no_more(path, &stored)?;
        check(plan, &layers).map_err(|fault| {
            ArtefactError::damaged(path, "content", "the weights of the plan", fault)
        })?;
        Ok(Self { plan: header.plan, provenance: header.provenance, layers, lattice })
    }
}

/// The tensor of the lattice seed.
const SEED: &str = "lattice.seed";

fn take_seed(
    path: &Path,
    stored: &mut StoredTensors,
) -> Result<Zeroizing<[u8; 32]>, ArtefactError> {
    let words = Zeroizing::new(tensor_file::take_i64(path, stored, SEED, &[4])?);
    let mut seed = Zeroizing::new([0; 32]);
    for (bytes, word) in seed.as_chunks_mut().0.iter_mut().zip(&*words) {
        *bytes = word.to_le_bytes();
    }
    Ok(seed)
}

fn names(step: StepId) -> (String, String) {
    (format!("{}.weight", step.0), format!("{}.bias", step.0))
}

fn check(plan: &Plan, layers: &BTreeMap<StepId, LinearWeights>) -> Result<(), String> {
    let mut linear = 0;
    for step in plan.steps() {
        let StepOp::Linear(op) = &step.op else { continue };
        let input = plan.fact(step.inputs[0]).shape;
        let geometry = &op.geometry;
        let rows = geometry.border_classes(input.height).count();
        let columns = geometry.border_classes(input.width).count();
        let outputs = geometry.out_channels;
        let layer = layers.get(&step.id).ok_or_else(|| format!("{} has no weights", step.name))?;
        if layer.weight.len() != geometry.weight_elements() {
            return Err(format!("{} has {} weights", step.name, layer.weight.len()));
        }
        if ![outputs, rows * columns * outputs].contains(&layer.bias.len()) {
            return Err(format!("{} has {} biases", step.name, layer.bias.len()));
        }
        linear += 1;
    }
    if layers.len() == linear { Ok(()) } else { Err("weights without a step".into()) }
}

impl fmt::Debug for ServerWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerWeights").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl fmt::Display for ServerWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "server weights (secret)")?;
        writeln!(f, "plan        {}", self.plan.short())?;
        writeln!(f, "layers      {}", self.layers.len())?;
        write!(f, "made by     {}", self.provenance)
    }
}
