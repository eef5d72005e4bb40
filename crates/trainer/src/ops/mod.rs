//! The operations that decide the speed of training on a CPU, with hand-written backward passes.
//!
//! burn-flex runs element-wise operations and batch norms on one thread, and the backward passes of convolutions by way of many small
//! ones. On the `cpu` device the functions here go over memory as rarely as can be, threaded and in vectors; on every other device they
//! are burn's own operations. Both ways compute the same, to rounding.

mod chain;
mod element;
mod grid;
mod host;
mod map;
mod part;
mod pool;
mod product;
mod simd;
mod sum;
mod vector;

pub(crate) use element::{AdamStep, SgdStep, adam_step, mixed, sgd_step, square_sum};
pub(crate) use grid::Chances;

use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm, batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, TensorData};
use chain::{Chain, Normalisation, Record, Statistics};
use copriv_ir::{Activation, ConvGeometry};
use grid::OntoGrid;
use host::{Operand, apply, constant, plain};
use part::PartialActivation;
use pool::GlobalAverage;
use std::sync::Arc;
use sum::GatedSum;

/// The tensor as a constant, whether it is on the tape or not.
pub(crate) fn untracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

/// The sum of a tensor, on the tape or not, and one that is not.
pub(crate) fn plus_constant<const D: usize>(tensor: Tensor<D>, constant: Tensor<D>) -> Tensor<D> {
    tensor.clone() + if tensor.is_autodiff() { Tensor::from_inner(constant) } else { constant }
}

/// `weight * act(x) + (1 - weight) * x`.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) activation: Activation,
    pub(crate) weight: GateWeight,
}

/// How much of the activation there is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few dozen at a time")]
pub(crate) enum GateWeight {
    /// None: the identity.
    None,
    /// All of it.
    Full,
    /// So much as this tensor of one element says; it receives a gradient.
    Tensor(Tensor<1>),
}

impl Gate {
    fn tensor<const D: usize>(&self, beside: &Tensor<D>) -> Tensor<1> {
        match &self.weight {
            GateWeight::None => constant([0.0], beside),
            GateWeight::Full => constant([1.0], beside),
            GateWeight::Tensor(weight) => weight.clone(),
        }
    }

    /// By burn's operations.
    fn compose(&self, x: Tensor<4>) -> Tensor<4> {
        let activated = |x: Tensor<4>| match self.activation {
            Activation::Relu => relu(x),
            Activation::Relu6 => x.clamp(0.0, 6.0),
        };
        match &self.weight {
            GateWeight::None => x,
            GateWeight::Full => activated(x),
            GateWeight::Tensor(weight) => {
                let difference = activated(x.clone()) - x.clone();
                x + difference * weight.clone().unsqueeze::<4>()
            }
        }
    }
}

/// A convolution without bias, the batch norm behind it and the gate behind that.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) geometry: ConvGeometry,
    pub(crate) weight: Tensor<4>,
    /// Weight and bias of the batch norm.
    pub(crate) parameters: [Tensor<1>; 2],
    /// Its running mean and variance, constants.
    pub(crate) running: [Tensor<1>; 2],
    pub(crate) gate: Gate,
}

/// Which mean and variance normalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormaliseBy {
    Batch,
    Running,
}

/// Mean and biased variance of each channel, without autodiff.
pub(crate) type Moments = [Tensor<1>; 2];

/// Units that a single operation holds.
const LONGEST: usize = 6;

/// Units one after another; also what each was normalised by, if it was by the batch.
pub(crate) fn chain(
    x: Tensor<4>,
    units: &[Unit],
    epsilon: f64,
    by: NormaliseBy,
) -> (Tensor<4>, Vec<Moments>) {
    let mut moments = vec![];
    let output = units.chunks(LONGEST).fold(x, |x, units| {
        let (output, found) = short_chain(x.clone(), units, epsilon, by)
            .unwrap_or_else(|| composed_chain(x, units, epsilon, by));
        moments.extend(found);
        output
    });
    (output, moments)
}

/// Up to [`LONGEST`] units in one operation, on the host.
fn short_chain(
    x: Tensor<4>,
    units: &[Unit],
    epsilon: f64,
    by: NormaliseBy,
) -> Option<(Tensor<4>, Vec<Moments>)> {
    if !units.iter().all(|unit| Chain::takes(&unit.geometry)) {
        return None;
    }
    let normalisation = match by {
        NormaliseBy::Batch => Normalisation::Batch,
        NormaliseBy::Running => Normalisation::Given(Arc::new(
            units.iter().map(|unit| statistics(&unit.running)).collect::<Option<_>>()?,
        )),
    };
    let op = Chain {
        units: units.iter().map(|unit| unit.geometry).collect(),
        activation: units.first()?.gate.activation,
        epsilon: epsilon as f32,
        normalisation,
    };
    let mut operands = vec![Operand::from(&x)];
    for unit in units {
        let [weight, bias] = &unit.parameters;
        let gate = unit.gate.tensor(&x);
        operands.extend([(&unit.weight).into(), weight.into(), bias.into(), (&gate).into()]);
    }
    let (output, record) = match units.len() {
        1 => apply::<5, _>(op, operands.try_into().ok()?),
        2 => apply::<9, _>(op, operands.try_into().ok()?),
        3 => apply::<13, _>(op, operands.try_into().ok()?),
        4 => apply::<17, _>(op, operands.try_into().ok()?),
        5 => apply::<21, _>(op, operands.try_into().ok()?),
        _ => apply::<25, _>(op, operands.try_into().ok()?),
    }?;
    let moments = if by == NormaliseBy::Batch { batch_moments(&record, &x) } else { vec![] };
    Some((output, moments))
}

