//! Equalising channels: scales moved between layers so that no channel of a layer is much smaller than
//! another, where the function stays the same.
//!
//! ReLU is positively homogeneous: `relu(s x) = s relu(x)` for `s > 0`, and so is what passes by it where it applies to
//! some values alone. So channel `c` between two convolutions may be multiplied by `s` in the first one's weights and
//! bias and divided by it in the second one's weights. Fixed-point weights have one step a layer: a channel whose weights are a hundredth
//! of the largest loses seven bits of them. After Nagel et al. (arXiv 1906.04721): with `r1`, `r2` the channel's
//! largest weights in the two layers, each relative to its layer's largest, `s = sqrt(r2 / r1)` makes both
//! `sqrt(r1 r2)`. Here `s` is the nearest power of two, so that the float function does not change in a single
//! bit, and channels that a sum ties together share it. Where that makes the layers around it no better at the
//! given number of bits, nothing is changed.

use crate::FuseError;
use crate::channel_groups::{ChannelGroup, Fixed, channel_groups};
use crate::convolution::inputs_of;
use copriv_ir::{
    ConvGeometry, FusedLayer, FusedModel, FusedOp, Provenance, Tensor, WeightNoise, WeightScales,
};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;

/// Most sweeps over the network; each halves what is left, roughly.
const SWEEPS: usize = 12;

/// Channels are scaled by 2^-LARGEST_SHIFT to 2^LARGEST_SHIFT: activations are scaled with them, and they too
/// have few bits.
const LARGEST_SHIFT: i32 = 4;

/// What equalising did to the weights, layer by layer.
#[derive(Clone, Debug, PartialEq)]
pub struct EqualisationReport {
    /// Bits of a weight that the ratios are for.
    pub weight_bits: u32,
    /// Every convolution, in the model's order.
    pub layers: Vec<LayerNoise>,
    /// Layers whose output channels could not be scaled, and why; image and logits are not listed.
    pub skipped: Vec<(String, Fixed)>,
}

/// Signal-to-noise ratios of a layer's rounded weights, one scale for the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNoise {
    /// The layer.
    pub layer: String,
    /// As given.
    pub before: WeightNoise,
    /// Equalised.
    pub after: WeightNoise,
    /// As given, but with a scale for each output channel: what no change of the weights gives more of.
    pub per_channel: WeightNoise,
}

/// The same function with channels equalised, and what that does to weights of `weight_bits` bits.
///
/// # Errors
/// [`FuseError::NotFinite`] where a scaled parameter is beyond single precision.
///
/// # Panics
/// Where `weight_bits` is not between 2 and 32.
pub fn equalise(
    model: &FusedModel,
    weight_bits: u32,
) -> Result<(FusedModel, EqualisationReport), FuseError> {
    let groups = channel_groups(model, &[]);
    let shifts = shifts(model, &groups, weight_bits);
    let equalised = scaled(model, &sides(model, &groups), &shifts)?;
    let report = report(model, &equalised, &groups, weight_bits);
    Ok((equalised, report))
}

/// By how many powers of two each channel of each group is scaled.
pub(crate) fn shifts(
    model: &FusedModel,
    groups: &[ChannelGroup],
    weight_bits: u32,
) -> Vec<Vec<i32>> {
    let convs: BTreeMap<usize, Conv> =
        (0..model.layers().len()).filter_map(|id| Some((id, Conv::new(model, id)?))).collect();
    let mut shifts: Vec<Vec<i32>> = groups.iter().map(|group| vec![0; group.channels]).collect();
    let sides = sides(model, groups);
    for _ in 0..SWEEPS {
        let mut changed = false;
        for (number, group) in groups.iter().enumerate() {
            let new = group_shifts(group, &convs, &sides, &shifts, number);
            changed |= shifts[number] != new;
            shifts[number] = new;
        }
        if !changed {
            break;
        }
    }
    drop_what_does_not_help(model, groups, &sides, &mut shifts, weight_bits);
    shifts
}

/// The groups on both sides of each convolution.
fn sides(model: &FusedModel, groups: &[ChannelGroup]) -> BTreeMap<usize, Sides> {
    let group_of = |layer: usize| groups.iter().position(|group| group.members.contains(&layer));
    let sides = |(id, layer): (usize, &FusedLayer)| {
        let FusedOp::Conv(_) = layer.op else { return None };
        let input = layer.inputs.first()?.0;
        Some((id, Sides { input: group_of(input)?, output: group_of(id)? }))
    };
    model.layers().iter().enumerate().filter_map(sides).collect()
}

