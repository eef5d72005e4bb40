//! Batch norm after a convolution: `scale * (W x + b - mean) + shift = (scale W) x + (scale (b - mean) + shift)`.

use crate::convolution::Convolution;

/// A batch norm in inference mode: one entry for each channel.
pub(crate) struct BatchNorm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) running_mean: &'a [f32],
    pub(crate) running_var: &'a [f32],
    pub(crate) epsilon: f32,
}

impl BatchNorm<'_> {
    /// What a value is multiplied by: `weight / sqrt(running_var + epsilon)`.
    fn scale(&self, channel: usize) -> f64 {
        let variance = f64::from(self.running_var[channel]) + f64::from(self.epsilon);
        f64::from(self.weight[channel]) / variance.sqrt()
    }
}

/// Makes `conv` what it and the batch norm after it are together.
pub(crate) fn fold_batch_norm(conv: &mut Convolution, norm: &BatchNorm) {
    let taps = conv.geometry.fan_in();
    for (out, weight) in conv.weight.chunks_exact_mut(taps).enumerate() {
        let scale = norm.scale(out);
        weight.iter_mut().for_each(|w| *w *= scale);
    }
    conv.bias.map(|out, bias| {
        let mean = f64::from(norm.running_mean[out]);
        norm.scale(out) * (bias - mean) + f64::from(norm.bias[out])
    });
}
