//! The sum at the end of a residual block, and the gate after it.

use super::host::{HostOp, HostTensor};
use copriv_ir::Activation;
use rayon::prelude::*;

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
        let mut output = vec![0.0; a.values().len()];
        let inputs = a.values().par_chunks(CHUNK).zip(b.values().par_chunks(CHUNK));
        output.par_chunks_mut(CHUNK).zip(inputs).for_each(|(output, (a, b))| {
            for ((output, a), b) in output.iter_mut().zip(a).zip(b) {
                let z = a + b;
                *output = gate * self.activation.apply(z) + (1.0 - gate) * z;
            }
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
        let upper = match self.activation {
            Activation::Relu => f32::INFINITY,
            Activation::Relu6 => 6.0,
        };
        let mut dz = vec![0.0; a.values().len()];
        let maps = a.values().par_chunks(CHUNK).zip(b.values().par_chunks(CHUNK));
        let inputs = maps.zip(gradient.values().par_chunks(CHUNK));
        let chunk = |(dz, ((a, b), dy)): (&mut [f32], ((&[f32], &[f32]), &[f32]))| {
            let mut difference = 0.0f32;
            for (dz, ((a, b), dy)) in dz.iter_mut().zip(a.iter().zip(b).zip(dy)) {
                let z = a + b;
                let inside = if z > 0.0 && z < upper { 1.0 } else { 0.0 };
                *dz = dy * (gate * inside + (1.0 - gate));
                difference += dy * (z.max(0.0).min(upper) - z);
            }
            f64::from(difference)
        };
        // Collected before they are added, so that the sum does not depend on the threads.
        let differences: Vec<f64> = dz.par_chunks_mut(CHUNK).zip(inputs).map(chunk).collect();
        let dz = HostTensor::new(dz, a.shape().to_vec());
        let gate_gradient = differences.iter().sum::<f64>() as f32;
        [
            wanted[0].then(|| dz.clone()),
            wanted[1].then(|| dz.clone()),
            wanted[2].then(|| HostTensor::new(vec![gate_gradient], vec![1])),
        ]
    }
}
