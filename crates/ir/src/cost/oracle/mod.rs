//! The literature's formulae: what CrypTFlow2 (CCS 2020) and CoPriv (NeurIPS 2023) say a layer costs.
//!
//! They count OT payload and ignore rounding to bytes, setup and the masked inputs, so [`super::plan`]
//! differs from them a little; tests of the compiler state by how much and why. They serve for
//! comparison with published figures, as the trainer's communication loss ([`block_costs`]), and where fusing
//! decides what to merge.
//!
//! Everything is in bytes.

mod blocks;

pub use blocks::{
    BlockCost, Bytes, MergedStretch, block_costs, layer_costs, merged_stretches, node_costs,
};

use crate::{
    Activation, ConvGeometry, Graph, Lowering, MatMulShape, Node, Op, Party, Shape, WinogradTile,
};

/// How a convolution is computed, each way adding to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Direct, the client's bits as choices.
    CrypTFlow2,
    /// Stride-1 3x3 convolutions by F(2x2, 3x3), every product by itself.
    WinogradElementWise,
    /// Tiles aggregated into 16 matrix products.
    TileAggregation,
    /// The cheaper party's bits as choices.
    Adaptive,
    /// Stride-2 3x3 convolutions in four phases; every convolution by its cheapest lowering.
    WinogradStride2,
}

/// The formulae for one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oracle {
    /// Security parameter: bits of an OT.
    pub lambda: u32,
    /// Width of the ring.
    pub bits: u32,
    /// Fractional bits dropped after each multiplication.
    pub scale: u32,
}

impl Oracle {
    /// As CrypTFlow2 and CoPriv are reported: 41 bits, 12 of them fractional.
    pub const PAPER: Self = Self { lambda: 128, bits: 41, scale: 12 };

    /// Matrix products by correlated OT, `l` bits of each of the chooser's values as choices:
    /// `k n l (lambda + m (l + 1) / 2)` where the client chooses, and with m and n exchanged where
    /// the server does.
    #[must_use]
    pub fn mat_mul(&self, shape: MatMulShape, chooser: Party) -> f64 {
        let (values, len) = match chooser {
            Party::Client => (shape.n, shape.m),
            Party::Server => (shape.m, shape.n),
        };
        (shape.count * shape.k * values) as f64 * self.vector_product(len)
    }

    /// One convolution for a map of shape `input`.
    #[must_use]
    pub fn convolution(&self, method: Method, geometry: &ConvGeometry, input: Shape) -> f64 {
        // The papers lower dense convolutions alone by Winograd.
        let shape = |lowering: Lowering| lowering.mat_mul(geometry, input);
        let dense = |lowering: Lowering| shape(lowering).filter(|_| geometry.groups == 1);
        let adaptive = |shape| {
            let cost = |chooser| self.mat_mul(shape, chooser);
            cost(Party::Client).min(cost(Party::Server))
        };
        let by_client = |shape| self.mat_mul(shape, Party::Client);
        let direct = shape(Lowering::Direct);
        let winograd = dense(Lowering::Winograd(WinogradTile::F2X2_3X3));
        let strided = dense(Lowering::WinogradStride2);
        let cost = match method {
            Method::CrypTFlow2 => direct.map(by_client),
            Method::WinogradElementWise => match winograd {
                Some(MatMulShape { count, m, k, n }) => {
                    Some((count * m * k * n) as f64 * self.vector_product(1))
                }
                None => direct.map(by_client),
            },
            Method::TileAggregation => winograd.or(direct).map(by_client),
            Method::Adaptive => winograd.or(direct).map(adaptive),
            Method::WinogradStride2 => {
                [direct, winograd, strided].into_iter().flatten().map(adaptive).reduce(f64::min)
            }
        };
        cost.unwrap_or_default()
    }

    /// All convolutions and fully connected layers of an unfused network.
    #[must_use]
    pub fn convolutions(&self, method: Method, graph: &Graph) -> f64 {
        let layers = graph.nodes().iter().filter_map(|node| convolution(graph, node));
        layers.map(|(geometry, input)| self.convolution(method, &geometry, input)).sum()
    }

    /// ReLU: `(lambda + 18) l` bits an element, an upper bound (CrypTFlow2, section 3.2).
    #[must_use]
    pub fn relu(&self, elements: usize) -> f64 {
        let Self { lambda, bits, .. } = *self;
        elements as f64 * f64::from((lambda + 18) * bits) / 8.0
    }

