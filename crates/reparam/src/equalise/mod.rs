//! Equalising channels: scales moved between layers so that no channel of a layer is much smaller than
//! another, where the function stays the same.
//!
//! ReLU is positively homogeneous: `relu(s x) = s relu(x)` for `s > 0`, and so is what passes by it where it applies to
//! some values alone. So channel `c` between two convolutions may be multiplied by `s` in the first one's weights and
//! bias and divided by it in the second one's weights. Fixed-point weights have one step a layer: a channel whose weights are a hundredth
//! of the largest loses seven bits of them. After Nagel et al. (arXiv 1906.04721): with `r1`, `r2` the channel's
//! largest weights in the two layers, each relative to its layer's largest, `s = sqrt(r2 / r1)` makes both
//! `sqrt(r1 r2)`. Here `s` is the nearest power of two, so that the float function does not change in a single
//! bit, and channels that a sum ties together share it: also those of a shortcut that fusing takes into a kernel, whose weights near 1
//! would become the largest otherwise. Where that makes the layers around it no better at the given number of bits, nothing is changed.
//!
//! Scales are found for the fused model (`shifts.rs`, the channels that go together in `channel_groups.rs`) and put into the network
//! before it is fused (`scale.rs`).

mod channel_groups;
mod report;
mod scale;
mod shifts;

pub use channel_groups::Fixed;
pub use report::{EqualisationReport, LayerNoise};

use crate::{FuseConfig, FuseError, fuse_with};
use channel_groups::channel_groups;
use copriv_ir::{Checkpoint, FusedModel};
use std::collections::BTreeMap;

/// The same network with channels equalised, and what that does to weights of `weight_bits` bits once it is fused
/// ([`fuse_with`]). Not a bit of what it computes changes.
///
/// # Errors
/// [`FuseError::NotFinite`] where a scaled parameter is beyond single precision, and as [`fuse_with`].
///
/// # Panics
/// Where `weight_bits` is not between 2 and 32.
pub fn equalise(
    checkpoint: &Checkpoint,
    config: &FuseConfig,
    weight_bits: u32,
) -> Result<(Checkpoint, EqualisationReport), FuseError> {
    let Equalised { checkpoint, report, .. } = Equalised::new(checkpoint, config, weight_bits)?;
    Ok((checkpoint, report))
}

/// Fuses `checkpoint` with channels equalised. The fused model knows it for its parent.
///
/// # Errors
/// As [`equalise`].
///
/// # Panics
/// Where `weight_bits` is not between 2 and 32.
pub fn fuse_equalised(
    checkpoint: &Checkpoint,
    config: &FuseConfig,
    weight_bits: u32,
) -> Result<(FusedModel, EqualisationReport), FuseError> {
    let Equalised { before, after, report, .. } = Equalised::new(checkpoint, config, weight_bits)?;
    let mut provenance = before.provenance().clone();
    provenance.config["equalise"] = shifts::settings(weight_bits);
    let (network, mask) = (after.network().clone(), after.mask().to_owned());
    let (layers, tensors) = (after.layers().to_vec(), after.tensors().clone());
    let model = FusedModel::new(network, mask, layers, tensors, provenance).map_err(|found| {
        FuseError::Graph { layer: "the equalised model".into(), expected: "a sound one", found }
    })?;
    Ok((model, report))
}

/// What equalising makes.
struct Equalised {
    checkpoint: Checkpoint,
    /// Fused as it was, and with its channels equalised.
    before: FusedModel,
    after: FusedModel,
    report: EqualisationReport,
}

impl Equalised {
    fn new(
        checkpoint: &Checkpoint,
        config: &FuseConfig,
        weight_bits: u32,
    ) -> Result<Self, FuseError> {
        let (graph, before) = (checkpoint.network().graph(), fuse_with(checkpoint, config)?);
        let sets = scale::scaled_together(&graph);
        let mut first_of_set = BTreeMap::new();
        let nodes = scale::nodes_of_layers(&graph, &before)?.into_iter().enumerate();
        let ties: Vec<(usize, usize)> = nodes
            .map(|(layer, node)| (*first_of_set.entry(sets[node]).or_insert(layer), layer))
            .collect();
        let groups = channel_groups(&before, &ties);
        let shifts = shifts::shifts(&before, &groups, weight_bits);
        let shifts_of_node = |node: usize| {
            let layer = first_of_set.get(&sets[node])?;
            let group = groups.iter().position(|group| group.members.contains(layer))?;
            Some(shifts[group].as_slice())
        };
        let settings = shifts::settings(weight_bits);
        let checkpoint = scale::scaled(checkpoint, &graph, shifts_of_node, settings)?;
        let after = fuse_with(&checkpoint, config)?;
        let report = report::report(&before, &after, &groups, weight_bits);
        Ok(Self { checkpoint, before, after, report })
    }
}

#[cfg(test)]
mod testing {
    use copriv_ir::{Activated, BatchNormInit, Checkpoint, Gates, Granularity, Network};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;

