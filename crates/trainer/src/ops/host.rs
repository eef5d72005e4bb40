//! The bridge between burn's tensors on the `cpu` device and operations on plain slices.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use std::fmt::Debug;

type Tracked = FloatTensor<Autodiff<Flex>>;

/// A contiguous tensor of 32-bit floats on the host.
///
/// Tensors of four axes are in channels-last order: what burn knows as `[batch, channels, height, width]` is
/// `[batch, height, width, channels]` here. To burn such a tensor is one with other strides, so nothing is copied as long as it is
/// handed from one of these operations to the next.
#[derive(Clone, Debug)]
pub(super) struct HostTensor {
    tensor: FlexTensor,
    shape: Vec<usize>,
}

impl HostTensor {
    pub(super) fn new(values: Vec<f32>, shape: Vec<usize>) -> Self {
        let tensor = FlexTensor::from_data(TensorData::new(values, shape.clone()));
        Self { tensor, shape }
    }

    fn of(tensor: &FlexTensor) -> Self {
        let is_map = tensor.layout().num_dims() == 4;
        let tensor = if is_map { tensor.permute(&[0, 2, 3, 1]) } else { tensor.clone() };
        let shape = tensor.layout().shape().iter().copied().collect();
        Self { tensor: tensor.to_contiguous(), shape }
    }

    fn into_flex(self) -> FlexTensor {
        if self.shape.len() == 4 { self.tensor.permute(&[0, 3, 1, 2]) } else { self.tensor }
    }

    pub(super) fn values(&self) -> &[f32] {
        self.tensor.as_slice().unwrap_or_default()
    }

    /// As a burn tensor of one axis.
    pub(super) fn into_tensor(self) -> Tensor<1> {
        Tensor::from_primitive::<Flex>(self.tensor)
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Batch, and height and width, of a tensor `[batch, height, width, channels]`.
    pub(super) fn extents(&self) -> (usize, [usize; 2]) {
        let side = |axis: usize| self.shape.get(axis).copied().unwrap_or(1);
        (side(0), [side(1), side(2)])
    }

    /// Length of the last axis.
    pub(super) fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// An operation on `N` tensors with its derivative.
pub(super) trait HostOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What the forward pass finds on the way and the backward pass needs again.
    type Found: Clone + Debug + Send + 'static;

    fn forward(&self, inputs: &[HostTensor; N]) -> (HostTensor, Self::Found);

    /// The forward pass where no backward pass will follow.
    fn evaluate(&self, inputs: &[HostTensor; N]) -> (HostTensor, Self::Found) {
        self.forward(inputs)
    }

    /// Gradients of those inputs that are wanted, from that of the output.
    fn backward(
        &self,
        inputs: &[HostTensor; N],
        found: &Self::Found,
        gradient: &HostTensor,
        wanted: [bool; N],
    ) -> [Option<HostTensor>; N];
}

/// A burn tensor that may turn out to be on the host.
pub(super) enum Operand {
    Plain(FlexTensor),
    Tracked(Tracked),
    Elsewhere,
}

impl<const D: usize> From<&Tensor<D>> for Operand {
    fn from(tensor: &Tensor<D>) -> Self {
        if tensor.dtype() != DType::F32 {
            return Self::Elsewhere;
        }
        if tensor.is_autodiff() {
            let tracked = tensor.clone().try_into_primitive::<Autodiff<Flex>>();
            tracked.map_or(Self::Elsewhere, Self::Tracked)
        } else {
            let plain = tensor.clone().try_into_primitive::<Flex>();
            plain.map_or(Self::Elsewhere, Self::Plain)
        }
    }
}

/// The tensor, if it is on the host and without autodiff.
pub(super) fn plain<const D: usize>(tensor: &Tensor<D>) -> Option<HostTensor> {
    match Operand::from(tensor) {
        Operand::Plain(tensor) => Some(HostTensor::of(&tensor)),
        Operand::Tracked(_) | Operand::Elsewhere => None,
    }
}

/// A constant with the device and autodiff context of another tensor.
pub(super) fn constant<const D: usize>(values: [f32; 1], beside: &Tensor<D>) -> Tensor<1> {
    Tensor::from_data(values, &beside.device())
}

/// Applies `op` if all operands are on the host, and all with autodiff or all without.
pub(super) fn apply<const N: usize, O: HostOp<N>>(
    op: O,
    operands: [Operand; N],
) -> Option<(Tensor<4>, O::Found)> {
    if operands.iter().all(|operand| matches!(operand, Operand::Plain(_))) {
        let inputs = operands.map(|operand| match operand {
            Operand::Plain(tensor) => Some(HostTensor::of(&tensor)),
            Operand::Tracked(_) | Operand::Elsewhere => None,
        });
        let inputs = all(inputs)?;
        let (output, found) = op.evaluate(&inputs);
        return Some((Tensor::from_primitive::<Flex>(output.into_flex()), found));
    }
    let tracked = operands.map(|operand| match operand {
        Operand::Tracked(tensor) => Some(tensor),
        Operand::Plain(_) | Operand::Elsewhere => None,
    });
    let tracked = all(tracked)?;
    let inputs = tracked.each_ref().map(|tensor| HostTensor::of(tensor.primitive()));
    let guards = tracked.each_ref().map(|tensor| tensor.node());
    let (output, found) = op.forward(&inputs);
    let recorded = Recorded(op);
    let output = match recorded.prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((inputs, found.clone()), output.into_flex()),
        OpsKind::UnTracked(prep) => prep.finish(output.into_flex()),
    };
    Some((Tensor::from_primitive::<Autodiff<Flex>>(output), found))
}

/// All values, if none is missing.
fn all<T, const N: usize>(values: [Option<T>; N]) -> Option<[T; N]> {
    let values: Vec<T> = values.into_iter().collect::<Option<_>>()?;
    values.try_into().ok()
}

/// The operation on burn's tape.
#[derive(Debug)]
struct Recorded<O>(O);

impl<const N: usize, O: HostOp<N>> Backward<Flex, N> for Recorded<O> {
    type State = ([HostTensor; N], O::Found);

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = HostTensor::of(&gradients.consume::<Flex>(&ops.node));
        let (inputs, found) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = self.0.backward(&inputs, &found, &gradient, wanted);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(result)) = (parent, result) {
                gradients.register::<Flex>(parent.id, result.into_flex());
            }
        }
    }
}
