//! Networks in single precision: what a checkpoint and a fused model compute.

mod layer;

use crate::{Checkpoint, ConvGeometry, FusedModel, FusedOp, Graph, LayerId, Op, Shape, Tensor};
use layer::{Affine, BiasMap, FloatLayer, FloatOp};
use rayon::prelude::*;

/// The trained network in inference mode: batch norms use their running statistics, the
/// activations of removed gates are absent.
///
/// Images are normalised, channel-major, of the network's input shape.
pub struct CheckpointEvaluator(FloatNetwork);

impl CheckpointEvaluator {
    /// The network of `checkpoint`, its parameters copied.
    #[must_use]
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let graph = checkpoint.network().graph();
        let layers = graph.nodes().iter().map(|node| FloatLayer {
            op: trained_op(checkpoint, &node.op, &node.name),
            inputs: node.inputs.iter().map(|input| input.0).collect(),
            shape: node.shape,
        });
        Self(FloatNetwork { layers: layers.collect() })
    }

    /// Logits of one image.
    ///
    /// # Panics
    /// Where the image does not have the network's input shape.
    #[must_use]
    pub fn logits(&self, image: &[f32]) -> Vec<f32> {
        self.0.logits(image)
    }

    /// Logits of many images, on all threads.
    ///
    /// # Panics
    /// Where an image does not have the network's input shape.
    #[must_use]
    pub fn batch_logits<I: AsRef<[f32]> + Sync>(&self, images: &[I]) -> Vec<Vec<f32>> {
        self.0.batch_logits(images)
    }

    /// Outputs of all nodes of the graph, in its order.
    ///
    /// # Panics
    /// Where the image does not have the network's input shape.
    #[must_use]
    pub fn layers(&self, image: &[f32]) -> Vec<Vec<f32>> {
        self.0.layers(image)
    }
}

/// The fused network.
///
/// Images are normalised, channel-major, of the network's input shape.
pub struct FusedEvaluator(FloatNetwork);

impl FusedEvaluator {
    /// The network of `model`, its parameters copied.
    #[must_use]
    pub fn new(model: &FusedModel) -> Self {
        let input_shape = |inputs: &[LayerId]| {
            inputs.first().map_or(model.network().input().shape, |id| model.layers()[id.0].shape)
        };
        let layers = model.layers().iter().map(|layer| FloatLayer {
            op: match layer.op {
                FusedOp::Input => FloatOp::Input,
                FusedOp::Conv(geometry) => {
                    let (_, weight, bias) =
                        model.conv(layer).expect("a fused model was checked to have its tensors");
                    FloatOp::Conv {
                        geometry,
                        weight: weight.data().to_vec(),
                        bias: Some(BiasMap::new(&geometry, input_shape(&layer.inputs), bias)),
                    }
                }
                FusedOp::Activation(function) => FloatOp::Activation(function, layer.mask.clone()),
                FusedOp::Add => FloatOp::Add,
                FusedOp::MaxPool { kernel, stride, padding } => {
                    FloatOp::MaxPool { kernel, stride, padding }
                }
                FusedOp::GlobalAveragePool => FloatOp::GlobalAveragePool,
            },
            inputs: layer.inputs.iter().map(|input| input.0).collect(),
            shape: layer.shape,
        });
        Self(FloatNetwork { layers: layers.collect() })
    }

    /// Logits of one image.
    ///
    /// # Panics
    /// Where the image does not have the network's input shape.
    #[must_use]
    pub fn logits(&self, image: &[f32]) -> Vec<f32> {
        self.0.logits(image)
    }

    /// Logits of many images, on all threads.
    ///
    /// # Panics
    /// Where an image does not have the network's input shape.
    #[must_use]
    pub fn batch_logits<I: AsRef<[f32]> + Sync>(&self, images: &[I]) -> Vec<Vec<f32>> {
        self.0.batch_logits(images)
    }

    /// Outputs of all layers of the model, in its order.
    ///
    /// # Panics
    /// Where the image does not have the network's input shape.
    #[must_use]
    pub fn layers(&self, image: &[f32]) -> Vec<Vec<f32>> {
        self.0.layers(image)
    }
}

fn trained_op(checkpoint: &Checkpoint, op: &Op, name: &str) -> FloatOp {
    let tensor = |suffix: &str| -> &Tensor {
        let name = format!("{name}.{suffix}");
        checkpoint.tensor(&name).expect("a checkpoint was checked to have its graph's parameters")
    };
    match op {
        Op::Input => FloatOp::Input,
        Op::Conv(geometry) => FloatOp::Conv {
            geometry: *geometry,
            weight: tensor("weight").data().to_vec(),
            bias: None,
        },
        Op::BatchNorm => FloatOp::Affine(Affine::batch_norm(
            [tensor("weight"), tensor("bias"), tensor("running_mean"), tensor("running_var")],
            Graph::BATCH_NORM_EPSILON,
        )),
        Op::Activation(condition) if checkpoint.gates().admit(*condition) => {
            let mask = checkpoint.gates().part(name).cloned();
            FloatOp::Activation(checkpoint.network().activation(), mask)
        }
        Op::Activation(_) => FloatOp::Identity,
        Op::Add => FloatOp::Add,
        Op::MaxPool { kernel, stride, padding } => {
            FloatOp::MaxPool { kernel: *kernel, stride: *stride, padding: *padding }
        }
        Op::GlobalAveragePool => FloatOp::GlobalAveragePool,
        Op::Linear { inputs, outputs } => {
            let geometry = ConvGeometry::fully_connected(*inputs, *outputs);
            let bias = BiasMap::new(&geometry, Shape::vector(*inputs), tensor("bias"));
            FloatOp::Conv { geometry, weight: tensor("weight").data().to_vec(), bias: Some(bias) }
        }
    }
}

