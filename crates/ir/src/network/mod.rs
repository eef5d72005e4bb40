//! Which network: its family, size and input, from which everything else about it follows.

mod graph;
mod mobilenet_v2;
mod resnet;

pub use graph::{Activation, BlockId, BlockInfo, Condition, GateId, Graph, Node, NodeId, Op};

use crate::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Below this many pixels a side a network takes its CIFAR form: smaller strides at the start.
const SMALL_BELOW: usize = 96;

/// A network family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// 17 inverted residual blocks.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// 8 basic blocks.
    #[serde(rename = "resnet18")]
    ResNet18,
    /// 9 basic blocks of 16, 32 and 64 channels.
    #[serde(rename = "resnet20")]
    ResNet20,
    /// 15 basic blocks of 16, 32 and 64 channels.
    #[serde(rename = "resnet32")]
    ResNet32,
    /// 16 bottleneck blocks.
    #[serde(rename = "resnet50")]
    ResNet50,
}

impl Architecture {
    /// All families, for help texts and tests.
    pub const ALL: [Self; 5] =
        [Self::MobileNetV2, Self::ResNet18, Self::ResNet20, Self::ResNet32, Self::ResNet50];

    /// The name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MobileNetV2 => "mobilenet_v2",
            Self::ResNet18 => "resnet18",
            Self::ResNet20 => "resnet20",
            Self::ResNet32 => "resnet32",
            Self::ResNet50 => "resnet50",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = NetworkError;

    fn from_str(name: &str) -> Result<Self, NetworkError> {
        let unknown = || NetworkError::UnknownArchitecture { name: name.into() };
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(unknown)
    }
}

/// What the network takes in: an RGB image of this shape, `(pixel / 255 - mean) / std` per channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// 3 x resolution x resolution.
    pub shape: Shape,
    /// Mean of each channel, of pixels scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

impl InputSpec {
    /// Mean and deviation that torchvision uses for ImageNet.
    pub const IMAGENET_STATISTICS: ([f32; 3], [f32; 3]) =
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

    /// Mean and deviation of CIFAR-100's training images.
    pub const CIFAR100_STATISTICS: ([f32; 3], [f32; 3]) =
        ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]);

    /// Whether all are finite and the deviations positive.
    pub(crate) fn has_usable_statistics(&self) -> bool {
        let finite = |x: &f32| x.is_finite();
        self.mean.iter().all(finite) && self.std.iter().all(|x| finite(x) && *x > 0.0)
    }

    /// The normalised image, channel-major, from channel-major 8-bit pixels of the same shape.
    #[must_use]
    pub fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let area = self.shape.area();
        let value = |(i, &pixel): (usize, &u8)| {
            let channel = (i / area).min(2);
            (f32::from(pixel) / 255.0 - self.mean[channel]) / self.std[channel]
        };
        pixels.iter().enumerate().map(value).collect()
    }
}

/// A network's identity: from it follow its graph, its parameters' names and shapes, and its gates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "NetworkFields", into = "NetworkFields")]
pub struct Network(NetworkFields);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFields {
    architecture: Architecture,
    width: f64,
    classes: usize,
    activation: Activation,
    final_activation: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    convolution_shortcuts: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    layer_gates: bool,
    input: InputSpec,
    labels: Vec<String>,
}

impl Network {
    /// A network with ReLU, final activation, no class labels, and the input statistics customary
    /// for its size (CIFAR-100's for the CIFAR form, ImageNet's otherwise).
    ///
    /// # Errors
    /// [`NetworkError`] for sizes that no network can have.
    pub fn new(
        architecture: Architecture,
        width: f64,
        classes: usize,
        resolution: usize,
    ) -> Result<Self, NetworkError> {
        let (mean, std) = if resolution < SMALL_BELOW {
            InputSpec::CIFAR100_STATISTICS
        } else {
            InputSpec::IMAGENET_STATISTICS
        };
        let input = InputSpec { shape: Shape::new(3, resolution, resolution), mean, std };
        Self::try_from(NetworkFields {
            architecture,
            width,
            classes,
            activation: Activation::Relu,
            final_activation: true,
            convolution_shortcuts: false,
            layer_gates: false,
            input,
            labels: vec![],
        })
    }

