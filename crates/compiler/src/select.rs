//! Pass 1: which steps each fused layer becomes, and at which scale.
//!
//! Activations have `scale` fractional bits. A convolution multiplies by weights of `weight_scale` and
//! is truncated back at once, except where its result is revealed or compared for the greatest. A mean stays a sum: its scale
//! grows instead, and the next linear step's truncation takes that along.

use crate::context::Context;
use crate::draft::Draft;
use crate::{Calibration, CalibrationSource, CompileConfig, CompileError, Output};
use copriv_ir::{
    Comparison, Correlation, Fact, FusedLayer, FusedModel, FusedOp, LayerId, LinearStep, Lowering,
    Party, Plan, PlanError, PoolWindow, Provenance, Sign, Step, StepId, StepOp, TruncateMethod,
    ValueId, Visibility,
};

/// The steps of `model`, every convolution direct with the client choosing.
pub(crate) fn select(
    model: &FusedModel,
    calibration: &Calibration,
    context: &Context<'_>,
) -> Result<Draft, CompileError> {
    let (network, config) = (model.network(), context.config);
    let input = Fact {
        shape: network.input().shape,
        ring: config.ring,
        scale: config.scale,
        sign: Sign::Any,
        visibility: Visibility::Client,
    };
    let draft = Draft::new(input, steps(model, context)?, |values, steps| {
        finish(model, calibration, config, (values, steps))
    })?;
    Ok(draft)
}

/// The plan of these values and steps.
pub(crate) fn finish(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    (values, steps): (Vec<Fact>, Vec<Step>),
) -> Result<Plan, PlanError> {
    let network = model.network();
    Plan::new(
        network.to_string(),
        config.preset.name().into(),
        (*network.input(), network.labels().to_vec()),
        (values, steps),
        provenance(calibration, config),
    )
}

/// How the plan was made. It is public, so it does not name the model: that digest would let anyone
/// confirm a guess of the weights.
fn provenance(calibration: &Calibration, config: &CompileConfig) -> Provenance {
    let source = calibration.source();
    let settings = serde_json::json!({ "settings": config, "calibration": source });
    let seed = match source {
        CalibrationSource::Noise { seed, .. } => Some(seed),
        CalibrationSource::Images { .. } => None,
    };
    Provenance::new("compile", None, settings, seed)
}

fn steps(model: &FusedModel, context: &Context<'_>) -> Result<Vec<(Step, LayerId)>, CompileError> {
    let comparison = context.comparison();
    let mut steps: Vec<(Step, LayerId)> = Vec::new();
    let mut push = |(number, layer): (usize, &FusedLayer), op: StepOp, inputs: Vec<ValueId>| {
        let (id, output) = (StepId(steps.len()), ValueId(steps.len()));
        steps.push((Step { id, name: layer.name.clone(), op, inputs, output }, LayerId(number)));
        output
    };
    let mut values: Vec<ValueId> = Vec::new();
    let last = model.layers().len() - 1;
    for (number, layer) in model.layers().iter().enumerate() {
        let inputs: Vec<ValueId> = layer.inputs.iter().map(|input| values[input.0]).collect();
        let op = operation(model, LayerId(number), context, comparison)?;
        let truncated = matches!(op, StepOp::Linear(_)) && number != last;
        let mut value = push((number, layer), op, inputs);
        if truncated {
            // The shift follows from the scales.
            let method = TruncateMethod::Faithful(comparison);
            let truncate = StepOp::Truncate { shift: 0, method };
            value = push((number, layer), truncate, vec![value]);
        }
        if number == last && context.config.output == Output::ArgMax {
            value = push((number, layer), StepOp::ArgMax { comparison }, vec![value]);
        }
        if number == last {
            push((number, layer), StepOp::Reveal, vec![value]);
        }
        values.push(value);
    }
    Ok(steps)
}

fn operation(
    model: &FusedModel,
    id: LayerId,
    context: &Context<'_>,
    comparison: Comparison,
) -> Result<StepOp, CompileError> {
    let layer = &model.layers()[id.0];
    Ok(match layer.op {
        FusedOp::Input => StepOp::Input,
        FusedOp::Conv(geometry) => StepOp::Linear(LinearStep {
            geometry,
            lowering: Lowering::Direct,
            correlation: Correlation::Ot { kind: context.ot, chooser: Party::Client },
            weight_scale: context.config.weight_scale,
            weight_bits: context.config.ring.bits(),
        }),
        FusedOp::Activation(function) => {
            StepOp::Activation { function, comparison, mask: layer.mask.clone() }
        }
        FusedOp::Add => StepOp::Add,
        FusedOp::GlobalAveragePool if feeds_only_convolutions(model, id) => StepOp::SumPool,
        FusedOp::MaxPool { kernel, stride, padding } => {
            StepOp::MaxPool { window: PoolWindow { kernel, stride, padding }, comparison }
        }
        FusedOp::GlobalAveragePool => return Err(unsupported_mean(model, id)),
    })
}

/// Why a mean has no step of its own.
pub(crate) fn unsupported_mean(model: &FusedModel, id: LayerId) -> CompileError {
    CompileError::Unsupported {
        layer: model.layers()[id.0].name.clone(),
        operation: "average pooling whose mean is used as it is".into(),
        remedy: "let a convolution or fully connected layer follow it".into(),
    }
}

/// Whether a mean may stay a sum, its division left to the weights of those who use it.
pub(crate) fn feeds_only_convolutions(model: &FusedModel, id: LayerId) -> bool {
    let mut users = model.layers().iter().filter(|user| user.inputs.contains(&id));
    id.0 + 1 != model.layers().len() && users.all(|user| matches!(user.op, FusedOp::Conv(_)))
}
