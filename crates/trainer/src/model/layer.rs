//! The parameters of one node, under PyTorch's names.

use super::values;
use burn::module::{Module, Param, RunningState};
use burn::tensor::{Device, Tensor, TensorData};
use copriv_ir::{Checkpoint, Node, Op, Tensor as HostTensor};
use std::collections::BTreeMap;

/// What a parameter is, for optimisers that treat kinds differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    /// Weight of a convolution or fully connected layer.
    Weight,
    /// Scale or shift of a batch norm, or a bias.
    Affine,
    /// Importances of the gates.
    Alpha,
    /// Importances of single channels or values of an activation.
    Part,
}

/// What is done to each parameter in turn.
pub(crate) trait ParameterVisitor {
    /// `name` is the parameter's name in checkpoints.
    fn visit<const D: usize>(
        &mut self,
        name: &str,
        kind: ParameterKind,
        parameter: &mut Param<Tensor<D>>,
    );
}

#[derive(Module, Debug)]
pub(super) enum Layer {
    Conv(Conv),
    Norm(Norm),
    Linear(Linear),
}

#[derive(Module, Debug)]
pub(super) struct Conv {
    pub(super) weight: Param<Tensor<4>>,
}

#[derive(Module, Debug)]
pub(super) struct Norm {
    pub(super) weight: Param<Tensor<1>>,
    pub(super) bias: Param<Tensor<1>>,
    pub(super) running_mean: RunningState<Tensor<1>>,
    pub(super) running_var: RunningState<Tensor<1>>,
}

#[derive(Module, Debug)]
pub(super) struct Linear {
    pub(super) weight: Param<Tensor<2>>,
    pub(super) bias: Param<Tensor<1>>,
}

impl Layer {
    /// The layer of a node with its weights from `checkpoint`; `None` for a node without any.
    pub(super) fn load(node: &Node, checkpoint: &Checkpoint, device: &Device) -> Option<Self> {
        let tensor = |suffix: &str| checkpoint.tensor(&format!("{}.{suffix}", node.name));
        let data = |suffix| tensor(suffix).map(to_data);
        let state = |suffix| {
            let value = Tensor::<1>::from_data(data(suffix)?, device);
            Some(RunningState::new(value))
        };
        Some(match node.op {
            Op::Conv(_) => Self::Conv(Conv { weight: Param::from_data(data("weight")?, device) }),
            Op::BatchNorm => Self::Norm(Norm {
                weight: Param::from_data(data("weight")?, device),
                bias: Param::from_data(data("bias")?, device),
                running_mean: state("running_mean")?,
                running_var: state("running_var")?,
            }),
            Op::Linear { .. } => Self::Linear(Linear {
                weight: Param::from_data(data("weight")?, device),
                bias: Param::from_data(data("bias")?, device),
            }),
            Op::Input
            | Op::Activation(_)
            | Op::Add
            | Op::MaxPool { .. }
            | Op::GlobalAveragePool => return None,
        })
    }

    /// Adds its parameters and statistics to `tensors`.
    pub(super) fn save(&self, name: &str, tensors: &mut BTreeMap<String, HostTensor>) {
        let mut put = |suffix: &str, tensor: Option<HostTensor>| {
            tensors.extend(tensor.map(|tensor| (format!("{name}.{suffix}"), tensor)));
        };
        match self {
            Self::Conv(conv) => put("weight", to_host(conv.weight.val())),
            Self::Norm(norm) => {
                put("weight", to_host(norm.weight.val()));
                put("bias", to_host(norm.bias.val()));
                put("running_mean", to_host(norm.running_mean.value_sync()));
                put("running_var", to_host(norm.running_var.value_sync()));
            }
            Self::Linear(linear) => {
                put("weight", to_host(linear.weight.val()));
                put("bias", to_host(linear.bias.val()));
            }
        }
    }

    /// Its running mean and variance, if it is a batch norm.
    pub(super) fn statistics(&self) -> Vec<&RunningState<Tensor<1>>> {
        match self {
            Self::Norm(norm) => vec![&norm.running_mean, &norm.running_var],
            Self::Conv(_) | Self::Linear(_) => vec![],
        }
    }

    pub(super) fn visit(&mut self, name: &str, visitor: &mut impl ParameterVisitor) {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        match self {
            Self::Conv(conv) => visitor.visit(&weight, ParameterKind::Weight, &mut conv.weight),
            Self::Norm(norm) => {
                visitor.visit(&weight, ParameterKind::Affine, &mut norm.weight);
                visitor.visit(&bias, ParameterKind::Affine, &mut norm.bias);
            }
            Self::Linear(linear) => {
                visitor.visit(&weight, ParameterKind::Weight, &mut linear.weight);
                visitor.visit(&bias, ParameterKind::Affine, &mut linear.bias);
            }
        }
    }
}

fn to_data(tensor: &HostTensor) -> TensorData {
    TensorData::new(tensor.data().to_vec(), tensor.shape().to_vec())
}

/// `None` cannot come about: a tensor has as many values as its shape says.
fn to_host<const D: usize>(tensor: Tensor<D>) -> Option<HostTensor> {
    HostTensor::new(tensor.dims().to_vec(), values(tensor))
}
