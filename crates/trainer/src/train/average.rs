//! The running mean of the weights (Polyak averaging), which is better than any of them.

use super::optimiser::Named;
use crate::model::{Model, ParameterKind, ParameterVisitor, PartWeights};
use crate::ops::{mixed, untracked};
use burn::module::{Module as _, Param};
use burn::tensor::Tensor;

/// A network whose weights and batch statistics are running means of another's.
pub(super) struct Average {
    model: Model,
}

impl Average {
    /// Begins with the weights of `model`, which may be a network with autodiff.
    pub(super) fn of(model: &Model) -> Self {
        Self { model: model.valid() }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn set_alphas(&mut self, alphas: &[f32]) {
        self.model.set_alphas(alphas);
    }

    pub(super) fn set_parts(&mut self, weights: &PartWeights, trained: bool) {
        self.model.set_parts(weights, trained);
    }

    /// Moves towards `model`, keeping `decay` of what it was; alphas are copied. Early on less is kept, `(1 + t) / (10 + t)`
    /// at step t, so that the first weights do not linger.
    pub(super) fn follow(&mut self, model: &mut Model, decay: f64, step: usize) {
        let early = (1 + step) as f64 / (10 + step) as f64;
        let share = decay.min(early) as f32;
        let mut collect = Collect(Named::new());
        model.visit_parameters(&mut collect);
        let mut values = collect.0;
        self.model.visit_parameters(&mut Follow { values: &mut values, share });
        let statistics: Vec<Tensor<1>> = model.statistics().into_iter().map(untracked).collect();
        let averages = self.model.statistics();
        let next = averages.into_iter().zip(statistics).map(|(old, new)| mixed(old, new, share));
        self.model.set_statistics(next.collect());
    }
}

struct Collect(Named);

impl ParameterVisitor for Collect {
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        _: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    ) {
        let tensor = parameter.val();
        let tensor = untracked(tensor);
        let elements = tensor.shape().num_elements();
        self.0.insert(name.to_owned(), tensor.reshape([elements]));
    }
}

struct Follow<'a> {
    values: &'a mut Named,
    share: f32,
}

impl ParameterVisitor for Follow<'_> {
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        kind: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    ) {
        let Some(new) = self.values.remove(name) else { return };
        let old = parameter.val();
        let shape = old.shape();
        let next = if matches!(kind, ParameterKind::Alpha | ParameterKind::Part) {
            new
        } else {
            mixed(old.reshape([shape.num_elements()]), new, self.share)
        };
        *parameter = Param::initialized(parameter.id, next.reshape(shape));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Masks;
    use burn::tensor::Device;
    use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Network};

    #[test]
    fn weights_and_statistics_are_means_and_alphas_the_newest() {
        let network = Network::new(Architecture::ResNet20, 0.25, 3, 16).expect("small");
        let checkpoint =
            |seed| Checkpoint::initialise(network.clone(), seed, BatchNormInit::Random);
        let device = Device::flex().autodiff();
        let (a, b) = (checkpoint(1), checkpoint(2));
        let mut average = Average::of(&Model::from_checkpoint(&a, &device));
        let mut newer = Model::from_checkpoint(&b, &device);
        newer.set_alphas(&[0.25; 10]);
        average.follow(&mut newer, 0.9, 0);
        let kept = a.gates().kept();
        let found = average
            .model()
            .to_checkpoint(kept, &Masks::new(), a.provenance().clone())
            .expect("finite");
        for (name, tensor) in found.tensors() {
            // At the first step a tenth is kept.
            let pairs = a.tensors()[name].data().iter().zip(b.tensors()[name].data());
            for (found, (a, b)) in tensor.data().iter().zip(pairs) {
                assert!((found - (0.1 * a + 0.9 * b)).abs() < 1e-5, "{name}");
            }
        }
        assert_eq!(found.gates().alphas(), [0.25; 10]);
    }
}
