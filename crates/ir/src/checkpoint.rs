//! A trained network: weights, batch-norm statistics and gates.

mod init;

pub use init::BatchNormInit;

use crate::artefact::tensor_file::{self, StoredTensor, StoredTensors};
use crate::{
    ActivationMask, ArtefactError, ArtefactKind, Condition, Digest, GateId, Graph, Network, Node,
    Op, Provenance, Tensor,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The state of a network's gates, in order: stem, blocks, head. Of the activations that they leave, some may apply to a part
/// of their values alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GateFields")]
pub struct Gates {
    alphas: Vec<f32>,
    kept: Vec<bool>,
    /// By the activation's name. Files hold each as the tensor `<name>.mask`, packed.
    #[serde(skip)]
    parts: BTreeMap<String, ActivationMask>,
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
        Self::keeping(vec![true; count])
    }

    /// Those gates kept that `kept` says, every alpha 1.
    #[must_use]
    pub fn keeping(kept: Vec<bool>) -> Self {
        Self { alphas: vec![1.0; kept.len()], kept, parts: BTreeMap::new() }
    }

    /// Gates with trained importances `alphas`; `kept` says which survive.
    ///
    /// `None` where the two differ in length or an alpha is not finite.
    #[must_use]
    pub fn new(alphas: Vec<f32>, kept: Vec<bool>) -> Option<Self> {
        let fine = alphas.len() == kept.len() && alphas.iter().all(|alpha| alpha.is_finite());
        fine.then_some(Self { alphas, kept, parts: BTreeMap::new() })
    }

    /// The same gates, with activations that apply to a part of their values: by the names of their nodes, which the gates
    /// must leave in the network ([`Checkpoint::new`] checks that).
    #[must_use]
    pub fn with_parts(self, parts: BTreeMap<String, ActivationMask>) -> Self {
        Self { parts, ..self }
    }

    /// The values that the activation of this name applies to; all, if its gate leaves it, where there is no mask.
    #[must_use]
    pub fn part(&self, activation: &str) -> Option<&ActivationMask> {
        self.parts.get(activation)
    }

    /// All activations in part.
    #[must_use]
    pub fn parts(&self) -> &BTreeMap<String, ActivationMask> {
        &self.parts
    }

    /// How many values a node of the network activates: none where it is no activation or its gate removes it.
    #[must_use]
    pub fn activated(&self, node: &Node) -> usize {
        match node.op {
            Op::Activation(condition) if self.admit(condition) => {
                self.part(&node.name).map_or(node.shape.elements(), ActivationMask::count)
            }
            _ => 0,
        }
    }

    /// The first mask that belongs to no activation that these gates leave, or to one of another shape; in words.
    fn foreign_part(&self, graph: &Graph) -> Option<String> {
        self.parts.iter().find_map(|(name, mask)| {
            let node = graph.nodes().iter().find(|node| node.name == *name);
            match node.map(|node| (&node.op, node.shape)) {
                Some((Op::Activation(condition), shape)) if self.admit(*condition) => {
                    let found = mask.shape();
                    (found != shape).then(|| format!("{name} has a mask of {found}, not {shape}"))
                }
                _ => Some(format!("{name} has a mask but is no activation of the network")),
            }
        })
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
        Ok(Self { alphas, kept, parts: BTreeMap::new() })
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
    /// negative variance, the number of gates, or a mask of another activation or shape.
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
        if let Some(fault) = gates.foreign_part(&graph) {
            return Err(fault);
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
        let (mut header, mut stored): (Header, _) =
            tensor_file::read(path, ArtefactKind::Checkpoint)?;
        let graph = header.network.graph();
        let mut tensors = BTreeMap::new();
        for (name, shape) in graph.parameters() {
            let tensor = tensor_file::take_f32(path, &mut stored, &name, &shape)?;
            tensors.insert(name, tensor);
        }
        for node in graph.nodes().iter().filter(|node| matches!(node.op, Op::Activation(_))) {
            let mask = tensor_file::take_mask(path, &mut stored, &node.name, node.shape)?;
            header.gates.parts.extend(mask.map(|mask| (node.name.clone(), mask)));
        }
        tensor_file::expect_no_more(path, &stored)?;
        Self::new(header.network, header.gates, tensors, header.provenance)
            .map_err(|fault| ArtefactError::damaged(path, "content", "a checkpoint", fault))
    }

    fn stored(&self) -> StoredTensors {
        let parts = self.header.gates.parts.iter();
        let masks = parts.map(|(name, mask)| tensor_file::stored_mask(name, mask));
        let tensors = self.tensors.iter().map(|(name, t)| (name.clone(), StoredTensor::f32(t)));
        tensors.chain(masks).collect()
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { network, gates, provenance } = &self.header;
        writeln!(f, "checkpoint  {}", self.digest().short())?;
        writeln!(f, "network     {network}")?;
        writeln!(f, "gates       {}", gates.mask())?;
        for (name, mask) in gates.parts() {
            writeln!(f, "activated   {mask}  {name}")?;
        }
        write!(f, "made by     {provenance}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, Granularity, Shape};

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

    #[test]
    fn activations_in_part_refine_those_that_gates_leave() {
        let made = Checkpoint::initialise(network(), 1, BatchNormInit::Identity);
        let graph = network().graph();
        let with = |gates: &str, activation: &str, shape: Shape| {
            let bits = (0..shape.channels).map(|channel| channel < 3).collect();
            let mask = ActivationMask::new(shape, Granularity::Channel, bits).expect("in part");
            let gates = Gates::from_mask(&network(), gates).expect("nine blocks");
            let gates = gates.with_parts([(activation.to_owned(), mask)].into());
            let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
            Checkpoint::new(network(), gates, tensors, provenance)
        };
        let (inner, map) = ("layer1.0.conv1.activation", Shape::new(8, 16, 16));
        let whole = with("111111111", "stem.activation", map).expect("belongs");
        let part = with("101111111", inner, map).expect("belongs");
        let count = |checkpoint: &Checkpoint| -> usize {
            graph.nodes().iter().map(|node| checkpoint.gates().activated(node)).sum()
        };
        // All 19, five channels less; then without the second block's inner one.
        let all: usize = 7 * 8 * 256 + 6 * 8 * 64 + 6 * 8 * 16;
        assert_eq!((count(&whole), count(&part)), (all - 5 * 256, all - 13 * 256));
        assert!(part.to_string().contains("activated   768 of 2048 by channel  layer1.0.conv1"));
        let fault = |gates, activation, shape| with(gates, activation, shape).expect_err("foreign");
        let found = fault("111111111", inner, Shape::new(8, 8, 8));
        assert_eq!(found, format!("{inner} has a mask of 8x8x8, not 8x16x16"));
        for (gates, activation) in
            [("011111111", inner), ("111111111", "conv1"), ("111111111", "?")]
        {
            let expected = format!("{activation} has a mask but is no activation of the network");
            assert_eq!(fault(gates, activation, map), expected);
        }
    }
}