/// A straight list of layers, inputs before users, the last one the logits.
struct FloatNetwork {
    layers: Vec<FloatLayer>,
}

impl FloatNetwork {
    fn logits(&self, image: &[f32]) -> Vec<f32> {
        // A value is dropped with its last user: a whole network's values are many megabytes.
        let mut last_user = vec![0; self.layers.len()];
        for (id, layer) in self.layers.iter().enumerate() {
            layer.inputs.iter().for_each(|&input| last_user[input] = id);
        }
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(self.layers.len());
        for (id, layer) in self.layers.iter().enumerate() {
            values.push(self.output(layer, image, &values));
            for &input in layer.inputs.iter().filter(|&&input| last_user[input] == id) {
                values[input] = vec![];
            }
        }
        values.pop().unwrap_or_default()
    }

    fn layers(&self, image: &[f32]) -> Vec<Vec<f32>> {
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            values.push(self.output(layer, image, &values));
        }
        values
    }

    fn batch_logits<I: AsRef<[f32]> + Sync>(&self, images: &[I]) -> Vec<Vec<f32>> {
        images.par_iter().map(|image| self.logits(image.as_ref())).collect()
    }

    fn output(&self, layer: &FloatLayer, image: &[f32], values: &[Vec<f32>]) -> Vec<f32> {
        let inputs: Vec<(Shape, &[f32])> = layer
            .inputs
            .iter()
            .map(|&input| (self.layers[input].shape, values[input].as_slice()))
            .collect();
        layer.output(image, &inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActivationMask, Architecture, BatchNormInit, Gates, Granularity, Network};

    fn checkpoint(architecture: Architecture, mask: &str) -> Checkpoint {
        let network = Network::new(architecture, 0.1, 10, 16).expect("small");
        let made = Checkpoint::initialise(network.clone(), 5, BatchNormInit::Random);
        let gates = Gates::from_mask(&network, mask).expect("its mask");
        let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
        Checkpoint::new(network, gates, tensors, provenance).expect("whole")
    }

    fn image(checkpoint: &Checkpoint, first: f32) -> Vec<f32> {
        let elements = checkpoint.network().input().shape.elements();
        (0..elements).map(|i| first + (i % 7) as f32 - 3.0).collect()
    }

    #[test]
    fn logits_are_the_last_layer_alone_or_in_a_batch() {
        let checkpoint = checkpoint(Architecture::ResNet18, "10110111");
        let evaluator = CheckpointEvaluator::new(&checkpoint);
        let images = [image(&checkpoint, 0.0), image(&checkpoint, 0.5)];
        let logits: Vec<Vec<f32>> = images.iter().map(|image| evaluator.logits(image)).collect();
        assert_eq!(evaluator.batch_logits(&images), logits);
        assert_ne!(logits[0], logits[1]);
        for (image, logits) in images.iter().zip(&logits) {
            let layers = evaluator.layers(image);
            assert_eq!(layers.last(), Some(logits));
            let graph = checkpoint.network().graph();
            let sizes = graph.nodes().iter().map(|node| node.shape.elements());
            assert!(layers.iter().map(Vec::len).eq(sizes));
        }
    }

    #[test]
    fn activations_follow_their_gates() {
        let mask = "0110111111111111111";
        let checkpoint = checkpoint(Architecture::MobileNetV2, mask);
        let layers = CheckpointEvaluator::new(&checkpoint).layers(&image(&checkpoint, 0.0));
        for (node, values) in checkpoint.network().graph().nodes().iter().zip(&layers) {
            let Op::Activation(condition) = node.op else { continue };
            let is_active = checkpoint.gates().admit(condition);
            assert_eq!(values.iter().all(|x| *x >= 0.0), is_active, "{}", node.name);
        }
    }

    #[test]
    fn values_outside_a_mask_pass_as_they_are() {
        let whole = checkpoint(Architecture::ResNet20, "111111111");
        let graph = whole.network().graph();
        let node = |name: &str| graph.nodes().iter().position(|node| node.name == name);
        let id = node("layer1.0.conv1.activation").expect("there");
        let shape = graph.nodes()[id].shape;
        let bits = (0..shape.elements()).map(|i| i % 5 < 2).collect();
        let mask = ActivationMask::new(shape, Granularity::Pixel, bits).expect("in part");
        let parts = [(graph.nodes()[id].name.clone(), mask.clone())].into();
        let gates = whole.gates().clone().with_parts(parts);
        let (tensors, provenance) = (whole.tensors().clone(), whole.provenance().clone());
        let part = Checkpoint::new(whole.network().clone(), gates, tensors, provenance);
        let part = part.expect("whole");
        let image = image(&whole, 0.0);
        let [whole, part] =
            [&whole, &part].map(|checkpoint| CheckpointEvaluator::new(checkpoint).layers(&image));
        let (before, all, some) = (&part[id - 1], &whole[id], &part[id]);
        assert_eq!(before, &whole[id - 1]);
        assert_ne!(all, some);
        for (position, activated) in mask.values().enumerate() {
            let expected = if activated { all } else { before };
            assert_eq!(some[position].to_bits(), expected[position].to_bits(), "{position}");
        }
    }

    #[test]
    #[should_panic(expected = "an image for 3x16x16 has 768 values")]
    fn an_image_of_another_size_is_refused() {
        let checkpoint = checkpoint(Architecture::ResNet20, "111111111");
        let _ = CheckpointEvaluator::new(&checkpoint).logits(&[0.0; 5]);
    }
}
