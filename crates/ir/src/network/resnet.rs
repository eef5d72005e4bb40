//! ResNets (He et al., arXiv 1512.03385): 18 and 50 (ImageNet), 20 and 32 (CIFAR).

use super::graph::{Condition, Graph, GraphBuilder, NodeId, Op};
use super::{Architecture, Network, make_divisible};
use crate::ConvGeometry;

/// Residual stages; parameters named as in torchvision (`layer1.0.conv1`, `downsample.0`, `fc`).
pub(super) fn graph(network: &Network) -> Graph {
    let (channels, blocks, bottleneck): (&[usize], &[usize], bool) = match network.architecture() {
        Architecture::ResNet20 => (&[16, 32, 64], &[3, 3, 3], false),
        Architecture::ResNet32 => (&[16, 32, 64], &[5, 5, 5], false),
        Architecture::ResNet50 => (&[64, 128, 256, 512], &[3, 4, 6, 3], true),
        Architecture::ResNet18 | Architecture::MobileNetV2 => {
            (&[64, 128, 256, 512], &[2, 2, 2, 2], false)
        }
    };
    let scaled = |channels: usize| {
        if network.width() == 1.0 {
            channels
        } else {
            make_divisible(channels as f64 * network.width())
        }
    };

    let (mut graph, input) = GraphBuilder::new(network.input().shape);
    let mut x = stem(&mut graph, input, scaled(channels[0]), network.is_small());
    for (stage, (&channels, &blocks)) in channels.iter().zip(blocks).enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let shape = Residual { channels: scaled(channels), stride, bottleneck };
            let prefix = format!("layer{}.{block}", stage + 1);
            x = residual(&mut graph, x, &prefix, &shape, network);
        }
    }
    x = graph.push("avgpool", Op::GlobalAveragePool, &[x]);
    let inputs = graph.shape(x).channels;
    graph.push("fc", Op::Linear { inputs, outputs: network.classes() }, &[x]);
    graph.finish()
}

/// CIFAR: 3x3 at stride 1. ImageNet: 7x7 at stride 2, then max pool.
fn stem(graph: &mut GraphBuilder, input: NodeId, channels: usize, small: bool) -> NodeId {
    let (start, gate) = (graph.len(), graph.next_gate());
    let (kernel, stride) = if small { (3, 1) } else { (7, 2) };
    let geometry = ConvGeometry::same(3, channels, kernel, stride);
    let mut x = graph.conv_norm(input, "conv1", "bn1", geometry);
    x = graph.activation("stem", x, Condition::Kept(gate));
    if !small {
        x = graph.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]);
    }
    graph.close_block("stem", start, false);
    x
}

struct Residual {
    channels: usize,
    stride: usize,
    bottleneck: bool,
}

/// Basic block (3x3, 3x3) or bottleneck (1x1, 3x3 with the stride, 1x1 to four times the channels).
///
/// The gate holds the activations inside the block. The one after the sum is always there when the
/// network has a final activation, and falls with the gate otherwise. Where each layer has its own gate,
/// so has the sum, together with the last convolution and the shortcut.
fn residual(
    graph: &mut GraphBuilder,
    input: NodeId,
    prefix: &str,
    block: &Residual,
    network: &Network,
) -> NodeId {
    let (mut start, mut gate) = (graph.len(), graph.next_gate());
    let inputs = graph.shape(input).channels;
    let Residual { channels, stride, bottleneck } = *block;
    let outputs = if bottleneck { 4 * channels } else { channels };
    let convs = if bottleneck {
        vec![
            ConvGeometry::same(inputs, channels, 1, 1),
            ConvGeometry::same(channels, channels, 3, stride),
            ConvGeometry::same(channels, outputs, 1, 1),
        ]
    } else {
        vec![
            ConvGeometry::same(inputs, channels, 3, stride),
            ConvGeometry::same(channels, channels, 3, 1),
        ]
    };

    let mut x = input;
    let last = convs.len();
    for (number, geometry) in (1..).zip(convs) {
        let (conv, norm) = (format!("{prefix}.conv{number}"), format!("{prefix}.bn{number}"));
        x = graph.conv_norm(x, &conv, &norm, geometry);
        if number != last {
            x = graph.activation(&conv, x, Condition::Kept(gate));
            if network.layer_gates() {
                graph.close_block(&conv, start, true);
                (start, gate) = (graph.len(), graph.next_gate());
            }
        }
    }
    let shortcut = if stride == 1 && inputs == outputs {
        input
    } else {
        let (conv, norm) = (format!("{prefix}.downsample.0"), format!("{prefix}.downsample.1"));
        graph.conv_norm(input, &conv, &norm, ConvGeometry::same(inputs, outputs, 1, stride))
    };
    x = graph.push(format!("{prefix}.add"), Op::Add, &[x, shortcut]);
    let is_fixed = network.final_activation() && !network.layer_gates();
    let when = if is_fixed { Condition::Always } else { Condition::Kept(gate) };
    x = graph.activation(prefix, x, when);
    graph.close_block(prefix, start, true);
    x
}
