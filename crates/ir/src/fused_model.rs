//! The fused network: no batch norm, no gate, one convolution for each linear run.

use crate::artefact::tensor_file::{self, StoredTensor, StoredTensors};
use crate::{
    Activation, ActivationMask, ArtefactError, ArtefactKind, ConvGeometry, Digest, Network,
    Provenance, Shape, Tensor,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Position of a layer in [`FusedModel::layers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub usize);

/// One operation of the fused network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FusedOp {
    /// The normalised image.
    Input,
    /// Convolution with a bias map: tensors `<name>.weight` `[out, in / groups, kernel, kernel]` and
    /// `<name>.bias` `[row classes, column classes, out]` (see [`crate::BorderClasses`]); a bias that is the
    /// same everywhere is stored as `[1, 1, out]`. A fully connected layer is a 1x1 convolution.
    Conv(ConvGeometry),
    /// Element-wise non-linearity.
    Activation(Activation),
    /// Sum of the two inputs.
    Add,
    /// Maximum over windows; padding never wins.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Step between windows.
        stride: usize,
        /// Border on each side.
        padding: usize,
    },
    /// Mean over each channel.
    GlobalAveragePool,
}

impl FusedOp {
    /// Number of inputs.
    #[must_use]
    pub const fn arity(&self) -> usize {
        match self {
            Self::Input => 0,
            Self::Add => 2,
            _ => 1,
        }
    }

    /// Shape of the output for inputs of these shapes; `None` where they do not fit.
    #[must_use]
    pub fn output_shape(&self, inputs: &[Shape]) -> Option<Shape> {
        let shape = match (self, inputs) {
            (Self::Conv(geometry), [input]) => {
                let fits = geometry.fault().is_none() && input.channels == geometry.in_channels;
                fits.then(|| geometry.output_shape(*input))?
            }
            (Self::Activation(_), [input]) => *input,
            (Self::Add, [a, b]) => (a == b).then_some(*a)?,
            (Self::MaxPool { kernel, stride, padding }, [input]) => {
                let window = ConvGeometry {
                    kernel: *kernel,
                    stride: *stride,
                    padding: *padding,
                    ..ConvGeometry::depthwise(input.channels, *kernel, *stride)
                };
                window.fault().is_none().then(|| window.output_shape(*input))?
            }
            (Self::GlobalAveragePool, [input]) => Shape::vector(input.channels),
            _ => return None,
        };
        shape.is_possible().then_some(shape)
    }
}

/// A layer in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusedLayer {
    /// Prefix of its tensors' names: the block or convolution it came from.
    pub name: String,
    /// What it computes.
    pub op: FusedOp,
    /// Earlier layers, in the operation's order.
    pub inputs: Vec<LayerId>,
    /// Shape of its output.
    pub shape: Shape,
    /// The block of the trained network that it belongs to (its gate's number), if any.
    pub block: Option<usize>,
    /// The values that an activation applies to; all where there is none. Files hold it as the tensor `<name>.mask`, packed.
    #[serde(skip)]
    pub mask: Option<ActivationMask>,
}

impl FusedLayer {
    /// How many values an activation applies to; none for other layers.
    #[must_use]
    pub fn activated(&self) -> usize {
        match (&self.op, &self.mask) {
            (FusedOp::Activation(_), Some(mask)) => mask.count(),
            (FusedOp::Activation(_), None) => self.shape.elements(),
            _ => 0,
        }
    }
}

/// A network ready to compile: layers with inputs before users, the last one the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedModel {
    header: Header,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    network: Network,
    mask: String,
    layers: Vec<FusedLayer>,
    provenance: Provenance,
}

impl FusedModel {
    /// The fused form of `network` whose gates are in the state `mask` (one digit a gate).
    ///
    /// # Errors
    /// In words: a mask of other digits than 0 and 1, or the first layer whose inputs, shape or tensors are wrong.
    pub fn new(
        network: Network,
        mask: String,
        layers: Vec<FusedLayer>,
        tensors: BTreeMap<String, Tensor>,
        provenance: Provenance,
    ) -> Result<Self, String> {
        if mask.is_empty() || !mask.bytes().all(|digit| matches!(digit, b'0' | b'1')) {
            return Err(format!("{mask:?} is no mask"));
        }
        check_layers(&network, &layers)?;
        let mut expected = 0;
        for (name, options) in layers.iter().flat_map(|layer| tensor_shapes(layer, &layers)) {
            let tensor = tensors.get(&name).ok_or_else(|| format!("{name} is missing"))?;
            if !options.iter().any(|shape| shape == tensor.shape()) {
                return Err(format!("{name} has shape {:?}, not {options:?}", tensor.shape()));
            }
            if !tensor.data().iter().all(|x| x.is_finite()) {
                return Err(format!("{name} holds values that are not finite"));
            }
            expected += 1;
        }
        if tensors.len() != expected {
            return Err(format!(
                "{} tensors belong to the layers, not {}",
                expected,
                tensors.len()
            ));
        }
        Ok(Self { header: Header { network, mask, layers, provenance }, tensors })
    }

    /// The network it is a form of.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.header.network
    }

    /// State of the gates: one digit each, 1 kept, 0 removed and fused.
    #[must_use]
    pub fn mask(&self) -> &str {
        &self.header.mask
    }

    /// All layers, inputs before users.
    #[must_use]
    pub fn layers(&self) -> &[FusedLayer] {
        &self.header.layers
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

    /// Weight and bias map of a convolution layer; `None` for other layers.
    #[must_use]
    pub fn conv(&self, layer: &FusedLayer) -> Option<(ConvGeometry, &Tensor, &Tensor)> {
        let FusedOp::Conv(geometry) = layer.op else { return None };
        let tensor = |suffix: &str| self.tensors.get(&format!("{}.{suffix}", layer.name));
        Some((geometry, tensor("weight")?, tensor("bias")?))
    }

    /// Digest of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tensor_file::digest(ArtefactKind::FusedModel, &self.header, &self.stored())
    }

    /// Writes it as safetensors.
    ///
    /// # Errors
    /// [`ArtefactError::Io`]; what was at `path` is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        tensor_file::write(path, ArtefactKind::FusedModel, &self.header, &self.stored())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`ArtefactError`] that names the file, the field and what was expected.
    pub fn read(path: &Path) -> Result<Self, ArtefactError> {
        let (mut header, mut stored): (Header, _) =
            tensor_file::read(path, ArtefactKind::FusedModel)?;
        let unsound =
            |fault: String| ArtefactError::damaged(path, "content", "a fused model", fault);
        // Before anything is computed from the layers' sizes.
        check_layers(&header.network, &header.layers).map_err(unsound)?;
        let mut tensors = BTreeMap::new();
        let shapes = header.layers.iter().flat_map(|layer| tensor_shapes(layer, &header.layers));
        for (name, options) in shapes {
            let found = stored.get(&name).map(|tensor| &tensor.shape);
            let fitting = options.iter().find(|shape| found == Some(shape)).or(options.last());
            let shape = fitting.cloned().unwrap_or_default();
            let tensor = tensor_file::take_f32(path, &mut stored, &name, &shape)?;
            tensors.insert(name, tensor);
        }
        for layer in &mut header.layers {
            if matches!(layer.op, FusedOp::Activation(_)) {
                layer.mask = tensor_file::take_mask(path, &mut stored, &layer.name, layer.shape)?;
            }
        }
        tensor_file::expect_no_more(path, &stored)?;
        let Header { network, mask, layers, provenance } = header;
        Self::new(network, mask, layers, tensors, provenance).map_err(unsound)
    }

    fn stored(&self) -> StoredTensors {
        let masks = self.header.layers.iter().filter_map(|layer| {
            layer.mask.as_ref().map(|mask| tensor_file::stored_mask(&layer.name, mask))
        });
        let tensors = self.tensors.iter().map(|(name, t)| (name.clone(), StoredTensor::f32(t)));
        tensors.chain(masks).collect()
    }
}

fn check_layers(network: &Network, layers: &[FusedLayer]) -> Result<(), String> {
    let mut names = std::collections::BTreeSet::new();
    for (id, layer) in layers.iter().enumerate() {
        let FusedLayer { name, op, inputs, shape, mask, .. } = layer;
        if !names.insert(name) {
            return Err(format!("two layers are called {name}"));
        }
        if (*op == FusedOp::Input) != (id == 0) {
            return Err(format!("layer {name}: exactly the first layer is the input"));
        }
        if inputs.len() != op.arity() || inputs.iter().any(|input| input.0 >= id) {
            return Err(format!("layer {name} does not follow its {} inputs", op.arity()));
        }
        let input_shapes: Vec<Shape> = inputs.iter().map(|input| layers[input.0].shape).collect();
        let expected =
            if id == 0 { Some(network.input().shape) } else { op.output_shape(&input_shapes) };
        if expected != Some(*shape) {
            return Err(format!("layer {name} cannot have shape {shape}"));
        }
        if let Some(mask) = mask
            && (!matches!(op, FusedOp::Activation(_)) || mask.shape() != *shape)
        {
            return Err(format!("layer {name} cannot have a mask of {}", mask.shape()));
        }
    }
    match layers.last() {
        Some(last) if last.shape == Shape::vector(network.classes()) => Ok(()),
        _ => Err(format!("the last layer does not give {} logits", network.classes())),
    }
}

/// Names of a layer's tensors, each with the shapes it may have.
fn tensor_shapes(layer: &FusedLayer, layers: &[FusedLayer]) -> Vec<(String, Vec<Vec<usize>>)> {
    let FusedOp::Conv(geometry) = &layer.op else { return vec![] };
    let Some(input) = layer.inputs.first().and_then(|input| layers.get(input.0)) else {
        return vec![];
    };
    let rows = geometry.border_classes(input.shape.height).count();
    let columns = geometry.border_classes(input.shape.width).count();
    let outputs = geometry.out_channels;
    vec![
        (format!("{}.weight", layer.name), vec![geometry.weight_shape().to_vec()]),
        (format!("{}.bias", layer.name), vec![vec![1, 1, outputs], vec![rows, columns, outputs]]),
    ]
}

impl fmt::Display for FusedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { network, mask, layers, provenance } = &self.header;
        writeln!(f, "fused model {}", self.digest().short())?;
        writeln!(f, "network     {network}")?;
        writeln!(f, "gates       {mask}")?;
        writeln!(f, "layers      {}", layers.len())?;
        write!(f, "made by     {provenance}")
    }
}
