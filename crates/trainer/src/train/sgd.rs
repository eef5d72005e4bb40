//! SGD with Nesterov momentum, by kind of parameter.

use crate::model::{Model, ParameterKind, ParameterVisitor, replaced};
use burn::module::Param;
use burn::tensor::{Gradients, Tensor};
use std::collections::BTreeMap;

/// Velocity of each parameter, flattened, by the parameter's name.
pub(super) type Velocities = BTreeMap<String, Tensor<1>>;

/// The settings of one step.
pub(super) struct Sgd {
    pub(super) momentum: f64,
    /// Of [`ParameterKind::Weight`] alone.
    pub(super) weight_decay: f64,
    pub(super) learning_rate: f64,
    pub(super) alpha_learning_rate: f64,
}

impl Sgd {
    /// Moves every parameter that has a gradient, as PyTorch's SGD does; alphas stay within 0..1.
    pub(super) fn step(
        &self,
        model: &mut Model,
        gradients: &mut Gradients,
        velocities: &mut Velocities,
    ) {
        model.visit_parameters(&mut Step { sgd: self, gradients, velocities });
    }

    fn moved(
        &self,
        kind: ParameterKind,
        value: Tensor<1>,
        gradient: Tensor<1>,
        velocity: Option<Tensor<1>>,
    ) -> (Tensor<1>, Tensor<1>) {
        let gradient = match kind {
            ParameterKind::Weight if self.weight_decay > 0.0 => {
                gradient + value.clone().mul_scalar(self.weight_decay)
            }
            _ => gradient,
        };
        let velocity = match velocity {
            Some(velocity) => velocity.mul_scalar(self.momentum) + gradient.clone(),
            None => gradient.clone(),
        };
        let direction = gradient + velocity.clone().mul_scalar(self.momentum);
        let value = match kind {
            ParameterKind::Alpha => {
                // A clamp in the forward pass would stop the gradient of an alpha past the bounds.
                (value - direction.mul_scalar(self.alpha_learning_rate)).clamp(0.0, 1.0)
            }
            _ => value - direction.mul_scalar(self.learning_rate),
        };
        (value, velocity)
    }
}

struct Step<'a> {
    sgd: &'a Sgd,
    gradients: &'a mut Gradients,
    velocities: &'a mut Velocities,
}

impl ParameterVisitor for Step<'_> {
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        kind: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    ) {
        let tensor = parameter.val();
        let Some(gradient) = tensor.grad_remove(self.gradients) else { return };
        let shape = tensor.shape();
        let elements = shape.num_elements();
        let value = tensor.inner().reshape([elements]);
        let velocity = self.velocities.remove(name);
        let (value, velocity) = self.sgd.moved(kind, value, gradient.reshape([elements]), velocity);
        self.velocities.insert(name.to_owned(), velocity);
        *parameter = replaced(parameter.id, value.reshape(shape));
    }
}
