//! The sum at the end of a residual block, and the gate after it.

use super::host::{HostOp, HostTensor};
use super::map::build;
use super::vector::vectorised;
use copriv_ir::Activation;

/// Inputs: two maps and the gate's weight. With z the sum of the maps it is `g act(z) + (1 - g) z`.
#[derive(Clone, Debug)]
pub(super) struct GatedSum {
    pub(super) activation: Activation,
}

/// Values a task handles; small enough to stay in a core's own cache.
const CHUNK: usize = 1 << 13;

impl HostOp<3> for GatedSum {
    type Found = ();

    fn forward(&self, [a, b, gate]: &[HostTensor; 3]) -> (HostTensor, ()) {
        let gate = gate.values().first().copied().unwrap_or(1.0);
        let upper = upper(self.activation);
        let (a_values, b_values) = (a.values(), b.values());
        let (output, _) = build(a_values.len(), CHUNK, |number, output| {
            let chunk = number * CHUNK..((number + 1) * CHUNK).min(a_values.len());
            let output = output.take(chunk.len());
            let (a, b) = (&a_values[chunk.clone()], &b_values[chunk]);
            vectorised(|| values(output, a, b, upper, gate));
        });
        (HostTensor::new(output, a.shape().to_vec()), ())
    }

    fn backward(
        &self,
        [a, b, gate]: &[HostTensor; 3],
        (): &(),
        gradient: &HostTensor,
        wanted: [bool; 3],
    ) -> [Option<HostTensor>; 3] {
        let gate = gate.values().first().copied().unwrap_or(1.0);
        let upper = upper(self.activation);
        let (a_values, b_values, dy) = (a.values(), b.values(), gradient.values());
        // Collected before they are added, so that the sum does not depend on the threads.
        let (dz, differences) = build(dy.len(), CHUNK, |number, dz| {
            let chunk = number * CHUNK..((number + 1) * CHUNK).min(dy.len());
            let dz = dz.take(chunk.len());
            let (a, b, dy) = (&a_values[chunk.clone()], &b_values[chunk.clone()], &dy[chunk]);
            vectorised(|| gradients(dz, a, b, dy, upper, gate))
        });
        let dz = HostTensor::new(dz, a.shape().to_vec());
        let gate_gradient = differences.iter().sum::<f64>() as f32;
        [
            wanted[0].then(|| dz.clone()),
            wanted[1].then(|| dz.clone()),
            wanted[2].then(|| HostTensor::new(vec![gate_gradient], vec![1])),
        ]
    }
}

#[inline(always)]
fn values(output: &mut [f32], a: &[f32], b: &[f32], upper: f32, gate: f32) {
    for ((output, a), b) in output.iter_mut().zip(a).zip(b) {
        let z = a + b;
        *output = gate * z.max(0.0).min(upper) + (1.0 - gate) * z;
    }
}

/// Fills `dz` and returns the gradient of the gate's weight.
#[inline(always)]
fn gradients(dz: &mut [f32], a: &[f32], b: &[f32], dy: &[f32], upper: f32, gate: f32) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let pixels =
        dz.chunks_mut(LANES).zip(a.chunks(LANES).zip(b.chunks(LANES)).zip(dy.chunks(LANES)));
    for (dz, ((a, b), dy)) in pixels {
        for ((dz, sum), ((a, b), dy)) in dz.iter_mut().zip(&mut sums).zip(a.iter().zip(b).zip(dy)) {
            let z = a + b;
            *dz = dy * slope(z, upper, gate);
            *sum += dy * (z.max(0.0).min(upper) - z);
        }
    }
    f64::from(sums.iter().sum::<f32>())
}

/// Above this the activation is flat.
pub(super) fn upper(activation: Activation) -> f32 {
    match activation {
        Activation::Relu => f32::INFINITY,
        Activation::Relu6 => 6.0,
    }
}

/// Derivative of a gate; a choice without a branch.
#[inline(always)]
pub(super) fn slope(z: f32, upper: f32, gate: f32) -> f32 {
    if (z > 0.0) & (z < upper) { 1.0 } else { 1.0 - gate }
}
