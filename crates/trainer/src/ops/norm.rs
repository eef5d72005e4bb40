//! Batch norm and gate in one operation.
//!
//! With `z = weight * (x - mean) / sqrt(variance + epsilon) + bias`, the output is
//! `y = g act(z) + (1 - g) z`. The backward pass computes z again in place of keeping it: for
//! `dz = dy (g act'(z) + 1 - g)` it is that of Ioffe and Szegedy (arXiv 1502.03167),
//! `dx = weight / sigma (dz - mean(dz) - xhat mean(dz xhat))`, where the last two terms are absent if the
//! statistics are given.

use super::host::{HostOp, HostTensor};
use super::vector::vectorised;
use copriv_ir::Activation;
use rayon::prelude::*;
use std::ops::Range;

/// Which mean and variance normalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistics {
    /// Those of the batch; the last two inputs are not looked at.
    Batch,
    /// The last two inputs.
    Given,
}

/// Inputs: x, weight, bias, gate weight, mean, variance.
#[derive(Clone, Debug)]
pub(super) struct Normalise {
    pub(super) activation: Activation,
    pub(super) epsilon: f32,
    pub(super) statistics: Statistics,
}

/// Mean and biased variance of each channel.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// `z = scale * x + shift` of one channel.
#[derive(Clone, Copy)]
struct Affine {
    scale: f32,
    shift: f32,
}

impl HostOp<6> for Normalise {
    type Found = Moments;

    fn forward(&self, inputs: &[HostTensor; 6]) -> (HostTensor, Moments) {
        let [x, _, _, gate, mean, variance] = inputs;
        let moments = match self.statistics {
            Statistics::Batch => moments(x),
            Statistics::Given => {
                Moments { mean: mean.values().to_vec(), variance: variance.values().to_vec() }
            }
        };
        let affine = self.affine(inputs, &moments);
        let gate = gate.values().first().copied().unwrap_or(1.0);
        let (_, channels, area) = x.planes();
        let (size, upper, values) = (channels * area, upper(self.activation), x.values());
        let output = HostTensor::build(x.shape().to_vec(), size, |image, output| {
            let x = &values[image * size..][..size];
            let planes = output.chunks_exact_mut(area).zip(x.chunks_exact(area));
            for ((output, x), affine) in planes.zip(&affine) {
                vectorised(|| transform(output, x, *affine, upper, gate));
            }
        });
        (output, moments)
    }

    fn backward(
        &self,
        inputs: &[HostTensor; 6],
        moments: &Moments,
        gradient: &HostTensor,
        wanted: [bool; 6],
    ) -> [Option<HostTensor>; 6] {
        let [x, _, _, gate, _, _] = inputs;
        let affine = self.affine(inputs, moments);
        let gate = gate.values().first().copied().unwrap_or(1.0);
        let sums = self.sums(x, gradient, &affine, gate);
        let rates = self.rates(moments);
        let weight_gradient: Vec<f32> = (sums.iter().zip(&moments.mean).zip(&rates))
            .map(|((sums, mean), rate)| {
                ((sums.product - f64::from(*mean) * sums.z) * f64::from(*rate)) as f32
            })
            .collect();
        let coefficients = self.coefficients(inputs, moments, &sums, &weight_gradient);
        let dx = wanted[0].then(|| self.input_gradient(x, gradient, &affine, &coefficients, gate));
        let vector = |values: Vec<f32>| HostTensor::new(values.clone(), vec![values.len()]);
        let bias_gradient = sums.iter().map(|sums| sums.z as f32).collect();
        let gate_gradient = sums.iter().map(|sums| sums.gate).sum::<f64>() as f32;
        [
            dx,
            wanted[1].then(|| vector(weight_gradient)),
            wanted[2].then(|| vector(bias_gradient)),
            wanted[3].then(|| vector(vec![gate_gradient])),
            None,
            None,
        ]
    }
}

/// Sums over all pixels of a channel.
#[derive(Clone, Copy)]
struct Sums {
    /// Of dz.
    z: f64,
    /// Of dz x.
    product: f64,
    /// Of dy (act(z) - z).
    gate: f64,
}