    /// The same network with another non-linearity.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.0.activation = activation;
        self
    }

    /// The same network with or without an activation after each fused block.
    #[must_use]
    pub fn with_final_activation(mut self, final_activation: bool) -> Self {
        self.0.final_activation = final_activation;
        self
    }

    /// The same network with or without a shortcut around every stride-1 block of MobileNetV2, a 1x1
    /// convolution and batch norm (`shortcut.0`, `shortcut.1`) where channels change; the first block then
    /// expands too, by a factor of 1. This is the form of kuangliu's pytorch-cifar; other families have
    /// no such choice.
    #[must_use]
    pub fn with_convolution_shortcuts(mut self, convolution_shortcuts: bool) -> Self {
        let is_mobilenet = self.0.architecture == Architecture::MobileNetV2;
        self.0.convolution_shortcuts = convolution_shortcuts && is_mobilenet;
        self
    }

    /// The same network with a gate for each activation, or one for all of a block. With a gate each, blocks
    /// of MobileNetV2 have no final activation, and the activation after a ResNet's sum may go too.
    #[must_use]
    pub fn with_layer_gates(mut self, layer_gates: bool) -> Self {
        self.0.layer_gates = layer_gates;
        self
    }

    /// The same network of another width.
    ///
    /// # Errors
    /// [`NetworkError::Width`] for one that no network can have.
    pub fn with_width(mut self, width: f64) -> Result<Self, NetworkError> {
        self.0.width = width;
        Self::try_from(self.0)
    }

    /// The same network for images of other statistics.
    ///
    /// # Errors
    /// [`NetworkError`] where a deviation is not positive or a value not finite.
    pub fn with_statistics(mut self, mean: [f32; 3], std: [f32; 3]) -> Result<Self, NetworkError> {
        (self.0.input.mean, self.0.input.std) = (mean, std);
        Self::try_from(self.0)
    }

    /// The same network with names for its classes.
    ///
    /// # Errors
    /// [`NetworkError`] unless there is one name for each class (or none at all).
    pub fn with_labels(mut self, labels: Vec<String>) -> Result<Self, NetworkError> {
        self.0.labels = labels;
        Self::try_from(self.0)
    }

    /// Its family.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.0.architecture
    }

    /// Multiplier of every layer's channels.
    #[must_use]
    pub fn width(&self) -> f64 {
        self.0.width
    }

    /// Number of logits.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.0.classes
    }

    /// Its non-linearity.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.0.activation
    }

    /// Whether an activation follows each fused block.
    #[must_use]
    pub fn final_activation(&self) -> bool {
        self.0.final_activation
    }

    /// Whether it is a MobileNetV2 with a shortcut around every stride-1 block.
    #[must_use]
    pub fn convolution_shortcuts(&self) -> bool {
        self.0.convolution_shortcuts
    }

    /// Whether each activation has a gate of its own.
    #[must_use]
    pub fn layer_gates(&self) -> bool {
        self.0.layer_gates
    }

    /// Blocks in each stage of a MobileNetV2.
    pub(crate) fn stages(&self) -> Vec<usize> {
        mobilenet_v2::STAGES.map(|(_, _, blocks, _)| blocks).to_vec()
    }

    /// What it takes in.
    #[must_use]
    pub fn input(&self) -> &InputSpec {
        &self.0.input
    }

    /// Names of the classes; empty where none are known.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.0.labels
    }

    /// Whether it takes its CIFAR form (fewer strides at the start).
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.0.input.shape.height < SMALL_BELOW
    }

    /// Its operations.
    #[must_use]
    pub fn graph(&self) -> Graph {
        match self.0.architecture {
            Architecture::MobileNetV2 => mobilenet_v2::graph(self),
            _ => resnet::graph(self),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NetworkFields { architecture, width, classes, input, .. } = &self.0;
        write!(f, "{architecture} x{width} {} {classes} classes", input.shape)?;
        if self.0.convolution_shortcuts {
            write!(f, ", convolution shortcuts")?;
        }
        if self.0.layer_gates { write!(f, ", a gate a layer") } else { Ok(()) }
    }
}

impl From<Network> for NetworkFields {
    fn from(network: Network) -> Self {
        network.0
    }
}

impl TryFrom<NetworkFields> for Network {
    type Error = NetworkError;

    fn try_from(fields: NetworkFields) -> Result<Self, NetworkError> {
        let NetworkFields { width, classes, input, labels, .. } = &fields;
        if !(0.05..=8.0).contains(width) {
            return Err(NetworkError::Width { found: *width });
        }
        if !(1..=100_000).contains(classes) {
            return Err(NetworkError::Classes { found: *classes });
        }
        let Shape { channels, height, width } = input.shape;
        if channels != 3 || height != width || !(16..=1024).contains(&height) {
            return Err(NetworkError::Input { found: input.shape });
        }
        if !input.has_usable_statistics() {
            return Err(NetworkError::Statistics);
        }
        if !labels.is_empty() && labels.len() != *classes {
            return Err(NetworkError::Labels { expected: *classes, found: labels.len() });
        }
        Ok(Self(fields))
    }
}