    /// A network of random weights, its channels unequal by up to 2^10, some activations gone or in part.
    pub(super) fn checkpoint(network: &Network, seed: u64) -> Checkpoint {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let made = Checkpoint::initialise(network.clone(), seed, BatchNormInit::Identity);
        let mut tensors = made.tensors().clone();
        for (name, tensor) in &mut tensors {
            // Batch norms' weights, of one dimension; classifiers have biases alone.
            if name.ends_with(".weight") && tensor.shape().len() == 1 {
                let draw = |x: &mut f32| *x = random.random_range(-10.0..0.0f32).exp2();
                tensor.data_mut().iter_mut().for_each(draw);
            }
            if name.ends_with(".bias") {
                tensor.data_mut().fill_with(|| random.random_range(-0.1..0.1));
            }
        }
        let graph = network.graph();
        let kept: Vec<bool> = graph.blocks().iter().map(|_| random.random()).collect();
        let gates = Gates::keeping(kept);
        // Of what they leave a part, by channel and by pixel.
        let mut parts = BTreeMap::new();
        for node in graph.nodes() {
            let by = [Granularity::Channel, Granularity::Pixel][random.random_range(0..2)];
            let bits = (0..by.bits(node.shape)).map(|_| random.random()).collect();
            if let Ok(Activated::Part(mask)) = Activated::of_bits(node.shape, by, bits)
                && gates.activated(node) > 0
            {
                parts.insert(node.name.clone(), mask);
            }
        }
        let gates = gates.with_parts(parts);
        let provenance = made.provenance().clone();
        Checkpoint::new(network.clone(), gates, tensors, provenance).expect("whole")
    }

    pub(super) fn image(network: &Network) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        (0..network.input().shape.elements()).map(|_| random.random_range(-2.0..2.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{checkpoint, image};
    use super::*;
    use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator};
    use copriv_ir::{Activation, Architecture, Network, WeightNoise};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Not a single bit: all scales are powers of two.
        #[test]
        fn the_function_does_not_change(
            architecture in prop::sample::select(vec![
                Architecture::MobileNetV2, Architecture::ResNet20, Architecture::ResNet50,
            ]),
            final_activation: bool, relu6: bool, fewest: bool, seed: u64,
        ) {
            let activation = if relu6 { Activation::Relu6 } else { Activation::Relu };
            let network = Network::new(architecture, 0.15, 10, 20)
                .expect("small")
                .with_final_activation(final_activation)
                .with_activation(activation);
            let config = if fewest { FuseConfig::FEWEST } else { FuseConfig::COPRIV };
            let made = checkpoint(&network, seed);
            let model = fuse_with(&made, &config).expect("fuses");
            let (equalised, report) = fuse_equalised(&made, &config, 8).expect("finite");
            prop_assert!(model.layers().iter().any(|layer| layer.mask.is_some()));
            prop_assert_eq!(model.layers(), equalised.layers());
            let image = image(&network);
            let logits = |model: &FusedModel| FusedEvaluator::new(model).logits(&image);
            prop_assert_eq!(logits(&model), logits(&equalised));
            let (even, same) = equalise(&made, &config, 8).expect("finite");
            prop_assert_eq!(&same, &report);
            prop_assert_eq!(made.gates(), even.gates());
            let logits = |made: &Checkpoint| CheckpointEvaluator::new(made).logits(&image);
            prop_assert_eq!(logits(&made), logits(&even));
            let noise = |pick: fn(&LayerNoise) -> WeightNoise| {
                report.mean(|layer| 10f64.powf(-pick(layer).channels / 10.0))
            };
            let (before, after) = (noise(|layer| layer.before), noise(|layer| layer.after));
            prop_assert!(after <= before * (1.0 + 1e-9), "{report}");
            prop_assert_eq!(report.skipped.is_empty(), !relu6);
        }
    }

    #[test]
    fn small_channels_come_up_and_the_provenance_says_so() {
        let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
        let (made, config) = (checkpoint(&network, 1), FuseConfig::COPRIV);
        let model = fuse_with(&made, &config).expect("fuses");
        let (equalised, report) = fuse_equalised(&made, &config, 8).expect("finite");
        assert_ne!(model.digest(), equalised.digest());
        assert_eq!(equalised.provenance().parent, model.provenance().parent);
        assert!(equalised.provenance().config["equalise"].is_object());
        assert_eq!(report.layers.len(), model.tensors().len() / 2);
        let gain = report.mean(|layer| layer.after.channels - layer.before.channels);
        assert!(gain > 3.0, "{report}");
        assert_eq!(fuse_equalised(&made, &config, 8).expect("finite").0, equalised);
        let (even, _) = equalise(&made, &config, 8).expect("finite");
        assert_eq!(even.provenance().parent, Some(made.digest()));
        assert_eq!(even.provenance().stage, "equalise");
        assert_eq!(fuse_with(&even, &config).expect("fuses").tensors(), equalised.tensors());
    }
}
