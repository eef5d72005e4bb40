//! MobileNetV2 (Sandler et al., arXiv 1801.04381), in the CIFAR and ImageNet forms.

use super::graph::{Condition, Graph, GraphBuilder, NodeId, Op};
use super::{Network, make_divisible};
use crate::ConvGeometry;

/// Expansion, output channels at width 1, number of blocks, stride of the first.
pub(super) const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// The stage that loses its stride, with the stem, in the CIFAR form.
const CIFAR_UNSTRIDED_STAGE: usize = 1;

/// 17 inverted residual blocks between stem and head; parameters named as in torchvision.
pub(super) fn graph(network: &Network) -> Graph {
    let scaled = |channels: usize| make_divisible(channels as f64 * network.width());
    let (mut graph, input) = GraphBuilder::new(network.input().shape);

    let stem_stride = if network.is_small() { 1 } else { 2 };
    let stem = ConvGeometry::same(3, scaled(32), 3, stem_stride);
    let mut x = conv_block(&mut graph, input, "features.0", stem);

    let mut feature = 1;
    for (stage, (expansion, channels, blocks, first_stride)) in STAGES.into_iter().enumerate() {
        let strided = !(network.is_small() && stage == CIFAR_UNSTRIDED_STAGE);
        for block in 0..blocks {
            let stride = if block == 0 && strided { first_stride } else { 1 };
            let prefix = format!("features.{feature}");
            let shape = InvertedResidual { expansion, channels: scaled(channels), stride };
            x = inverted_residual(&mut graph, x, &prefix, shape, network);
            feature += 1;
        }
    }

    let last = make_divisible(1280.0 * network.width().max(1.0));
    let head = ConvGeometry::same(graph.shape(x).channels, last, 1, 1);
    x = conv_block(&mut graph, x, &format!("features.{feature}"), head);
    x = graph.push("pool", Op::GlobalAveragePool, &[x]);
    graph.push("classifier.1", Op::Linear { inputs: last, outputs: network.classes() }, &[x]);
    graph.finish()
}

/// Stem and head: convolution, batch norm, activation.
fn conv_block(
    graph: &mut GraphBuilder,
    input: NodeId,
    prefix: &str,
    geometry: ConvGeometry,
) -> NodeId {
    let (start, gate) = (graph.len(), graph.next_gate());
    let x = graph.conv_norm(input, &format!("{prefix}.0"), &format!("{prefix}.1"), geometry);
    let x = graph.activation(prefix, x, Condition::Kept(gate));
    graph.close_block(prefix, start, false);
    x
}

struct InvertedResidual {
    expansion: usize,
    channels: usize,
    stride: usize,
}

/// Expand 1x1, depthwise 3x3, project 1x1; shortcut where shapes agree (or, in another form of the
/// network, wherever the stride is 1).
fn inverted_residual(
    graph: &mut GraphBuilder,
    input: NodeId,
    prefix: &str,
    block: InvertedResidual,
    network: &Network,
) -> NodeId {
    let (mut start, mut gate) = (graph.len(), graph.next_gate());
    let mut name = prefix.to_owned();
    let inputs = graph.shape(input).channels;
    let hidden = inputs * block.expansion;
    let mut part = 0;
    let mut x = input;
    if block.expansion != 1 || network.convolution_shortcuts() {
        let (conv, norm) = (format!("{prefix}.conv.0.0"), format!("{prefix}.conv.0.1"));
        x = graph.conv_norm(x, &conv, &norm, ConvGeometry::same(inputs, hidden, 1, 1));
        let expand = format!("{prefix}.expand");
        x = graph.activation(&expand, x, Condition::Kept(gate));
        if network.layer_gates() {
            graph.close_block(&expand, start, true);
            (start, gate, name) = (graph.len(), graph.next_gate(), format!("{prefix}.depthwise"));
        }
        part = 1;
    }
    let (conv, norm) = (format!("{prefix}.conv.{part}.0"), format!("{prefix}.conv.{part}.1"));
    x = graph.conv_norm(x, &conv, &norm, ConvGeometry::depthwise(hidden, 3, block.stride));
    x = graph.activation(&format!("{prefix}.depthwise"), x, Condition::Kept(gate));
    let (conv, norm) =
        (format!("{prefix}.conv.{}", part + 1), format!("{prefix}.conv.{}", part + 2));
    x = graph.conv_norm(x, &conv, &norm, ConvGeometry::same(hidden, block.channels, 1, 1));
    let same_channels = inputs == block.channels;
    if block.stride == 1 && (same_channels || network.convolution_shortcuts()) {
        let shortcut = if same_channels {
            input
        } else {
            let (conv, norm) = (format!("{prefix}.shortcut.0"), format!("{prefix}.shortcut.1"));
            let geometry = ConvGeometry::same(inputs, block.channels, 1, 1);
            graph.conv_norm(input, &conv, &norm, geometry)
        };
        x = graph.push(format!("{prefix}.add"), Op::Add, &[x, shortcut]);
    }
    if network.final_activation() && !network.layer_gates() {
        x = graph.activation(prefix, x, Condition::Removed(gate));
    }
    graph.close_block(&name, start, true);
    x
}
