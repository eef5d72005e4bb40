//! The weights of the one convolution that a merged stretch is, by the running statistics of its batch norms.
//!
//! Fusing computes them for good, of any network (`copriv-reparam`); this computes them at every step of training, on its device, of the
//! blocks that networks have: 1x1 convolutions before and after one of any kernel, and branches beside them.

use super::Model;
use super::layer::Layer;
use super::quantise::factors;
use crate::ops::untracked;
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::{ConvGeometry, Op};
use std::collections::BTreeMap;
use std::ops::Range;

/// A linear map from the stretch's input, without its bias.
#[derive(Clone)]
struct Kernel {
    /// `[out_channels, in_channels, kernel, kernel]`.
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
}

/// The weights `[out_channels, in_channels, kernel, kernel]` that these nodes have as one convolution; `None` where they are no such
/// stretch.
pub(super) fn merged_weight(model: &Model, nodes: Range<usize>) -> Option<Tensor<4>> {
    let graph = model.graph.nodes();
    let source = graph[nodes.start].inputs.first()?.0;
    let device = untracked(model.alphas.val()).device();
    let identity = Kernel::identity(graph[source].shape.channels, &device);
    let mut kernels = BTreeMap::from([(source, identity)]);
    let output = nodes.end.checked_sub(1)?;
    for id in nodes {
        let mut inputs = graph[id].inputs.iter().map(|input| kernels.get(&input.0));
        let input = inputs.next()??;
        let kernel = match (&graph[id].op, &model.layers[id]) {
            (Op::Conv(geometry), Some(Layer::Conv(conv))) => {
                input.then(untracked(conv.weight.val()), geometry)?
            }
            (Op::BatchNorm, Some(Layer::Norm(norm))) => input.scaled(&factors(norm)),
            (Op::Activation(_), _) => input.clone(),
            (Op::Add, _) => input.beside(inputs.next()??)?,
            _ => return None,
        };
        kernels.insert(id, kernel);
    }
    kernels.remove(&output).map(|kernel| kernel.weight)
}

impl Kernel {
    fn identity(channels: usize, device: &Device) -> Self {
        let mut list = vec![0f32; channels * channels];
        list.iter_mut().step_by(channels + 1).for_each(|diagonal| *diagonal = 1.0);
        let data = TensorData::new(list, [channels, channels, 1, 1]);
        Self { weight: Tensor::from_data(data, device), stride: 1, padding: 0 }
    }

    /// With a convolution after it: one of the two is 1x1.
    fn then(&self, weight: Tensor<4>, geometry: &ConvGeometry) -> Option<Self> {
        let [middle, inputs, before, _] = self.weight.dims();
        let [outputs, _, after, _] = weight.dims();
        let first = self.weight.clone();
        let weight = match (before, after) {
            (1, _) if geometry.is_depthwise() => weight * first,
            _ if geometry.groups != 1 => return None,
            (1, _) => {
                let rows = weight.permute([0, 2, 3, 1]).reshape([outputs * after * after, middle]);
                let product = rows.matmul(first.reshape([middle, inputs]));
                product.reshape([outputs, after, after, inputs]).permute([0, 3, 1, 2])
            }
            (_, 1) => {
                let product = weight.reshape([outputs, middle]);
                let product = product.matmul(first.reshape([middle, inputs * before * before]));
                product.reshape([outputs, inputs, before, before])
            }
            _ => return None,
        };
        let padding = self.padding + geometry.padding * self.stride;
        let fits = self.stride == 1 || after == 1;
        fits.then_some(Self { weight, stride: self.stride * geometry.stride, padding })
    }

    /// With each output channel scaled.
    fn scaled(&self, factors: &[f64]) -> Self {
        let list: Vec<f32> = factors.iter().map(|&factor| factor as f32).collect();
        let data = TensorData::new(list, [factors.len(), 1, 1, 1]);
        let factors = Tensor::<4>::from_data(data, &self.weight.device());
        Self { weight: self.weight.clone() * factors, ..*self }
    }

    /// The sum of both: the smaller one is centred on the same input position.
    fn beside(&self, other: &Self) -> Option<Self> {
        let side = |kernel: &Self| kernel.weight.dims()[2];
        let [large, small] = if side(self) < side(other) { [other, self] } else { [self, other] };
        let offset = large.padding.checked_sub(small.padding)?;
        let [outputs, inputs, kernel, _] = small.weight.dims();
        if large.stride != small.stride || offset + kernel > side(large) {
            return None;
        }
        let middle = [0..outputs, 0..inputs, offset..offset + kernel, offset..offset + kernel];
        let sum = large.weight.clone().slice(middle.clone()) + small.weight.clone();
        Some(Self { weight: large.weight.clone().slice_assign(middle, sum), ..*large })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use crate::ops;
    use copriv_ir::evaluate::CheckpointEvaluator;
    use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Gates, Network};

    /// What a block adds to the difference of its inputs is the convolution of that, at every pixel.
    #[test]
    fn a_block_is_the_convolution_with_its_merged_weight() {
        for architecture in [Architecture::MobileNetV2, Architecture::ResNet50] {
            let network = Network::new(architecture, 0.25, 10, 16).expect("small");
            let made = Checkpoint::initialise(network.clone(), 5, BatchNormInit::Random);
            let gates = Gates::from_mask(&network, &"0".repeat(network.graph().blocks().len()));
            let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
            let gates = gates.expect("a digit a gate");
            let made = Checkpoint::new(network.clone(), gates, tensors, provenance).expect("whole");
            let (model, graph) = (Model::from_checkpoint(&made, &Device::flex()), network.graph());
            let evaluator = CheckpointEvaluator::new(&made);
            let layers = [0.3f32, 0.9].map(|step| {
                let image: Vec<f32> = (0..3 * 256).map(|i| (i as f32 * step).sin()).collect();
                evaluator.layers(&image)
            });
            let difference = |node: usize| {
                let pairs = layers[0][node].iter().zip(&layers[1][node]);
                let (list, shape) =
                    (pairs.map(|(a, b)| a - b).collect(), graph.nodes()[node].shape);
                let dims = [1, shape.channels, shape.height, shape.width];
                Tensor::<4>::from_data(TensorData::new::<f32, _>(list, dims), &Device::flex())
            };
            // Without and with shortcut, and at stride 2.
            for block in graph.blocks().iter().filter(|block| block.is_residual) {
                let end = block.nodes.end - 1;
                let source = graph.nodes()[block.nodes.start].inputs[0].0;
                let weight = merged_weight(&model, block.nodes.start..end).expect("is one");
                let sides = [source, end].map(|node| graph.nodes()[node].shape.height);
                let [outputs, inputs, kernel, _] = weight.dims();
                let geometry =
                    ConvGeometry::same(inputs, outputs, kernel, sides[0].div_ceil(sides[1]));
                let found = values(ops::convolution(difference(source), weight, &geometry));
                let expected = values(difference(end - 1));
                let largest = expected.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (found - expected).abs();
                    assert!(error < 1e-3 * largest, "{}: {found}, {expected}", block.name);
                }
                assert_eq!(found.len(), expected.len(), "{}", block.name);
            }
        }
    }
}
