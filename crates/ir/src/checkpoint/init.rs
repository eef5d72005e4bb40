//! Networks with random parameters: where training starts, and what cost studies and tests run on.

use super::{Checkpoint, Gates, Header};
use crate::{Condition, ConvGeometry, Graph, Network, NodeId, Op, Provenance, Tensor};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;

/// The batch norms of a network with random parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNormInit {
    /// Weight 1, bias 0, mean 0, variance 1.
    Identity,
    /// Random and awkward, as after training: weights of both signs, means and biases off zero, and in
    /// one channel of eight a variance of 1e-8 (a dead channel) under a weight as small.
    Random,
}

impl Checkpoint {
    /// The network with which training starts, all gates kept; the same on every platform.
    ///
    /// As torchvision has it: convolutions follow He et al. (arXiv 1502.01852) by fan-out, with variance `2 / (channels * kernel^2)`
    /// for the channels of the output, in however many groups; fully connected layers have variance `1 / (3 * inputs)` and
    /// no bias; batch norms are the identity. Numbers are uniform. Behind a batch norm the size of a weight does not matter to what the
    /// network computes, but the learning rate is relative to it.
    #[must_use]
    pub fn untrained(network: Network, seed: u64) -> Self {
        let variance = |layer: &Layer<'_>| match layer {
            Layer::Conv(geometry, _) => 2.0 / fan_out(geometry),
            Layer::Linear(geometry) => 1.0 / (3.0 * geometry.fan_in() as f64),
        };
        Self::random(network, seed, BatchNormInit::Identity, variance)
    }

    /// A network with random parameters for cost studies and tests, all gates kept; the same on every platform.
    ///
    /// Convolutions follow He et al., uniform, by fan-in: variance `2 / fan_in` before an activation and `1 / fan_in`
    /// elsewhere, so that values keep their size through the network even while batch norms are the identity.
    #[must_use]
    pub fn initialise(network: Network, seed: u64, batch_norms: BatchNormInit) -> Self {
        let variance = |layer: &Layer<'_>| match layer {
            Layer::Conv(geometry, Followed::ByActivation) => 2.0 / geometry.fan_in() as f64,
            Layer::Conv(geometry, Followed::Otherwise) | Layer::Linear(geometry) => {
                1.0 / geometry.fan_in() as f64
            }
        };
        Self::random(network, seed, batch_norms, variance)
    }

    fn random(
        network: Network,
        seed: u64,
        batch_norms: BatchNormInit,
        variance: impl Fn(&Layer<'_>) -> f64,
    ) -> Self {
        let mut random = Random(ChaCha20Rng::seed_from_u64(seed));
        let graph = network.graph();
        let mut tensors = BTreeMap::new();
        for (id, node) in graph.nodes().iter().enumerate() {
            let mut insert = |suffix: &str, shape: Vec<usize>, data: Vec<f32>| {
                let tensor = Tensor::new(shape, data).expect("as many values as the shape says");
                tensors.insert(format!("{}.{suffix}", node.name), tensor);
            };
            let channels = node.shape.channels;
            match &node.op {
                Op::Conv(geometry) => {
                    let layer = Layer::Conv(geometry, followed(&graph, NodeId(id)));
                    let weights = random.weights(geometry, variance(&layer));
                    insert("weight", geometry.weight_shape().to_vec(), weights);
                }
                Op::BatchNorm => {
                    for (suffix, data) in random.batch_norm(channels, batch_norms) {
                        insert(suffix, vec![channels], data);
                    }
                }
                Op::Linear { inputs, outputs } => {
                    let geometry = ConvGeometry::fully_connected(*inputs, *outputs);
                    let weights = random.weights(&geometry, variance(&Layer::Linear(&geometry)));
                    insert("weight", vec![*outputs, *inputs], weights);
                    insert("bias", vec![*outputs], vec![0.0; *outputs]);
                }
                Op::Input
                | Op::Activation(_)
                | Op::Add
                | Op::MaxPool { .. }
                | Op::GlobalAveragePool => {}
            }
        }
        let config = serde_json::json!({ "network": network, "batch_norms": batch_norms.name() });
        let provenance = Provenance::new("init", None, config, Some(seed));
        let gates = Gates::all_kept(graph.blocks().len());
        Self { header: Header { network, gates, provenance }, tensors }
    }
}

/// A layer that has weights.
enum Layer<'a> {
    Conv(&'a ConvGeometry, Followed),
    Linear(&'a ConvGeometry),
}

/// What comes after a convolution and its batch norm.
enum Followed {
    ByActivation,
    Otherwise,
}

/// Weights that an input of an ungrouped convolution would be multiplied by.
fn fan_out(geometry: &ConvGeometry) -> f64 {
    (geometry.out_channels * geometry.kernel * geometry.kernel) as f64
}

impl BatchNormInit {
    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Random => "random",
        }
    }
}

