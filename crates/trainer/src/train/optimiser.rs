//! How parameters move: SGD with Nesterov momentum or AdamW, by kind of parameter.

use super::config::{Algorithm, OptimiserConfig};
use crate::model::{Model, ParameterKind, ParameterVisitor, replaced};
use crate::ops::{AdamStep, SgdStep, adam_step, sgd_step, square_sum};
use burn::module::Param;
use burn::tensor::{Gradients, Tensor};
use std::collections::BTreeMap;

/// A tensor for each parameter, flattened, without autodiff, by the parameter's name.
pub(super) type Named = BTreeMap<String, Tensor<1>>;

/// What an optimiser remembers of earlier steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    /// Velocity of SGD, or mean gradient.
    pub(super) first: Named,
    /// Mean squared gradient; of AdamW alone.
    pub(super) second: Named,
}

impl Moments {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The settings of one step.
pub(super) struct Optimiser<'a> {
    pub(super) config: &'a OptimiserConfig,
    pub(super) learning_rate: f64,
    /// Alphas of gates move by SGD, those of channels and values by Adam, whatever moves the weights.
    pub(super) alpha_learning_rate: f64,
    /// Steps made since the moments were empty.
    pub(super) step: usize,
}

impl Optimiser<'_> {
    /// Moves every parameter that has a gradient; alphas stay within 0..1.
    ///
    /// Gradients are scaled down where their global norm is above the limit.
    pub(super) fn step(&self, model: &mut Model, gradients: Named, moments: &mut Moments) {
        let gradient_scale = clipping(&gradients, self.config.clip_norm);
        let step = Step { optimiser: self, gradients, moments, gradient_scale };
        model.visit_parameters(&mut { step });
    }
}

/// The factor that brings the global norm down to `limit`; 1 where it is not above it, or there is none.
fn clipping(gradients: &Named, limit: f64) -> f32 {
    if limit == 0.0 {
        return 1.0;
    }
    let norm = gradients.values().map(square_sum).sum::<f64>().sqrt();
    if norm > limit { (limit / norm) as f32 } else { 1.0 }
}

struct Step<'a> {
    optimiser: &'a Optimiser<'a>,
    gradients: Named,
    moments: &'a mut Moments,
    gradient_scale: f32,
}

impl Step<'_> {
    fn moved(
        &mut self,
        name: &str,
        kind: ParameterKind,
        value: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Tensor<1> {
        let Optimiser { config, learning_rate, .. } = *self.optimiser;
        // Norms, biases and alphas do not decay.
        let decay = if kind == ParameterKind::Weight { config.weight_decay } else { 0.0 };
        let alpha_rate = self.optimiser.alpha_learning_rate;
        // A clamp in the forward pass would stop the gradient of an alpha past the bounds.
        match (kind, config.algorithm) {
            (ParameterKind::Alpha, _) => {
                self.sgd(name, value, gradient, alpha_rate, 0.0).clamp(0.0, 1.0)
            }
            (ParameterKind::Part, _) => {
                self.adam(name, value, gradient, alpha_rate, 0.0).clamp(0.0, 1.0)
            }
            (_, Algorithm::Sgd) => self.sgd(name, value, gradient, learning_rate, decay),
            (_, Algorithm::AdamW) => self.adam(name, value, gradient, learning_rate, decay),
        }
    }

    fn sgd(
        &mut self,
        name: &str,
        value: Tensor<1>,
        gradient: Tensor<1>,
        rate: f64,
        decay: f64,
    ) -> Tensor<1> {
        let step = SgdStep {
            rate: rate as f32,
            momentum: self.optimiser.config.momentum as f32,
            decay: decay as f32,
            gradient_scale: self.gradient_scale,
        };
        let velocity = self.moments.first.remove(name);
        let [value, velocity] = sgd_step(value, gradient, velocity, step);
        self.moments.first.insert(name.to_owned(), velocity);
        value
    }

    fn adam(
        &mut self,
        name: &str,
        value: Tensor<1>,
        gradient: Tensor<1>,
        rate: f64,
        decay: f64,
    ) -> Tensor<1> {
        let Optimiser { config, step, .. } = *self.optimiser;
        let betas = [config.beta1, config.beta2];
        let steps = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let adam = AdamStep {
            rate: rate as f32,
            betas: betas.map(|beta| beta as f32),
            epsilon: config.epsilon as f32,
            decay: decay as f32,
            corrections: betas.map(|beta| (1.0 - beta.powi(steps)) as f32),
            gradient_scale: self.gradient_scale,
        };
        let moments = self.moments.first.remove(name).zip(self.moments.second.remove(name));
        let moments = moments.map(|(first, second)| [first, second]);
        let [value, first, second] = adam_step(value, gradient, moments, adam);
        self.moments.first.insert(name.to_owned(), first);
        self.moments.second.insert(name.to_owned(), second);
        value
    }
}

impl ParameterVisitor for Step<'_> {
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        kind: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    ) {
        let Some(gradient) = self.gradients.remove(name) else { return };
        let tensor = parameter.val().inner();
        let shape = tensor.shape();
        let value = self.moved(name, kind, tensor.reshape([shape.num_elements()]), gradient);
        *parameter = replaced(parameter.id, value.reshape(shape));
    }
}

/// The gradient of each parameter of `model`.
pub(super) fn named_gradients(model: &mut Model, gradients: &mut Gradients) -> Named {
    let mut collect = Collect { gradients, named: Named::new() };
    model.visit_parameters(&mut collect);
    collect.named
}

struct Collect<'a> {
    gradients: &'a mut Gradients,
    named: Named,
}

impl ParameterVisitor for Collect<'_> {
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        _: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    ) {
        let tensor = parameter.val();
        if let Some(gradient) = tensor.grad_remove(self.gradients) {
            let elements = tensor.shape().num_elements();
            self.named.insert(name.to_owned(), gradient.reshape([elements]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn clipping_brings_the_global_norm_down() {
        let tensor = |list: &[f32]| Tensor::<1>::from_floats(list, &Device::flex());
        let gradients: Named =
            [("a".into(), tensor(&[3.0, 0.0])), ("b".into(), tensor(&[4.0]))].into();
        assert!((clipping(&gradients, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!((clipping(&gradients, 6.0), clipping(&gradients, 0.0)), (1.0, 1.0));
    }
}
