//! A trained network: weights, batch-norm statistics and gates.

mod init;

pub use init::BatchNormInit;

use crate::artefact::tensor_file::{self, StoredTensor, StoredTensors};
use crate::{ArtefactError, ArtefactKind, Condition, Digest, GateId, Network, Provenance, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The state of a network's gates, in order: stem, blocks, head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GateFields")]
pub struct Gates {
    alphas: Vec<f32>,
    kept: Vec<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GateFields {
    alphas: Vec<f32>,
    kept: Vec<bool>,
}

impl TryFrom<GateFields> for Gates {
    type Error = &'static str;

    fn try_from(fields: GateFields) -> Result<Self, Self::Error> {
        Self::new(fields.alphas, fields.kept).ok_or("each gate needs a finite alpha")
    }
}

impl Gates {
    /// All gates kept, every alpha 1.
    #[must_use]
    pub fn all_kept(count: usize) -> Self {
        Self { alphas: vec![1.0; count], kept: vec![true; count] }
    }

    /// Gates with trained importances `alphas`; `kept` says which survive.
    ///
    /// `None` where the two differ in length or an alpha is not finite.
    #[must_use]
    pub fn new(alphas: Vec<f32>, kept: Vec<bool>) -> Option<Self> {
        let fine = alphas.len() == kept.len() && alphas.iter().all(|alpha| alpha.is_finite());
        fine.then_some(Self { alphas, kept })
    }

    /// Importance of each gate.
    #[must_use]
    pub fn alphas(&self) -> &[f32] {
        &self.alphas
    }

    /// Whether each gate's activations are part of the network.
    #[must_use]
    pub fn kept(&self) -> &[bool] {
        &self.kept
    }

    /// Whether the activations of this gate are part of the network.
    #[must_use]
    pub fn is_kept(&self, gate: GateId) -> bool {
        self.kept.get(gate.0).copied().unwrap_or(true)
    }

    /// Whether an activation under this condition is part of the network.
    #[must_use]
    pub fn admit(&self, condition: Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Kept(gate) => self.is_kept(gate),
            Condition::Removed(gate) => !self.is_kept(gate),
        }
    }

    /// One digit a gate, 1 kept, 0 removed: `1101...`.
    #[must_use]
    pub fn mask(&self) -> String {
        self.kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect()
    }

    /// The gates of `network` set by a mask of one digit a residual block, or one digit a gate
    /// (stem first, head last). Alphas become the digits.
    ///
    /// # Errors
    /// What is wrong with the mask, in words.
    pub fn from_mask(network: &Network, mask: &str) -> Result<Self, String> {
        let graph = network.graph();
        let blocks = graph.blocks();
        let residual = blocks.iter().filter(|block| block.is_residual).count();
        let digits: Option<Vec<bool>> = mask
            .chars()
            .map(|digit| match digit {
                '0' => Some(false),
                '1' => Some(true),
                _ => None,
            })
            .collect();
        let digits = digits.ok_or("a mask is made of the digits 0 and 1")?;
        let kept: Vec<bool> = if digits.len() == blocks.len() {
            digits
        } else if digits.len() == residual {
            let mut digits = digits.into_iter();
            blocks.iter().map(|block| !block.is_residual || digits.next() == Some(true)).collect()
        } else {
            return Err(format!(
                "a mask for {network} has {residual} digits (residual blocks) or {} (with the rest), not {}",
                blocks.len(),
                digits.len()
            ));
        };
        let alphas = kept.iter().map(|&kept| f32::from(u8::from(kept))).collect();
        Ok(Self { alphas, kept })
    }
}

/// A trained network: its identity, parameters, running statistics and gates.
///
/// Tensors have PyTorch's (torchvision's) names and shapes, all `f32` and finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    header: Header,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    network: Network,
    gates: Gates,
    provenance: Provenance,
}

impl Checkpoint {
    /// The checkpoint of `network` with these tensors.
    ///
    /// # Errors
    /// In words: the first tensor that is missing, unexpected, of another shape or not finite, a
    /// negative variance, or the number of gates.
    pub fn new(
        network: Network,
        gates: Gates,
        tensors: BTreeMap<String, Tensor>,
        provenance: Provenance,
    ) -> Result<Self, String> {
        let graph = network.graph();
        if gates.kept.len() != graph.blocks().len() {
            let (expected, found) = (graph.blocks().len(), gates.kept.len());
            return Err(format!("{network} has {expected} gates, not {found}"));
        }
        let parameters = graph.parameters();
        for (name, shape) in &parameters {
            let tensor = tensors.get(name).ok_or_else(|| format!("{name} is missing"))?;
            if tensor.shape() != shape {
                return Err(format!("{name} has shape {:?}, not {shape:?}", tensor.shape()));
            }
            if !tensor.data().iter().all(|x| x.is_finite()) {
                return Err(format!("{name} holds values that are not finite"));
            }
            if name.ends_with(".running_var") && tensor.data().iter().any(|x| *x < 0.0) {
                return Err(format!("{name} holds negative variances"));
            }
        }
        if tensors.len() != parameters.len() {
            let known = |name: &&String| parameters.iter().any(|(known, _)| known == *name);
            let extra = tensors.keys().find(|name| !known(name));
            return Err(format!("{} is no parameter of {network}", extra.map_or("", |name| name)));
        }
        Ok(Self { header: Header { network, gates, provenance }, tensors })
    }

