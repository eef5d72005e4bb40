//! How other projects name the layers of the networks that we know.

use crate::{Architecture, Graph, Network, Node, Op};
use std::fmt;
use std::str::FromStr;

/// A project's names for layers. Within a layer all use PyTorch's names of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Naming {
    /// torchvision, our own names too; also chenyaofo's pytorch-cifar-models and timm's ResNets.
    Torchvision,
    /// timm's `mobilenetv2_100` and other widths: `conv_stem`, `blocks.1.0.conv_pw`, `conv_head`.
    Timm,
    /// kuangliu's pytorch-cifar: `layers.1.conv1`, `shortcut.0`, `linear`. Its MobileNetV2 is another
    /// architecture: see [`Network::with_convolution_shortcuts`].
    Kuangliu,
    /// akamaster's pytorch_resnet_cifar10: as kuangliu's, with shortcuts that have no parameters where
    /// the map shrinks (every other pixel, zero channels on both sides).
    Akamaster,
}

impl Naming {
    /// All of them, the first that fits best being taken.
    pub const ALL: [Self; 4] = [Self::Torchvision, Self::Timm, Self::Kuangliu, Self::Akamaster];

    /// The name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision",
            Self::Timm => "timm",
            Self::Kuangliu => "kuangliu",
            Self::Akamaster => "akamaster",
        }
    }

    /// The naming's own form of `network`; `None` where it has no such network.
    #[must_use]
    pub fn form_of(self, network: &Network) -> Option<Network> {
        match (self, network.architecture()) {
            (Self::Kuangliu, Architecture::MobileNetV2) => {
                Some(network.clone().with_convolution_shortcuts(true))
            }
            (Self::Torchvision | Self::Timm, _) => Some(network.clone()),
            (Self::Kuangliu, _) => network.is_small().then(|| network.clone()),
            (Self::Akamaster, Architecture::ResNet20 | Architecture::ResNet32) => {
                (network.width() == 1.0).then(|| network.clone())
            }
            (Self::Akamaster, _) => None,
        }
    }

    /// Its names for the nodes with parameters of a network in its own form, in the order of the graph.
    pub(super) fn node_names(self, network: &Network, graph: &Graph) -> Vec<String> {
        let is_mobilenet = network.architecture() == Architecture::MobileNetV2;
        match self {
            Self::Timm if is_mobilenet => mobilenet_names(network, graph, &TimmMobileNet),
            Self::Kuangliu if is_mobilenet => mobilenet_names(network, graph, &KuangliuMobileNet),
            Self::Torchvision | Self::Timm => {
                parameter_nodes(graph.nodes()).map(|node| node.name.clone()).collect()
            }
            Self::Kuangliu | Self::Akamaster => parameter_nodes(graph.nodes())
                .map(|node| match node.name.as_str() {
                    "fc" => "linear".to_owned(),
                    name => name.replace("downsample", "shortcut"),
                })
                .collect(),
        }
    }
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Naming {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|naming| naming.name() == name);
        found.ok_or_else(|| format!("no naming is called {name:?}; known are {}", known()))
    }
}

/// The names of MobileNetV2's parts, each a list in the order of the graph.
trait MobileNetNames {
    fn stem(&self) -> [&'static str; 2];
    fn head(&self) -> [&'static str; 2];
    fn classifier(&self) -> &'static str;
    /// Prefix of a block: its number, its stage and its number within the stage.
    fn block(&self, number: usize, stage: usize, within: usize) -> String;
    /// Parts of a block with `count` of them.
    fn parts(&self, count: usize) -> &'static [&'static str];
}

struct TimmMobileNet;

impl MobileNetNames for TimmMobileNet {
    fn stem(&self) -> [&'static str; 2] {
        ["conv_stem", "bn1"]
    }

    fn head(&self) -> [&'static str; 2] {
        ["conv_head", "bn2"]
    }

    fn classifier(&self) -> &'static str {
        "classifier"
    }

    fn block(&self, _: usize, stage: usize, within: usize) -> String {
        format!("blocks.{stage}.{within}")
    }

    fn parts(&self, count: usize) -> &'static [&'static str] {
        match count {
            4 => &["conv_dw", "bn1", "conv_pw", "bn2"],
            _ => &["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"],
        }
    }
}

struct KuangliuMobileNet;

impl MobileNetNames for KuangliuMobileNet {
    fn stem(&self) -> [&'static str; 2] {
        ["conv1", "bn1"]
    }

    fn head(&self) -> [&'static str; 2] {
        ["conv2", "bn2"]
    }

    fn classifier(&self) -> &'static str {
        "linear"
    }

    fn block(&self, number: usize, _: usize, _: usize) -> String {
        format!("layers.{number}")
    }

    fn parts(&self, _: usize) -> &'static [&'static str] {
        &["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "shortcut.0", "shortcut.1"]
    }
}

fn mobilenet_names(network: &Network, graph: &Graph, names: &dyn MobileNetNames) -> Vec<String> {
    let mut places = network.stages().into_iter().enumerate().flat_map(|(stage, blocks)| {
        (0..blocks).map(move |within| (stage, within)) //
    });
    let mut all: Vec<String> = names.stem().map(str::to_owned).to_vec();
    let residual = graph.blocks().iter().filter(|block| block.is_residual);
    for (number, block) in residual.enumerate() {
        let (stage, within) = places.next().unwrap_or_default();
        let prefix = names.block(number, stage, within);
        let count = parameter_nodes(&graph.nodes()[block.nodes.clone()]).count();
        let parts = names.parts(count).iter().take(count);
        all.extend(parts.map(|part| format!("{prefix}.{part}")));
    }
    all.extend(names.head().map(str::to_owned));
    all.push(names.classifier().to_owned());
    all
}

/// The nodes that have parameters.
pub(super) fn parameter_nodes(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| matches!(node.op, Op::Conv(_) | Op::BatchNorm | Op::Linear { .. }))
}
