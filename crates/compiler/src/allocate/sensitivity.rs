//! What each layer's bits are worth to the logits.

use super::{Knob, Progress, Search};
use crate::CompileError;
use copriv_ir::Widths;

/// Bits that are taken away at a time: enough for the change to stand out from all other rounding.
pub(super) const PROBE: u32 = 3;

/// For each knob the mean square by which logits move away from the model's own when it alone has [`PROBE`] bits less than
/// `finest`; infinite where it cannot have.
pub(super) fn sensitivities(
    search: &Search<'_>,
    (knobs, finest): (&[Knob<'_>], &Widths),
    images: usize,
    observer: &mut dyn FnMut(Progress),
) -> Result<Vec<f64>, CompileError> {
    let expected = &search.calibration.logits()[..images];
    let loss = |widths: &Widths| {
        Ok::<f64, CompileError>(distance(&search.logits(widths, 0..images)?, expected))
    };
    let before = loss(finest)?;
    let mut losses = Vec::with_capacity(knobs.len());
    for (done, knob) in knobs.iter().enumerate() {
        observer(Progress { stage: "sensitivity", done, of: knobs.len() });
        let widths = knob.with(knob.bits(finest).saturating_sub(PROBE), finest.clone());
        losses.push(match loss(&widths) {
            // Below what chance in the rounding does, a change is no more than that.
            Ok(after) => (after - before).max(before / 100.0),
            Err(CompileError::CoarseWeights { .. }) => f64::INFINITY,
            Err(error) => return Err(error),
        });
    }
    observer(Progress { stage: "sensitivity", done: knobs.len(), of: knobs.len() });
    Ok(losses)
}

/// The mean square of the difference, the mean of each image's logits taken off: softmax does not see it.
fn distance(found: &[Vec<f64>], expected: &[Vec<f32>]) -> f64 {
    let of_image = |(found, expected): (&Vec<f64>, &Vec<f32>)| {
        let differences: Vec<f64> =
            found.iter().zip(expected).map(|(a, b)| a - f64::from(*b)).collect();
        let mean = differences.iter().sum::<f64>() / differences.len().max(1) as f64;
        differences.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    found.iter().zip(expected).map(of_image).sum::<f64>() / found.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_softmax_does_not_see_does_not_count() {
        let expected = vec![vec![1.0f32, 2.0, 3.0]];
        assert_eq!(distance(&[vec![6.0, 7.0, 8.0]], &expected), 0.0);
        assert_eq!(distance(&[vec![2.0, 2.0, 2.0]], &expected), 2.0);
    }
}