impl Normalise {
    /// `1 / sqrt(variance + epsilon)`.
    fn rates(&self, moments: &Moments) -> Vec<f32> {
        moments.variance.iter().map(|variance| (variance + self.epsilon).sqrt().recip()).collect()
    }

    fn affine(&self, inputs: &[HostTensor; 6], moments: &Moments) -> Vec<Affine> {
        let parameters = inputs[1].values().iter().zip(inputs[2].values());
        let statistics = self.rates(moments).into_iter().zip(&moments.mean);
        parameters
            .zip(statistics)
            .map(|((weight, bias), (rate, mean))| {
                let scale = weight * rate;
                Affine { scale, shift: bias - scale * mean }
            })
            .collect()
    }

    /// The sums of every channel, each by one task so that they do not depend on the threads.
    fn sums(&self, x: &HostTensor, dy: &HostTensor, affine: &[Affine], gate: f32) -> Vec<Sums> {
        let (x_values, dy_values, upper) = (x.values(), dy.values(), upper(self.activation));
        by_channel(x, |c, plane, lanes: &mut [[f32; LANES]; 3]| {
            let (x, dy) = (&x_values[plane.clone()], &dy_values[plane]);
            vectorised(|| add_plane(lanes, x, dy, affine[c], upper, gate));
        })
        .into_iter()
        .map(|[z, product, gate]| Sums { z, product, gate })
        .collect()
    }

    /// Of each channel, those by which `dx = c0 dz + c1 x + c2`.
    fn coefficients(
        &self,
        [x, weight, ..]: &[HostTensor; 6],
        moments: &Moments,
        sums: &[Sums],
        weight_gradient: &[f32],
    ) -> Vec<[f32; 3]> {
        let (batch, _, area) = x.planes();
        let (count, rates, weights) = ((batch * area) as f32, self.rates(moments), weight.values());
        let channel = |c: usize| {
            let scale = weights[c] * rates[c];
            match self.statistics {
                Statistics::Given => [scale, 0.0, 0.0],
                Statistics::Batch => {
                    let slope = -scale * rates[c] * weight_gradient[c] / count;
                    let offset = -scale * sums[c].z as f32 / count - slope * moments.mean[c];
                    [scale, slope, offset]
                }
            }
        };
        (0..rates.len()).map(channel).collect()
    }

    /// `dx = c0 dz + c1 x + c2`.
    fn input_gradient(
        &self,
        x: &HostTensor,
        dy: &HostTensor,
        affine: &[Affine],
        coefficients: &[[f32; 3]],
        gate: f32,
    ) -> HostTensor {
        let (_, channels, area) = x.planes();
        let (size, upper) = (channels * area, upper(self.activation));
        let (x_values, dy_values) = (x.values(), dy.values());
        HostTensor::build(x.shape().to_vec(), size, |image, dx| {
            let (x, dy) = (&x_values[image * size..][..size], &dy_values[image * size..][..size]);
            let inputs = x.chunks_exact(area).zip(dy.chunks_exact(area));
            let planes = dx.chunks_exact_mut(area).zip(inputs);
            for (c, (dx, (x, dy))) in planes.enumerate() {
                let (affine, coefficients) = (affine[c], coefficients[c]);
                vectorised(|| gradient_plane(dx, x, dy, affine, coefficients, upper, gate));
            }
        })
    }
}

/// Above this the activation is flat.
pub(super) fn upper(activation: Activation) -> f32 {
    match activation {
        Activation::Relu => f32::INFINITY,
        Activation::Relu6 => 6.0,
    }
}

/// Partial sums kept side by side, so that the compiler can add them in one instruction.
const LANES: usize = 16;

/// Planes of this many values together are summed up by one task.
const BLOCK: usize = 1 << 12;

/// Pixels after which partial sums of single precision are added to those of double.
const PIXELS: usize = 1 << 14;

