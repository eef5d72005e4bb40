//! The losses, on logits `[batch, classes]`.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// Mean cross entropy between `targets` and the prediction.
pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (log_softmax(logits, 1) * targets).sum_dim(1).mean().neg()
}

/// Mean Kullback-Leibler divergence of the prediction from the teacher's, at temperature 1.
pub(super) fn divergence(logits: Tensor<2>, teacher_logits: Tensor<2>) -> Tensor<1> {
    let teacher = log_softmax(teacher_logits, 1);
    let difference = teacher.clone() - log_softmax(logits, 1);
    (teacher.exp() * difference).sum_dim(1).mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use crate::train::batch::Batch;
    use burn::tensor::{Device, TensorData};

    fn tensor(rows: [[f32; 3]; 2]) -> Tensor<2> {
        Tensor::from_data(rows, &Device::flex())
    }

    fn targets(labels: &[usize], smoothing: f64) -> Tensor<2> {
        let batch = Batch::empty(labels.to_vec(), 3, smoothing);
        Tensor::from_data(TensorData::new(batch.targets, [labels.len(), 3]), &Device::flex())
    }

    fn scalar(tensor: Tensor<1>) -> f32 {
        values(tensor)[0]
    }

    #[test]
    fn cross_entropy_is_that_of_the_textbook() {
        let logits = tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]);
        let plain = cross_entropy(logits.clone(), targets(&[2, 0], 0.0));
        let expected = (0.407_606 + 3.0f32.ln()) / 2.0;
        assert!((scalar(plain) - expected).abs() < 1e-5);
        // Smoothing mixes in the mean over all classes.
        let smooth = cross_entropy(logits, targets(&[2, 0], 0.3));
        let uniform = (1.407_606 + 3.0f32.ln()) / 2.0;
        assert!((scalar(smooth) - (0.7 * expected + 0.3 * uniform)).abs() < 1e-5);
    }

    #[test]
    fn divergence_vanishes_where_the_predictions_agree() {
        let logits = tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -4.0]]);
        assert!(scalar(divergence(logits.clone(), logits.clone().add_scalar(7.0))).abs() < 1e-6);
        let other = tensor([[3.0, 2.0, 1.0], [0.5, 0.0, -4.0]]);
        // KL(softmax(3,2,1) || softmax(1,2,3)) / 2.
        assert!((scalar(divergence(logits, other)) - 1.150_42 / 2.0).abs() < 1e-4);
    }
}