fn followed(graph: &Graph, conv: NodeId) -> Followed {
    let users = |id: NodeId| graph.nodes().iter().filter(move |node| node.inputs.contains(&id));
    let is_activation =
        |op: &Op| matches!(op, Op::Activation(Condition::Always | Condition::Kept(_)));
    let norm = (conv.0 + 1..graph.nodes().len())
        .map(NodeId)
        .find(|id| graph.nodes()[id.0].inputs == [conv]);
    let is_followed = norm.is_some_and(|norm| users(norm).any(|user| is_activation(&user.op)));
    if is_followed { Followed::ByActivation } else { Followed::Otherwise }
}

/// Uniform numbers. Bell curves would need logarithms, which differ in the last bit by platform.
struct Random(ChaCha20Rng);

impl Random {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    fn weights(&mut self, geometry: &ConvGeometry, variance: f64) -> Vec<f32> {
        // A uniform number in -b..b has variance b^2 / 3.
        let bound = (3.0 * variance).sqrt();
        (0..geometry.weight_elements()).map(|_| self.uniform(-bound, bound) as f32).collect()
    }

    fn batch_norm(
        &mut self,
        channels: usize,
        init: BatchNormInit,
    ) -> [(&'static str, Vec<f32>); 4] {
        let mut draw = |identity: f64, random: &mut dyn FnMut(&mut Self, usize) -> f64| {
            (0..channels)
                .map(|channel| match init {
                    BatchNormInit::Identity => identity as f32,
                    BatchNormInit::Random => random(self, channel) as f32,
                })
                .collect::<Vec<f32>>()
        };
        let is_dead = |channel: usize| channel % 8 == 7;
        let mut weight = |random: &mut Self, channel: usize| {
            let size = random.uniform(0.5, 1.5) * if is_dead(channel) { 3e-3 } else { 1.0 };
            if random.uniform(0.0, 1.0) < 0.5 { -size } else { size }
        };
        let mut offset = |random: &mut Self, _| random.uniform(-0.5, 0.5);
        let mut var = |random: &mut Self, channel: usize| {
            if is_dead(channel) { 1e-8 } else { random.uniform(0.5, 2.0) }
        };
        [
            ("weight", draw(1.0, &mut weight)),
            ("bias", draw(0.0, &mut offset)),
            ("running_mean", draw(0.0, &mut offset)),
            ("running_var", draw(1.0, &mut var)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::CheckpointEvaluator;
    use crate::{Architecture, Digest};

    fn network(architecture: Architecture) -> Network {
        Network::new(architecture, 0.25, 10, 32).expect("a usual size")
    }

    #[test]
    fn every_network_is_whole_and_depends_on_the_seed_alone() {
        for architecture in Architecture::ALL {
            for batch_norms in [BatchNormInit::Identity, BatchNormInit::Random] {
                let made = |seed| Checkpoint::initialise(network(architecture), seed, batch_norms);
                let one = made(1);
                let (gates, tensors) = (one.gates().clone(), one.tensors().clone());
                let provenance = one.provenance().clone();
                let checked = Checkpoint::new(network(architecture), gates, tensors, provenance);
                assert_eq!(checked.as_ref(), Ok(&one));
                assert_eq!(made(1).digest(), one.digest());
                assert_ne!(made(2).digest(), one.digest());
            }
        }
    }

    #[test]
    fn weights_before_training_have_torchvisions_variance() {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        let made = Checkpoint::untrained(network, 1);
        for (name, expected) in [
            ("features.0.0.weight", 2.0 / (32.0 * 9.0)),
            ("features.4.conv.1.0.weight", 2.0 / (144.0 * 9.0)),
            ("features.4.conv.2.weight", 2.0 / 32.0),
            ("features.18.0.weight", 2.0 / 1280.0),
            ("classifier.1.weight", 1.0 / (3.0 * 1280.0)),
        ] {
            let list = made.tensor(name).expect(name).data();
            let squares: f64 = list.iter().map(|&x| f64::from(x).powi(2)).sum();
            let found = squares / list.len() as f64;
            assert!((0.9..1.1).contains(&(found / expected)), "{name}: {found}, not {expected}");
        }
    }

    #[test]
    fn the_numbers_are_the_same_on_every_platform() {
        let network = network(Architecture::ResNet20);
        let checkpoint = Checkpoint::initialise(network, 7, BatchNormInit::Random);
        let bytes: Vec<u8> = checkpoint
            .tensors()
            .values()
            .flat_map(|tensor| tensor.data().iter().flat_map(|x| x.to_le_bytes()))
            .collect();
        assert_eq!(Digest::of([bytes.as_slice()]).short(), "d749e192");
    }

    #[test]
    fn values_keep_their_size_through_the_network() {
        for architecture in Architecture::ALL {
            let network = network(architecture);
            let image = vec![1.0; network.input().shape.elements()];
            for batch_norms in [BatchNormInit::Identity, BatchNormInit::Random] {
                let checkpoint = Checkpoint::initialise(network.clone(), 3, batch_norms);
                let logits = CheckpointEvaluator::new(&checkpoint).logits(&image);
                let size = logits.iter().fold(0.0f32, |size, x| size.max(x.abs()));
                assert!((1e-4..1e4).contains(&size), "{architecture}: logits of {size}");
            }
        }
    }
}
