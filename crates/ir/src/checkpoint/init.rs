//! Networks with random parameters: where training starts, and what cost studies and tests run on.

use super::{Checkpoint, Gates, Header};
use crate::{Condition, ConvGeometry, Graph, Network, NodeId, Op, Provenance, Tensor};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;

/// The batch norms of a network with random parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNormInit {
    /// Weight 1, bias 0, mean 0, variance 1, as before training.
    Identity,
    /// Random and awkward, as after training: weights of both signs, means and biases off zero, and in
    /// one channel of eight a variance of 1e-8 (a dead channel) under a weight as small.
    Random,
}

impl Checkpoint {
    /// A network with random parameters and all gates kept; the same on every platform.
    ///
    /// Convolutions follow He et al. (arXiv 1502.01852), uniform, by fan-in: variance `2 / fan_in`
    /// before an activation and `1 / fan_in` elsewhere, so that values keep their size through
    /// the network even while batch norms are the identity.
    #[must_use]
    pub fn initialise(network: Network, seed: u64, batch_norms: BatchNormInit) -> Self {
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
                    let weights = random.convolution(geometry, gain(&graph, NodeId(id)));
                    insert("weight", geometry.weight_shape().to_vec(), weights);
                }
                Op::BatchNorm => {
                    for (suffix, data) in random.batch_norm(channels, batch_norms) {
                        insert(suffix, vec![channels], data);
                    }
                }
                Op::Linear { inputs, outputs } => {
                    let geometry = ConvGeometry::fully_connected(*inputs, *outputs);
                    insert("weight", vec![*outputs, *inputs], random.convolution(&geometry, 1.0));
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

impl BatchNormInit {
    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Random => "random",
        }
    }
}

/// 2 where an activation follows the convolution and its batch norm, 1 elsewhere.
fn gain(graph: &Graph, conv: NodeId) -> f64 {
    let users = |id: NodeId| graph.nodes().iter().filter(move |node| node.inputs.contains(&id));
    let is_activation =
        |op: &Op| matches!(op, Op::Activation(Condition::Always | Condition::Kept(_)));
    let norm = (conv.0 + 1..graph.nodes().len())
        .map(NodeId)
        .find(|id| graph.nodes()[id.0].inputs == [conv]);
    let followed = norm.is_some_and(|norm| users(norm).any(|user| is_activation(&user.op)));
    if followed { 2.0 } else { 1.0 }
}

/// Uniform numbers. Bell curves would need logarithms, which differ in the last bit by platform.
struct Random(ChaCha20Rng);

impl Random {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    fn convolution(&mut self, geometry: &ConvGeometry, gain: f64) -> Vec<f32> {
        // A uniform number in -b..b has variance b^2 / 3.
        let bound = (3.0 * gain / geometry.fan_in() as f64).sqrt();
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