fn statistics(running: &[Tensor<1>; 2]) -> Option<Statistics> {
    let plain =
        |tensor: &Tensor<1>| plain(&untracked(tensor.clone())).map(|host| host.values().to_vec());
    Some(Statistics { mean: plain(&running[0])?, variance: plain(&running[1])? })
}

fn batch_moments(record: &Record, beside: &Tensor<4>) -> Vec<Moments> {
    let device = beside.device().inner();
    let tensor = |values: &[f32]| Tensor::from_data(TensorData::from(values), &device);
    let moments = |found: &Statistics| [tensor(&found.mean), tensor(&found.variance)];
    record.statistics().map(moments).collect()
}

/// The same by burn's operations.
fn composed_chain(
    mut x: Tensor<4>,
    units: &[Unit],
    epsilon: f64,
    by: NormaliseBy,
) -> (Tensor<4>, Vec<Moments>) {
    let mut moments = vec![];
    for Unit { geometry, weight, parameters: [w, b], running: [mean, variance], gate } in units {
        x = conv2d(x, weight.clone(), None, options(geometry));
        let (w, b) = (w.clone(), b.clone());
        x = match by {
            NormaliseBy::Running => {
                gate.compose(batch_norm(x, w, b, mean.clone(), variance.clone(), epsilon))
            }
            NormaliseBy::Batch => {
                let result = batch_norm_train(x, w, b, epsilon);
                moments.push([untracked(result.mean), untracked(result.variance)]);
                gate.compose(result.output)
            }
        };
    }
    (x, moments)
}

fn options(geometry: &ConvGeometry) -> ConvOptions<2> {
    let ConvGeometry { stride, padding, groups, .. } = *geometry;
    ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups)
}

/// A convolution by itself, without gradients.
pub(crate) fn convolution(x: Tensor<4>, weight: Tensor<4>, geometry: &ConvGeometry) -> Tensor<4> {
    conv2d(x, weight, None, options(geometry))
}

/// The sum of two maps, then a gate.
pub(crate) fn add(x: Tensor<4>, other: Tensor<4>, gate: &Gate) -> Tensor<4> {
    let weight = gate.tensor(&x);
    let op = GatedSum { activation: gate.activation };
    apply(op, [(&x).into(), (&other).into(), (&weight).into()])
        .map_or_else(|| gate.compose(x + other), |(output, ())| output)
}

/// The mean over all pixels of each channel, a map of one pixel.
pub(crate) fn global_average(x: Tensor<4>) -> Tensor<4> {
    apply(GlobalAverage, [(&x).into()])
        .map_or_else(|| x.mean_dim(3).mean_dim(2), |(output, ())| output)
}

/// Each value as a multiple of one over `unit`, a power of two: one of the two around it by chance, else the nearest. Gradients pass as if
/// nothing had been done.
pub(crate) fn onto_grid(x: Tensor<4>, unit: f64, chances: Option<Arc<Chances>>) -> Tensor<4> {
    let op = OntoGrid { unit: unit as f32, chances: chances.clone() };
    if let Some((output, ())) = apply(op, [(&x).into()]) {
        return output;
    }
    let plain = untracked(x.clone());
    let scaled = plain.clone().mul_scalar(unit);
    let rounded = match chances {
        Some(chances) => (scaled + chances.tensor(x.dims(), &plain.device())).floor(),
        None => scaled.round(),
    };
    let rounded = rounded.div_scalar(unit);
    if x.is_autodiff() { plus_constant(x, rounded - plain) } else { rounded }
}

/// A gate by itself.
pub(crate) fn activate(x: Tensor<4>, gate: &Gate) -> Tensor<4> {
    gate.compose(x)
}

/// `a act(x) + (1 - a) x` on maps `[batch, channels, height, width]`, one weight `a` for each channel or for each value
/// of a map; they receive gradients.
pub(crate) fn activate_in_part(
    x: Tensor<4>,
    activation: Activation,
    weights: Tensor<1>,
) -> Tensor<4> {
    let op = PartialActivation { activation };
    apply(op, [(&x).into(), (&weights).into()]).map_or_else(
        || {
            let [_, channels, height, width] = x.dims();
            let of_values = weights.dims()[0] == channels * height * width;
            let sides = if of_values { [height, width] } else { [1, 1] };
            let weights = weights.clone().reshape([1, channels, sides[0], sides[1]]);
            let whole = Gate { activation, weight: GateWeight::Full };
            let difference = whole.compose(x.clone()) - x.clone();
            x.clone() + difference * weights
        },
        |(output, ())| output,
    )
}

#[cfg(test)]
mod tests;
