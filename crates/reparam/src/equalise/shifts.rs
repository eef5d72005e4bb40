//! By how many powers of two each channel is scaled.

use super::channel_groups::ChannelGroup;
use crate::convolution::inputs_of;
use copriv_ir::{ConvGeometry, FusedLayer, FusedModel, FusedOp, Tensor, WeightScales};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Most sweeps over the network; each halves what is left, roughly.
const SWEEPS: usize = 12;

/// Channels are scaled by 2^-LARGEST_SHIFT to 2^LARGEST_SHIFT: activations are scaled with them, and they too
/// have few bits.
const LARGEST_SHIFT: i32 = 4;

/// By how many powers of two each channel of each group is scaled.
pub(super) fn shifts(
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

/// Multiplies the weights by what the channels on both sides are scaled by.
pub(super) fn scale_weight(
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

pub(super) fn power(shift: i32) -> f32 {
    2f32.powi(shift)
}

/// How it is recorded in what is made.
pub(super) fn settings(weight_bits: u32) -> serde_json::Value {
    serde_json::json!({
        "weight_bits": weight_bits, "sweeps": SWEEPS, "largest_shift": LARGEST_SHIFT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
