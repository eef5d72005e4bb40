//! Batch norm with the gate behind it, applied where a map is read and derived where one is written.
//!
//! With `z = weight * (x - mean) / sqrt(variance + epsilon) + bias`, the output is `y = g act(z) + (1 - g) z`. For
//! `dz = dy (g act'(z) + 1 - g)` the backward pass is that of Ioffe and Szegedy (arXiv 1502.03167),
//! `dx = weight / sigma (dz - mean(dz) - xhat mean(dz xhat))`, where the last two terms are absent if the statistics are given:
//! a factor a channel on dz, one on x, and a constant.

use crate::ops::map::Map;
use crate::ops::simd::{Block, LANES, Lanes};
use copriv_ir::Activation;

/// Mean and biased variance of each channel.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
}

/// A batch norm with given statistics, and its gate.
#[derive(Debug)]
pub(super) struct Norm {
    scale: Vec<Block>,
    shift: Vec<Block>,
    /// `1 / sqrt(variance + epsilon)`.
    rates: Vec<f32>,
    /// Above this the activation is flat.
    upper: f32,
    gate: f32,
}

impl Norm {
    pub(super) fn new(
        [weight, bias]: [&[f32]; 2],
        statistics: &Statistics,
        epsilon: f32,
        (activation, gate): (Activation, f32),
    ) -> Self {
        let rate = |variance: &f32| (variance + epsilon).sqrt().recip();
        let rates: Vec<f32> = statistics.variance.iter().map(rate).collect();
        let scale: Vec<f32> =
            weight.iter().zip(&rates).map(|(weight, rate)| weight * rate).collect();
        let shifts = bias.iter().zip(&scale).zip(&statistics.mean);
        let shift: Vec<f32> = shifts.map(|((bias, scale), mean)| bias - scale * mean).collect();
        let upper = match activation {
            Activation::Relu => f32::INFINITY,
            Activation::Relu6 => 6.0,
        };
        Self { scale: Block::list(&scale), shift: Block::list(&shift), rates, upper, gate }
    }

    /// The outputs of one pixel.
    #[inline(always)]
    pub(super) fn apply<V: Lanes>(&self, to: &mut [Block], from: &[Block]) {
        let constants = self.scale.iter().zip(&self.shift);
        for ((to, from), (scale, shift)) in to.iter_mut().zip(from).zip(constants) {
            let z = V::load(from).mul_add(V::load(scale), V::load(shift));
            self.gated(z).store(to);
        }
    }

    #[inline(always)]
    fn gated<V: Lanes>(&self, z: V) -> V {
        let active = z.clamp(V::zero(), V::splat(self.upper));
        let rest = z.mul(V::splat(1.0 - self.gate));
        active.mul_add(V::splat(self.gate), rest)
    }

    /// dz of vector `v` of a pixel with input x, from dy; added to the sums.
    #[inline(always)]
    pub(super) fn gradient<V: Lanes>(&self, v: usize, x: V, dy: V, sums: &mut [V; 3]) -> V {
        let (low, high) = (V::zero(), V::splat(self.upper));
        let z = x.mul_add(V::load(&self.scale[v]), V::load(&self.shift[v]));
        let slope = z.choose(low, high, V::splat(1.0), V::splat(1.0 - self.gate));
        let dz = dy.mul(slope);
        let [z_sum, product, gate] = *sums;
        let difference = z.clamp(low, high).sub(z);
        *sums = [z_sum.add(dz), dz.mul_add(x, product), dy.mul_add(difference, gate)];
        dz
    }
}

/// Sums over pixels of dz, of dz x and of dy (act(z) - z), of each channel.
#[derive(Debug)]
pub(super) struct Sums {
    lanes: Vec<[Block; 3]>,
    totals: Vec<[f64; 3]>,
}

impl Sums {
    pub(super) fn new(vectors: usize) -> Self {
        Self { lanes: vec![[Block::ZERO; 3]; vectors], totals: vec![[0.0; 3]; vectors * LANES] }
    }

    #[inline(always)]
    pub(super) fn load<V: Lanes>(&self, v: usize) -> [V; 3] {
        let [z, product, gate] = &self.lanes[v];
        [V::load(z), V::load(product), V::load(gate)]
    }

    #[inline(always)]
    pub(super) fn store<V: Lanes>(&mut self, v: usize, sums: [V; 3]) {
        for (block, sum) in self.lanes[v].iter_mut().zip(sums) {
            sum.store(block);
        }
    }

    /// Adds the sums of single precision to those of double; to be done every few hundred pixels.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        for (lanes, totals) in self.lanes.iter_mut().zip(self.totals.as_chunks_mut::<LANES>().0) {
            for (which, block) in lanes.iter_mut().enumerate() {
                for (total, lane) in totals.iter_mut().zip(block.0) {
                    total[which] += f64::from(lane);
                }
                *block = Block::ZERO;
            }
        }
    }

    /// The totals of all tasks, added in their order.
    pub(super) fn total(tasks: &[Self], channels: usize) -> Vec<[f64; 3]> {
        let add = |c: usize, which: usize| tasks.iter().map(|task| task.totals[c][which]).sum();
        (0..channels).map(|c| [add(c, 0), add(c, 1), add(c, 2)]).collect()
    }
}