    /// The network's activation: ReLU6 compares twice.
    #[must_use]
    pub fn activation(&self, function: Activation, elements: usize) -> f64 {
        match function {
            Activation::Relu => self.relu(elements),
            Activation::Relu6 => 2.0 * self.relu(elements),
        }
    }

    /// One convolution for a map of shape `input`, and the truncation after it.
    #[must_use]
    pub fn linear(&self, method: Method, geometry: &ConvGeometry, input: Shape) -> Bytes {
        Bytes {
            offline: self.convolution(method, geometry, input),
            online: self.truncation(geometry.output_shape(input).elements()),
        }
    }

    /// Faithful truncation by the scale: `lambda (l + s + 2) + 19 l + 14 s` bits an element, an upper
    /// bound (CrypTFlow2, section 4).
    #[must_use]
    pub fn truncation(&self, elements: usize) -> f64 {
        let Self { lambda, bits, scale } = *self;
        elements as f64 * f64::from(lambda * (bits + scale + 2) + 19 * bits + 14 * scale) / 8.0
    }

    /// A value's `l` bits as choices over vectors of `len`: `l (lambda + len (l + 1) / 2)` bits.
    fn vector_product(&self, len: usize) -> f64 {
        let (lambda, bits) = (f64::from(self.lambda), f64::from(self.bits));
        bits * (lambda + len as f64 * (bits + 1.0) / 2.0) / 8.0
    }
}