    /// Its network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.header.network
    }

    /// Its gates.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.header.gates
    }

    /// Where it came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.header.provenance
    }

    /// All tensors by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensor of this name. Names come from [`crate::Graph::parameters`]; each has one.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Digest of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tensor_file::digest(ArtefactKind::Checkpoint, &self.header, &self.stored())
    }

    /// Writes it as safetensors.
    ///
    /// # Errors
    /// [`ArtefactError::Io`]; what was at `path` is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        tensor_file::write(path, ArtefactKind::Checkpoint, &self.header, &self.stored())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`ArtefactError`] that names the file, the field and what was expected.
    pub fn read(path: &Path) -> Result<Self, ArtefactError> {
        let (header, mut stored): (Header, _) = tensor_file::read(path, ArtefactKind::Checkpoint)?;
        let mut tensors = BTreeMap::new();
        for (name, shape) in header.network.graph().parameters() {
            let tensor = tensor_file::take_f32(path, &mut stored, &name, &shape)?;
            tensors.insert(name, tensor);
        }
        tensor_file::expect_no_more(path, &stored)?;
        Self::new(header.network, header.gates, tensors, header.provenance)
            .map_err(|fault| ArtefactError::damaged(path, "content", "a checkpoint", fault))
    }

    fn stored(&self) -> StoredTensors {
        self.tensors.iter().map(|(name, t)| (name.clone(), StoredTensor::f32(t))).collect()
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { network, gates, provenance } = &self.header;
        writeln!(f, "checkpoint  {}", self.digest().short())?;
        writeln!(f, "network     {network}")?;
        writeln!(f, "gates       {}", gates.mask())?;
        write!(f, "made by     {provenance}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;

    fn network() -> Network {
        Network::new(Architecture::ResNet20, 0.1, 10, 16).expect("small")
    }

    #[test]
    fn a_mask_counts_residual_blocks_or_all_gates() {
        let gates = |mask| Gates::from_mask(&network(), mask);
        assert_eq!(gates("010011101").expect("nine blocks").mask(), "1010011101");
        assert_eq!(gates("0010011101").expect("ten gates").mask(), "0010011101");
        for bad in ["", "0101", "01001110x", "01001110111"] {
            assert!(gates(bad).is_err(), "{bad}");
        }
        let gates = gates("010011101").expect("nine blocks");
        assert_eq!(gates.alphas()[..3], [1.0, 0.0, 1.0]);
        assert!(gates.admit(Condition::Always));
        assert!(
            gates.admit(Condition::Kept(GateId(0))) && gates.admit(Condition::Removed(GateId(1)))
        );
        assert!(
            !gates.admit(Condition::Removed(GateId(0))) && !gates.admit(Condition::Kept(GateId(1)))
        );
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let made = Checkpoint::initialise(network(), 1, BatchNormInit::Identity);
        let fault = |gates: usize, change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut tensors = made.tensors().clone();
            change(&mut tensors);
            let provenance = made.provenance().clone();
            Checkpoint::new(network(), Gates::all_kept(gates), tensors, provenance)
                .expect_err("does not belong")
        };
        let set = |name: &'static str, value: f32| {
            move |tensors: &mut BTreeMap<String, Tensor>| {
                tensors.insert(name.into(), Tensor::filled(vec![10], value));
            }
        };
        assert!(fault(9, &|_| {}).ends_with("has 10 gates, not 9"));
        assert_eq!(fault(10, &|t| drop(t.remove("fc.bias"))), "fc.bias is missing");
        assert_eq!(fault(10, &set("bn1.bias", 0.0)), "bn1.bias has shape [10], not [8]");
        assert_eq!(
            fault(10, &set("fc.bias", f32::NAN)),
            "fc.bias holds values that are not finite"
        );
        assert!(fault(10, &set("more", 0.0)).starts_with("more is no parameter of resnet20"));
        let negative = |tensors: &mut BTreeMap<String, Tensor>| {
            tensors.insert("bn1.running_var".into(), Tensor::filled(vec![8], -1.0));
        };
        assert_eq!(fault(10, &negative), "bn1.running_var holds negative variances");
    }
}