/// A network that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum NetworkError {
    #[error(
        "no network is called {name:?}; known are {}",
        Architecture::ALL.map(Architecture::name).join(", ")
    )]
    UnknownArchitecture { name: String },
    #[error("a width multiplier lies between 0.05 and 8, not {found}")]
    Width { found: f64 },
    #[error("a network has 1 to 100000 classes, not {found}")]
    Classes { found: usize },
    #[error("the input is 3 square channels of 16 to 1024 pixels a side, not {found}")]
    Input { found: Shape },
    #[error("the input's mean and deviation must be finite and the deviation positive")]
    Statistics,
    #[error("expected {expected} class labels (or none), found {found}")]
    Labels { expected: usize, found: usize },
}

/// The nearest multiple of 8, at least 8 and not more than a tenth below (torchvision's rule).
fn make_divisible(channels: f64) -> usize {
    let nearest = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(architecture: Architecture, resolution: usize) -> Network {
        Network::new(architecture, 1.0, 100, resolution).expect("a usual size")
    }

    /// Multiplications in units of 10,000.
    fn size(architecture: Architecture, classes: usize, resolution: usize) -> u64 {
        let network = Network::new(architecture, 1.0, classes, resolution).expect("usual");
        (network.graph().multiplications() + 5_000) / 10_000
    }

    #[test]
    fn mobilenet_v2_has_its_published_size() {
        // torchvision states 0.301 G for ImageNet; the CIFAR form is the one of 88 M.
        assert_eq!(size(Architecture::MobileNetV2, 1000, 224), 30_077);
        assert_eq!(size(Architecture::MobileNetV2, 100, 32), 8_809);

        let cifar = network(Architecture::MobileNetV2, 32).graph();
        assert_eq!(cifar.blocks().len(), 19);
        assert_eq!(cifar.blocks().iter().filter(|b| b.is_residual).count(), 17);

        let imagenet = Network::new(Architecture::MobileNetV2, 1.0, 1000, 224).expect("usual");
        let elements = |(name, shape): (String, Vec<usize>)| {
            if name.contains("running") { 0 } else { shape.iter().product::<usize>() }
        };
        let parameters = imagenet.graph().parameters();
        assert_eq!(parameters.into_iter().map(elements).sum::<usize>(), 3_504_872);
    }

    #[test]
    fn resnets_have_their_published_sizes() {
        // torchvision states 1.814 G and 4.089 G. The CIFAR forms have 1x1 convolutions in their
        // downsampling shortcuts, which add 0.26 M to the paper's parameter-free ones.
        assert_eq!(size(Architecture::ResNet18, 1000, 224), 181_407);
        assert_eq!(size(Architecture::ResNet50, 1000, 224), 408_918);
        assert_eq!(size(Architecture::ResNet18, 100, 32), 55_547);
        assert_eq!(size(Architecture::ResNet20, 100, 32), 4_082);
        assert_eq!(size(Architecture::ResNet32, 100, 32), 6_913);
    }

    #[test]
    fn impossible_networks_are_refused() {
        let new = |width, classes, resolution| {
            Network::new(Architecture::ResNet18, width, classes, resolution)
        };
        assert_eq!(new(0.0, 10, 32), Err(NetworkError::Width { found: 0.0 }));
        assert!(new(f64::NAN, 10, 32).is_err());
        assert_eq!(new(1.0, 0, 32), Err(NetworkError::Classes { found: 0 }));
        assert!(matches!(new(1.0, 10, 4), Err(NetworkError::Input { .. })));
        let fine = new(1.0, 10, 32).expect("usual");
        assert!(fine.clone().with_labels(vec!["cat".into()]).is_err());
        assert!(fine.with_statistics([0.0; 3], [0.0; 3]).is_err());
    }

    #[test]
    fn every_node_comes_after_its_inputs() {
        for architecture in Architecture::ALL {
            for resolution in [32, 224] {
                let graph = network(architecture, resolution).graph();
                for (id, node) in graph.nodes().iter().enumerate() {
                    assert!(node.inputs.iter().all(|input| input.0 < id), "{}", node.name);
                    assert!(node.shape.elements() > 0, "{}", node.name);
                }
            }
        }
    }

    #[test]
    fn files_are_checked_like_constructors() {
        let json = serde_json::to_value(network(Architecture::MobileNetV2, 32)).expect("json");
        let mut bad = json.clone();
        bad["classes"] = 0.into();
        assert!(serde_json::from_value::<Network>(bad).is_err());
        assert!(serde_json::from_value::<Network>(json).is_ok());
    }
}