/// A convolution or fully connected layer as a convolution, and the shape of its input.
fn convolution(graph: &Graph, node: &Node) -> Option<(ConvGeometry, Shape)> {
    let input = graph.nodes().get(node.inputs.first()?.0)?.shape;
    match node.op {
        Op::Conv(geometry) => Some((geometry, input)),
        Op::Linear { inputs, outputs } => {
            Some((ConvGeometry::fully_connected(inputs, outputs), input))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::blocks::merged;
    use super::*;
    use crate::{Architecture, BlockInfo, Network};

    fn network(architecture: Architecture, width: f64, resolution: usize) -> Network {
        let classes = if resolution == 32 { 100 } else { 1000 };
        Network::new(architecture, width, classes, resolution).expect("a usual size")
    }

    /// Gigabytes (1e9) to one decimal.
    fn gigabytes(bytes: f64) -> f64 {
        (bytes / 1e8).round() / 10.0
    }

    #[test]
    fn resnet18_on_cifar100_gives_the_published_chain() {
        let graph = network(Architecture::ResNet18, 1.0, 32).graph();
        let cost = |method| gigabytes(Oracle::PAPER.convolutions(method, &graph));
        assert_eq!(cost(Method::CrypTFlow2), 62.6);
        assert_eq!(cost(Method::WinogradElementWise).round(), 174.0);
        assert_eq!(cost(Method::TileAggregation), 31.7);
        assert_eq!(cost(Method::Adaptive), 31.1);
        assert_eq!(cost(Method::WinogradStride2), 29.2);
    }

    /// The block as one convolution, whether that is cheaper or not, with the activation after it.
    fn whole(graph: &Graph, block: &BlockInfo) -> Bytes {
        let (geometry, input) = merged(graph, &block.nodes).expect("one convolution");
        let linear = Oracle::PAPER.linear(Method::WinogradStride2, &geometry, input);
        let activation = Oracle::PAPER.relu(geometry.output_shape(input).elements());
        linear + Bytes { offline: 0.0, online: if block.is_residual { activation } else { 0.0 } }
    }

    #[test]
    fn mobilenet_v2_on_cifar100_costs_what_the_papers_formulae_say() {
        let network = network(Architecture::MobileNetV2, 1.0, 32);
        let classifier = Oracle::PAPER.convolution(
            Method::CrypTFlow2,
            &ConvGeometry::fully_connected(1280, 100),
            Shape::vector(1280),
        );
        let (graph, costs) = (network.graph(), block_costs(&network));
        let state = |fused: bool| -> Bytes {
            let choose = |(cost, block): (&BlockCost, &BlockInfo)| {
                if fused && block.is_residual { whole(&graph, block) } else { cost.before }
            };
            costs.iter().zip(graph.blocks()).map(choose).sum()
        };
        assert_eq!(gigabytes(state(false).offline + classifier), 13.9);
        assert_eq!(gigabytes(state(false).online), 2.8);
        assert_eq!(gigabytes(state(true).offline + classifier), 4.0);
        assert_eq!((state(true).online / 1e7).round(), 33.0, "0.33 GB");
    }

    #[test]
    fn a_depthwise_product_costs_lambda_and_half_a_ring() {
        let geometry = ConvGeometry::depthwise(32, 3, 1);
        let cost = Oracle::PAPER.convolution(Method::CrypTFlow2, &geometry, Shape::new(32, 8, 8));
        assert_eq!(cost, (9 * 32 * 64) as f64 * 41.0 * (128.0 + 21.0) / 8.0);
    }

    #[test]
    fn aggregated_winograd_is_the_adaptive_formula() {
        let geometry = ConvGeometry::same(48, 24, 3, 1);
        let cost = Oracle::PAPER.convolution(Method::Adaptive, &geometry, Shape::new(48, 14, 14));
        let (t, k) = (49.0, 24.0);
        let by_client = t * (128.0 + k * 21.0);
        let by_server = k * (128.0 + t * 21.0);
        assert_eq!(cost, 16.0 * 48.0 * 41.0 * f64::min(by_client, by_server) / 8.0);
    }

    /// The table that CoPriv gives for MobileNetV2-1.4 on ImageNet, MB by gate, before and after fusing.
    ///
    /// No accounting that we tried gives all of it (rings of 12 to 64 bits, OTs of 2 to 256 bits, narrower
    /// weights or activations as choices, 1e6 or 2^20 bytes, with or without non-linear layers). The
    /// stem fits our formula at a constant ratio of 1.07 in both states; other blocks are up to 1.9
    /// times cheaper there before fusing and up to 3.6 times after. They differ most in the first
    /// block, whose convolutions get dearer by our formula when fused: where a block is costed for a decision
    /// ([`block_costs`]), that one is left as two convolutions.
    const PUBLISHED: [(f64, f64); 19] = [
        (1850.0, 1139.0),
        (5903.0, 1789.0),
        (6770.0, 885.0),
        (6107.0, 489.0),
        (3034.0, 436.0),
        (2339.0, 222.0),
        (2339.0, 222.0),
        (1366.0, 296.0),
        (1858.0, 314.0),
        (1858.0, 314.0),
        (1858.0, 314.0),
        (2116.0, 453.0),
        (3521.0, 671.0),
        (3521.0, 671.0),
        (2336.0, 768.0),
        (2598.0, 707.0),
        (2598.0, 707.0),
        (3426.0, 1378.0),
        (2300.0, 2300.0),
    ];

    #[test]
    fn mobilenet_v2_on_imagenet_beside_the_published_table() {
        let network = network(Architecture::MobileNetV2, 1.4, 224);
        let (graph, costs) = (network.graph(), block_costs(&network));
        let blocks = costs.iter().zip(graph.blocks());
        let ratio = |ours: f64, theirs: f64| (ours / 1e4 / theirs).round() / 100.0;
        let ratios: Vec<(f64, f64)> = blocks
            .zip(PUBLISHED)
            .map(|((ours, block), (before, after))| {
                (ratio(ours.before.offline, before), ratio(whole(&graph, block).offline, after))
            })
            .collect();
        let expected = [
            (1.07, 1.07),
            (1.03, 3.48),
            (1.45, 1.84),
            (1.43, 2.85),
            (1.34, 1.92),
            (1.73, 3.61),
            (1.73, 3.61),
            (1.57, 2.01),
            (1.48, 2.23),
            (1.48, 2.23),
            (1.48, 2.23),
            (1.55, 2.33),
            (1.68, 2.43),
            (1.68, 2.43),
            (1.55, 1.75),
            (1.42, 2.01),
            (1.42, 2.01),
            (1.54, 2.03),
            (1.85, 1.85),
        ];
        assert_eq!(ratios, expected);
    }

    #[test]
    fn every_gate_of_mobilenet_v2_saves_when_removed() {
        let costs = block_costs(&network(Architecture::MobileNetV2, 1.4, 224));
        assert_eq!(costs.len(), 19);
        for cost in costs {
            assert!(cost.after.total() < cost.before.total());
        }
    }
}