/// Sums over all pixels of each channel: `add` is given a channel, where one of its planes lies, and lanes to add to.
///
/// Neighbouring channels are one task, because they lie side by side.
fn by_channel<const N: usize>(
    x: &HostTensor,
    add: impl Fn(usize, Range<usize>, &mut [[f32; LANES]; N]) + Sync,
) -> Vec<[f64; N]> {
    let (batch, channels, area) = x.planes();
    let block = (BLOCK / area.max(1)).clamp(1, 64);
    let images = (PIXELS / area.max(1)).max(1);
    let mut totals = vec![[0.0f64; N]; channels];
    totals.par_chunks_mut(block).enumerate().for_each(|(number, totals)| {
        let mut lanes = vec![[[0.0f32; LANES]; N]; totals.len()];
        for image in 0..batch {
            for (c, lanes) in lanes.iter_mut().enumerate() {
                let channel = number * block + c;
                let start = (image * channels + channel) * area;
                add(channel, start..start + area, lanes);
            }
            if (image + 1) % images == 0 || image + 1 == batch {
                for (totals, lanes) in totals.iter_mut().zip(&mut lanes) {
                    for (total, lanes) in totals.iter_mut().zip(lanes) {
                        *total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
                        *lanes = [0.0; LANES];
                    }
                }
            }
        }
    });
    totals
}

#[inline(always)]
fn add_plane(
    lanes: &mut [[f32; LANES]; 3],
    x: &[f32],
    dy: &[f32],
    Affine { scale, shift }: Affine,
    upper: f32,
    gate: f32,
) {
    let [mut z_sum, mut product, mut gates] = *lanes;
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (dy_blocks, dy_rest) = dy.as_chunks::<LANES>();
    for (x, dy) in blocks.iter().zip(dy_blocks) {
        for lane in 0..LANES {
            let z = scale * x[lane] + shift;
            let dz = dy[lane] * slope(z, upper, gate);
            z_sum[lane] += dz;
            product[lane] += dz * x[lane];
            gates[lane] += dy[lane] * (z.max(0.0).min(upper) - z);
        }
    }
    for (x, dy) in rest.iter().zip(dy_rest) {
        let z = scale * x + shift;
        let dz = dy * slope(z, upper, gate);
        z_sum[0] += dz;
        product[0] += dz * x;
        gates[0] += dy * (z.max(0.0).min(upper) - z);
    }
    *lanes = [z_sum, product, gates];
}

#[inline(always)]
fn gradient_plane(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    Affine { scale, shift }: Affine,
    [c0, c1, c2]: [f32; 3],
    upper: f32,
    gate: f32,
) {
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        let dz = dy * slope(scale * x + shift, upper, gate);
        *dx = c0 * dz + c1 * x + c2;
    }
}

/// Derivative of a gate; a choice without a branch.
#[inline(always)]
pub(super) fn slope(z: f32, upper: f32, gate: f32) -> f32 {
    if (z > 0.0) & (z < upper) { 1.0 } else { 1.0 - gate }
}

#[inline(always)]
fn transform(
    output: &mut [f32],
    x: &[f32],
    Affine { scale, shift }: Affine,
    upper: f32,
    gate: f32,
) {
    for (output, &x) in output.iter_mut().zip(x) {
        let z = scale * x + shift;
        *output = gate * z.max(0.0).min(upper) + (1.0 - gate) * z;
    }
}

/// Mean and variance of each channel, about the channel's first value against cancellation.
fn moments(x: &HostTensor) -> Moments {
    let (batch, _, area) = x.planes();
    let (count, values) = ((batch * area) as f64, x.values());
    let origin = |c: usize| values.get(c * area).copied().unwrap_or_default();
    let sums = by_channel(x, |c, plane, lanes: &mut [[f32; LANES]; 2]| {
        vectorised(|| add_powers(lanes, &values[plane], origin(c)));
    });
    let channel = |(c, [sum, squares]): (usize, [f64; 2])| {
        let shifted = sum / count;
        let mean = f64::from(origin(c)) + shifted;
        (mean as f32, (squares / count - shifted * shifted).max(0.0) as f32)
    };
    let (mean, variance) = sums.into_iter().enumerate().map(channel).unzip();
    Moments { mean, variance }
}

#[inline(always)]
fn add_powers(lanes: &mut [[f32; LANES]; 2], plane: &[f32], origin: f32) {
    let [mut sums, mut squares] = *lanes;
    let (blocks, rest) = plane.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let x = block[lane] - origin;
            sums[lane] += x;
            squares[lane] += x * x;
        }
    }
    for x in rest {
        sums[0] += x - origin;
        squares[0] += (x - origin) * (x - origin);
    }
    *lanes = [sums, squares];
}