/// The groups on both sides of a convolution.
struct Sides {
    input: usize,
    output: usize,
}

/// The largest weight between each output and input channel.
struct Conv {
    geometry: ConvGeometry,
    /// `[out_channels, in_channels / groups]`.
    largest: Vec<f32>,
}

impl Conv {
    fn new(model: &FusedModel, id: usize) -> Option<Self> {
        let layer = &model.layers()[id];
        let (geometry, weight, _) = model.conv(layer)?;
        let taps = weight.data().chunks_exact(geometry.kernel * geometry.kernel);
        Some(Self {
            geometry,
            largest: taps.map(|taps| taps.iter().fold(0f32, |max, w| max.max(w.abs()))).collect(),
        })
    }

    /// Largest weights by output and by input channel, and of all, under the shifts of both sides.
    fn ranges(&self, input: &[i32], output: &[i32]) -> (Vec<f64>, Vec<f64>, f64) {
        let powers = |shifts: &[i32], sign: f64| -> Vec<f64> {
            shifts.iter().map(|shift| (sign * f64::from(*shift)).exp2()).collect()
        };
        let (input, output) = (powers(input, -1.0), powers(output, 1.0));
        let mut by_output = vec![0f64; self.geometry.out_channels];
        let mut by_input = vec![0f64; self.geometry.in_channels];
        let rows = self.largest.chunks_exact(self.geometry.in_channels / self.geometry.groups);
        for (out, row) in rows.enumerate() {
            for (channel, &weight) in inputs_of(&self.geometry, out).zip(row) {
                let weight = f64::from(weight) * output[out] * input[channel];
                by_output[out] = by_output[out].max(weight);
                by_input[channel] = by_input[channel].max(weight);
            }
        }
        let all = by_output.iter().copied().fold(0.0, f64::max);
        (by_output, by_input, all)
    }
}

/// Better shifts for one group, all others staying.
fn group_shifts(
    group: &ChannelGroup,
    convs: &BTreeMap<usize, Conv>,
    sides: &BTreeMap<usize, Sides>,
    shifts: &[Vec<i32>],
    number: usize,
) -> Vec<i32> {
    let now = &shifts[number];
    if group.fixed.is_some() || group.producers.is_empty() || group.consumers.is_empty() {
        return now.clone();
    }
    let (mut made, mut taken) = (vec![0f64; group.channels], vec![0f64; group.channels]);
    let ranges = |id: &usize| {
        let Sides { input, output } = sides[id];
        convs[id].ranges(&shifts[input], &shifts[output])
    };
    let raise = |largest: &mut [f64], values: &[f64], all: f64| {
        let relative = values.iter().map(|value| if all > 0.0 { value / all } else { 0.0 });
        largest.iter_mut().zip(relative).for_each(|(max, value)| *max = max.max(value));
    };
    for id in &group.producers {
        let (by_output, _, all) = ranges(id);
        raise(&mut made, &by_output, all);
    }
    for id in &group.consumers {
        let (_, by_input, all) = ranges(id);
        raise(&mut taken, &by_input, all);
    }
    let better = made.iter().zip(&taken).zip(now).map(|((made, taken), now)| {
        if *made > 0.0 && *taken > 0.0 {
            now + (0.5 * (taken / made).log2()).round() as i32
        } else {
            *now
        }
    });
    centred(better.collect())
}

/// Leaves those groups as they were whose shifts do not lower the noise of the convolutions around them. A
/// shortcut fused into a kernel, say, is a large weight that no scale makes smaller.
fn drop_what_does_not_help(
    model: &FusedModel,
    groups: &[ChannelGroup],
    sides: &BTreeMap<usize, Sides>,
    shifts: &mut [Vec<i32>],
    weight_bits: u32,
) {
    for (number, group) in groups.iter().enumerate() {
        if shifts[number].iter().all(|shift| *shift == 0) {
            continue;
        }
        let around: Vec<usize> = group.producers.iter().chain(&group.consumers).copied().collect();
        let noise = |shifts: &[Vec<i32>]| -> f64 {
            let noise = |&id: &usize| relative_noise(model, id, &sides[&id], shifts, weight_bits);
            around.par_iter().map(noise).sum()
        };
        let with = noise(shifts);
        let dropped = std::mem::replace(&mut shifts[number], vec![0; group.channels]);
        if noise(shifts) > with {
            shifts[number] = dropped;
        }
    }
    let total = |shifts: &[Vec<i32>]| -> f64 {
        let noise = |(&id, sides)| relative_noise(model, id, sides, shifts, weight_bits);
        sides.par_iter().map(noise).sum()
    };
    let none: Vec<Vec<i32>> = groups.iter().map(|group| vec![0; group.channels]).collect();
    if total(shifts) > total(&none) {
        shifts.clone_from_slice(&none);
    }
}

