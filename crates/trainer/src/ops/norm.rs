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
#[derive(Clone, Copy, Default)]
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
        let (batch, channels, area) = x.planes();
        let (x, dy, upper) = (x.values(), dy.values(), upper(self.activation));
        let channel = |c: usize| {
            let mut sums = Sums::default();
            for image in 0..batch {
                let plane = (image * channels + c) * area;
                let (x, dy) = (&x[plane..plane + area], &dy[plane..plane + area]);
                vectorised(|| add_plane(&mut sums, x, dy, affine[c], upper, gate));
            }
            sums
        };
        (0..channels).into_par_iter().map(channel).collect()
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

#[inline(always)]
fn add_plane(
    sums: &mut Sums,
    x: &[f32],
    dy: &[f32],
    Affine { scale, shift }: Affine,
    upper: f32,
    gate: f32,
) {
    let [mut z_sum, mut product, mut gates] = [[0.0f32; LANES]; 3];
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
    let total = |lanes: [f32; LANES]| f64::from(lanes.iter().sum::<f32>());
    sums.z += total(z_sum);
    sums.product += total(product);
    sums.gate += total(gates);
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
    let (batch, channels, area) = x.planes();
    let (count, values) = ((batch * area) as f64, x.values());
    let channel = |c: usize| {
        let origin = values.get(c * area).copied().unwrap_or_default();
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for image in 0..batch {
            let plane = &values[(image * channels + c) * area..][..area];
            let (plane_sum, plane_squares) = vectorised(|| plane_sums(plane, origin));
            sum += plane_sum;
            squares += plane_squares;
        }
        let shifted = sum / count;
        let mean = f64::from(origin) + shifted;
        (mean as f32, (squares / count - shifted * shifted).max(0.0) as f32)
    };
    let (mean, variance) = (0..channels).into_par_iter().map(channel).unzip();
    Moments { mean, variance }
}

#[inline(always)]
fn plane_sums(plane: &[f32], origin: f32) -> (f64, f64) {
    let [mut sums, mut squares] = [[0.0f32; LANES]; 2];
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
    (f64::from(sums.iter().sum::<f32>()), f64::from(squares.iter().sum::<f32>()))
}