/// Gradients of a batch norm's parameters, and how that of its input follows from dz.
pub(super) struct NormGradient {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) gate: f32,
    /// Of each vector of channels, those by which `dx = c0 dz + c1 x + c2`.
    pub(super) coefficients: Vec<[Block; 3]>,
}

impl Norm {
    /// `count` is the number of pixels if the statistics are those of the batch.
    pub(super) fn parameters(
        &self,
        statistics: &Statistics,
        sums: &[[f64; 3]],
        count: Option<usize>,
    ) -> NormGradient {
        let scale = Block::flat(&self.scale);
        let mut coefficients = vec![[Block::ZERO; 3]; self.scale.len()];
        let (mut weight, mut bias, mut gate) = (vec![], vec![], 0.0);
        for (c, [z, product, difference]) in sums.iter().enumerate() {
            let (mean, rate) = (f64::from(statistics.mean[c]), f64::from(self.rates[c]));
            let scaled = (product - mean * z) * rate;
            weight.push(scaled as f32);
            bias.push(*z as f32);
            gate += difference;
            let factor = f64::from(scale[c]);
            let [slope, offset] = count.map_or([0.0; 2], |count| {
                let slope = -factor * rate * scaled / count as f64;
                [slope, -factor * z / count as f64 - slope * mean]
            });
            let of_vector = &mut coefficients[c / LANES];
            for (block, value) in of_vector.iter_mut().zip([factor, slope, offset]) {
                block.0[c % LANES] = value as f32;
            }
        }
        NormGradient { weight, bias, gate: gate as f32, coefficients }
    }
}

/// The gradient of a convolution's output, worked out where it is read: `c0 dz + c1 x + c2` for the output x and the gradient dz of
/// the batch norm's output.
#[derive(Clone, Copy)]
pub(super) struct Pending<'a> {
    pub(super) dz: &'a Map,
    pub(super) x: &'a Map,
    pub(super) coefficients: &'a [[Block; 3]],
}

impl Pending<'_> {
    /// That of one pixel.
    #[inline(always)]
    pub(super) fn pixel<V: Lanes>(&self, to: &mut [Block], pixel: usize) {
        let inputs = self.dz.pixel(pixel).iter().zip(self.x.pixel(pixel));
        for ((to, (dz, x)), [c0, c1, c2]) in to.iter_mut().zip(inputs).zip(self.coefficients) {
            let offset = V::load(x).mul_add(V::load(c1), V::load(c2));
            V::load(dz).mul_add(V::load(c0), offset).store(to);
        }
    }
}

/// Count, mean and summed squared deviation of each channel, brought together group by group (Chan, Golub and LeVeque).
#[derive(Debug)]
pub(super) struct Moments {
    count: f64,
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Moments {
    pub(super) fn new(vectors: usize) -> Self {
        let zeros = vec![0.0; vectors * LANES];
        Self { count: 0.0, mean: zeros.clone(), deviation: zeros }
    }

    /// Adds some pixels; a few hundred at most, because they are summed in single precision about the first of them.
    #[inline(always)]
    pub(super) fn add<V: Lanes>(&mut self, pixels: &[Block], vectors: usize) {
        let new = (pixels.len() / vectors.max(1)) as f64;
        if new == 0.0 {
            return;
        }
        let count = self.count + new;
        for v in 0..vectors {
            let origin = V::load(&pixels[v]);
            let (mut sum, mut squares) = (V::zero(), V::zero());
            for pixel in pixels.chunks_exact(vectors) {
                let x = V::load(&pixel[v]).sub(origin);
                sum = sum.add(x);
                squares = x.mul_add(x, squares);
            }
            let mut sums = [Block::ZERO; 2];
            sum.store(&mut sums[0]);
            squares.store(&mut sums[1]);
            let [sums, squares] = sums.map(|block| block.0);
            let means = &mut self.mean[v * LANES..][..LANES];
            let deviations = &mut self.deviation[v * LANES..][..LANES];
            for lane in 0..LANES {
                let (sum, squares) = (f64::from(sums[lane]), f64::from(squares[lane]));
                let shifted = sum / new;
                let difference = f64::from(pixels[v].0[lane]) + shifted - means[lane];
                means[lane] += difference * (new / count);
                deviations[lane] += (squares - sum * shifted).max(0.0)
                    + difference * difference * (self.count * new / count);
            }
        }
        self.count = count;
    }

    /// Those of all tasks, brought together in their order.
    pub(super) fn statistics(tasks: &[Self], channels: usize) -> Statistics {
        let of_channel = |c: usize| {
            let (mut count, mut mean, mut deviation) = (0.0f64, 0.0f64, 0.0f64);
            for task in tasks {
                let total = count + task.count;
                let difference = task.mean[c] - mean;
                mean += difference * task.count / total.max(1.0);
                deviation += task.deviation[c]
                    + difference * difference * count * task.count / total.max(1.0);
                count = total;
            }
            (mean as f32, (deviation / count.max(1.0)) as f32)
        };
        let (mean, variance) = (0..channels).map(of_channel).unzip();
        Statistics { mean, variance }
    }
}