/// Noise over signal of a convolution's rounded weights, by output channel.
fn relative_noise(
    model: &FusedModel,
    id: usize,
    sides: &Sides,
    shifts: &[Vec<i32>],
    weight_bits: u32,
) -> f64 {
    let Some((geometry, weight, _)) = model.conv(&model.layers()[id]) else { return 0.0 };
    let mut weight = weight.clone();
    scale_weight(&geometry, &mut weight, &shifts[sides.input], &shifts[sides.output]);
    let scales = WeightScales::per_layer(weight.data(), geometry.out_channels, weight_bits);
    10f64.powf(-scales.noise(weight.data()).channels / 10.0)
}

/// Shifts around zero, none beyond [`LARGEST_SHIFT`]: a common factor changes no ratio between channels.
fn centred(shifts: Vec<i32>) -> Vec<i32> {
    let mean = f64::from(shifts.iter().sum::<i32>()) / shifts.len().max(1) as f64;
    let mean = mean.round() as i32;
    shifts.into_iter().map(|shift| (shift - mean).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)).collect()
}

fn scaled(
    model: &FusedModel,
    sides: &BTreeMap<usize, Sides>,
    shifts: &[Vec<i32>],
) -> Result<FusedModel, FuseError> {
    let mut tensors = model.tensors().clone();
    for (&id, sides) in sides {
        let layer = &model.layers()[id];
        let Some((geometry, weight, bias)) = model.conv(layer) else { continue };
        let (input, output) = (&shifts[sides.input], &shifts[sides.output]);
        let (mut weight, mut bias) = (weight.clone(), bias.clone());
        scale_weight(&geometry, &mut weight, input, output);
        for class in bias.data_mut().chunks_exact_mut(geometry.out_channels) {
            class.iter_mut().zip(output).for_each(|(bias, shift)| *bias *= power(*shift));
        }
        if !weight.data().iter().chain(bias.data()).all(|value| value.is_finite()) {
            return Err(FuseError::NotFinite { layer: layer.name.clone() });
        }
        tensors.insert(format!("{}.weight", layer.name), weight);
        tensors.insert(format!("{}.bias", layer.name), bias);
    }
    let (network, mask, layers) = (model.network(), model.mask(), model.layers());
    let provenance = provenance(model.provenance());
    FusedModel::new(network.clone(), mask.into(), layers.to_vec(), tensors, provenance)
        .map_err(|found| FuseError::Graph { layer: "the model".into(), expected: "one", found })
}

/// Multiplies the weights by what the channels on both sides are scaled by.
pub(crate) fn scale_weight(
    geometry: &ConvGeometry,
    weight: &mut Tensor,
    input: &[i32],
    output: &[i32],
) {
    let taps = geometry.kernel * geometry.kernel;
    let rows = weight.data_mut().chunks_exact_mut(geometry.fan_in());
    for (out, row) in rows.enumerate() {
        for (channel, taps) in inputs_of(geometry, out).zip(row.chunks_exact_mut(taps)) {
            let factor = power(output[out] - input[channel]);
            taps.iter_mut().for_each(|weight| *weight *= factor);
        }
    }
}

pub(crate) fn power(shift: i32) -> f32 {
    2f32.powi(shift)
}

/// The model's own, with a word on what was done.
fn provenance(before: &Provenance) -> Provenance {
    let mut provenance = before.clone();
    let settings = settings();
    match provenance.config.as_object_mut() {
        Some(config) => drop(config.insert("equalise".into(), settings)),
        None => provenance.config = serde_json::json!({ "equalise": settings }),
    }
    provenance
}

/// How it is recorded in what is made.
pub(crate) fn settings() -> serde_json::Value {
    serde_json::json!({ "sweeps": SWEEPS, "largest_shift": LARGEST_SHIFT })
}

