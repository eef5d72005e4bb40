//! Fused models with random weights.
// Every test file uses its own part of this.
#![allow(dead_code)]

use copriv_ir::{
    ActivationMask, ConvGeometry, FusedLayer, FusedModel, FusedOp, Granularity, Graph, LayerId,
    Network, NodeId, Op, Provenance, Shape, Tensor,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Layers one after the other; convolutions get random weights of variance `1 / fan_in` and biases.
pub struct ModelBuilder {
    layers: Vec<FusedLayer>,
    tensors: BTreeMap<String, Tensor>,
    rng: ChaCha8Rng,
}

impl ModelBuilder {
    pub fn new(input: Shape, seed: u64) -> Self {
        let layer = FusedLayer {
            name: "input".into(),
            op: FusedOp::Input,
            inputs: vec![],
            shape: input,
            block: None,
            mask: None,
        };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { layers: vec![layer], tensors: BTreeMap::new(), rng }
    }

    pub fn push(&mut self, name: &str, op: FusedOp, inputs: &[LayerId]) -> LayerId {
        let shapes: Vec<Shape> = inputs.iter().map(|id| self.layers[id.0].shape).collect();
        let shape = op.output_shape(&shapes).expect("layers fit each other");
        if let FusedOp::Conv(geometry) = op {
            let classes = |extent| geometry.border_classes(extent).count();
            let (rows, columns) = (classes(shapes[0].height), classes(shapes[0].width));
            let amplitude = (3.0 / geometry.fan_in() as f32).sqrt();
            self.random(&format!("{name}.weight"), geometry.weight_shape().to_vec(), amplitude);
            self.random(&format!("{name}.bias"), vec![rows, columns, geometry.out_channels], 0.2);
        }
        let inputs = inputs.to_vec();
        self.layers.push(FusedLayer {
            name: name.into(),
            op,
            inputs,
            shape,
            block: None,
            mask: None,
        });
        LayerId(self.layers.len() - 1)
    }

    fn random(&mut self, name: &str, shape: Vec<usize>, amplitude: f32) {
        let count = shape.iter().product();
        let data = (0..count).map(|_| self.rng.random_range(-amplitude..amplitude)).collect();
        self.tensors.insert(name.into(), Tensor::new(shape, data).expect("right size"));
    }

    /// Lets the activation `name` apply to the channels or values that these bits say, over and over.
    pub fn mask(&mut self, name: &str, by: Granularity, bits: &[bool]) {
        let layer = self.layers.iter_mut().find(|layer| layer.name == name).expect("its layer");
        let bits = bits.iter().copied().cycle().take(by.bits(layer.shape)).collect();
        layer.mask = Some(ActivationMask::new(layer.shape, by, bits).expect("in part"));
    }

    pub fn set(&mut self, name: &str, value: f32) {
        self.tensors.get_mut(name).expect("exists").data_mut().fill(value);
    }

    pub fn finish(self, network: Network) -> FusedModel {
        let provenance = Provenance::new("test", None, serde_json::Value::Null, None);
        FusedModel::new(network, "1".into(), self.layers, self.tensors, provenance)
            .expect("a valid model")
    }
}

/// The network without batch norms; with `fused`, every residual block is one convolution and ReLU.
pub fn random_network(network: &Network, fused: bool) -> FusedModel {
    let graph = network.graph();
    let mut model = ModelBuilder::new(network.input().shape, 7);
    let mut layers = vec![LayerId(0)];
    for (id, node) in graph.nodes().iter().enumerate().skip(1) {
        let inputs: Vec<LayerId> = node.inputs.iter().map(|input| layers[input.0]).collect();
        let block = graph.blocks().iter().find(|b| b.is_residual && b.nodes.contains(&id));
        let layer = match block {
            Some(block) if fused => {
                if id + 1 < block.nodes.end {
                    layers[block.nodes.start - 1]
                } else {
                    let before = NodeId(block.nodes.start - 1);
                    let geometry = inverted_residual(&graph, before, id);
                    let conv = FusedOp::Conv(geometry);
                    let x = model.push(&block.name, conv, &[layers[before.0]]);
                    let name = format!("{}.activation", block.name);
                    model.push(&name, FusedOp::Activation(network.activation()), &[x])
                }
            }
            _ => unfused(&mut model, network, &node.op, &node.name, &inputs),
        };
        layers.push(layer);
    }
    model.finish(network.clone())
}

fn unfused(
    model: &mut ModelBuilder,
    network: &Network,
    op: &Op,
    name: &str,
    inputs: &[LayerId],
) -> LayerId {
    let op = match *op {
        Op::Conv(geometry) => FusedOp::Conv(geometry),
        Op::Linear { inputs, outputs } => {
            FusedOp::Conv(ConvGeometry::fully_connected(inputs, outputs))
        }
        Op::Activation(copriv_ir::Condition::Removed(_)) | Op::BatchNorm => return inputs[0],
        Op::Activation(_) => FusedOp::Activation(network.activation()),
        Op::Add => FusedOp::Add,
        Op::MaxPool { kernel, stride, padding } => FusedOp::MaxPool { kernel, stride, padding },
        Op::GlobalAveragePool => FusedOp::GlobalAveragePool,
        Op::Input => unreachable!("the first node alone"),
    };
    model.push(name, op, inputs)
}

/// The 3x3 convolution that an inverted residual block fuses into.
fn inverted_residual(graph: &Graph, before: NodeId, last: usize) -> ConvGeometry {
    let (input, output) = (graph.nodes()[before.0].shape, graph.nodes()[last].shape);
    let stride = input.height.div_ceil(output.height);
    ConvGeometry::same(input.channels, output.channels, 3, stride)
}