/// What equalising did to the weights of `before`.
pub(crate) fn report(
    before: &FusedModel,
    after: &FusedModel,
    groups: &[ChannelGroup],
    weight_bits: u32,
) -> EqualisationReport {
    let noise = |model: &FusedModel, id: usize, scales: fn(&[f32], usize, u32) -> WeightScales| {
        let (geometry, weight, _) = model.conv(&model.layers()[id])?;
        let scales = scales(weight.data(), geometry.out_channels, weight_bits);
        Some(scales.noise(weight.data()))
    };
    let layer = |id: usize| {
        Some(LayerNoise {
            layer: before.layers()[id].name.clone(),
            before: noise(before, id, WeightScales::per_layer)?,
            after: noise(after, id, WeightScales::per_layer)?,
            per_channel: noise(before, id, WeightScales::per_channel)?,
        })
    };
    let skipped = groups.iter().filter_map(|group| match group.fixed {
        Some(Fixed::Relu6) => Some((group, Fixed::Relu6)),
        _ => None,
    });
    let names = skipped.flat_map(|(group, reason)| {
        group.producers.iter().map(move |&id| (before.layers()[id].name.clone(), reason))
    });
    EqualisationReport {
        weight_bits,
        layers: (0..before.layers().len()).filter_map(layer).collect(),
        skipped: names.collect(),
    }
}

impl EqualisationReport {
    /// The mean over the layers of one of the ratios.
    #[must_use]
    pub fn mean(&self, ratio: impl Fn(&LayerNoise) -> f64) -> f64 {
        self.layers.iter().map(ratio).sum::<f64>() / self.layers.len().max(1) as f64
    }
}

impl fmt::Display for EqualisationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] =
            [self.mean(|layer| layer.before.channels), self.mean(|layer| layer.after.channels)];
        write!(
            f,
            "weights of {} bits: a channel's signal-to-noise ratio {before:.1} dB before and {after:.1} dB \
             after equalising",
            self.weight_bits
        )
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use copriv_ir::{Activated, BatchNormInit, Checkpoint, Gates, Granularity, Network};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;

    /// A network of random weights, its channels unequal by up to 2^10, some activations gone or in part.
    pub(crate) fn checkpoint(network: &Network, seed: u64) -> Checkpoint {
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

    pub(crate) fn image(network: &Network) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        (0..network.input().shape.elements()).map(|_| random.random_range(-2.0..2.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{checkpoint, image};
    use super::*;
    use crate::{FuseConfig, fuse_with};
    use copriv_ir::evaluate::FusedEvaluator;
    use copriv_ir::{Activation, Architecture, Network};
    use proptest::prelude::*;

    fn model(network: &Network, seed: u64, config: &FuseConfig) -> FusedModel {
        fuse_with(&checkpoint(network, seed), config).expect("fuses")
    }

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
            let model = model(&network, seed, &config);
            let (equalised, report) = equalise(&model, 8).expect("finite");
            prop_assert!(model.layers().iter().any(|layer| layer.mask.is_some()));
            prop_assert_eq!(model.layers(), equalised.layers());
            let image = image(&network);
            let logits = |model: &FusedModel| FusedEvaluator::new(model).logits(&image);
            prop_assert_eq!(logits(&model), logits(&equalised));
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
        let model = model(&network, 1, &FuseConfig::COPRIV);
        let (equalised, report) = equalise(&model, 8).expect("finite");
        assert_ne!(model.digest(), equalised.digest());
        assert_eq!(equalised.provenance().parent, model.provenance().parent);
        assert!(equalised.provenance().config["equalise"].is_object());
        assert_eq!(report.layers.len(), model.tensors().len() / 2);
        let gain = report.mean(|layer| layer.after.channels - layer.before.channels);
        assert!(gain > 3.0, "{report}");
        assert_eq!(equalise(&model, 8).expect("finite").0, equalised);
    }

    /// Two layers of two channels: in the first one is a sixteenth of the other, in the second they are equal.
    #[test]
    fn a_channel_ends_up_between_its_two_layers() {
        let shifts = centred(vec![2, 0]);
        assert_eq!(shifts, [1, -1]);
        assert_eq!(centred(vec![20, 0, 1, 0]), [4, -4, -4, -4]);
        let group = |channels| ChannelGroup {
            channels,
            members: vec![0],
            producers: vec![0],
            consumers: vec![1],
            fixed: None,
        };
        let conv = |largest: [f32; 4]| Conv {
            geometry: ConvGeometry::same(2, 2, 1, 1),
            largest: largest.to_vec(),
        };
        let convs = BTreeMap::from([
            (0, conv([1.0, 1.0, 0.0625, 0.0625])),
            (1, conv([1.0, 1.0, 1.0, 1.0])),
        ]);
        let sides = BTreeMap::from([
            (0, Sides { input: 1, output: 0 }),
            (1, Sides { input: 0, output: 1 }),
        ]);
        let shifts = [vec![0, 0], vec![0, 0]];
        let new = group_shifts(&group(2), &convs, &sides, &shifts, 0);
        assert_eq!(new, [-1, 1], "a sixteenth: up by four in all, half on either side");
    }
}
