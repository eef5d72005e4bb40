//! Pass: the server's weights as integers.

use crate::draft::Draft;
use crate::{CompileError, LatticeSeeds};
use copriv_ir::fixed_point::{mean_correction, signed_bits};
use copriv_ir::winograd::MinimalFiltering;
use copriv_ir::{
    ConvGeometry, Fact, FusedLayer, FusedModel, LinearStep, LinearWeights, Lowering, Plan,
    Provenance, ServerWeights, Step, StepId, StepOp,
};
use std::collections::BTreeMap;

/// Weights rounded to the nearest multiple of `2^-weight_scale`, bias maps of their step's output scale.
pub(crate) fn quantise_layers(
    model: &FusedModel,
    draft: &Draft,
) -> Result<BTreeMap<StepId, LinearWeights>, CompileError> {
    let plan = draft.plan();
    let mut layers = BTreeMap::new();
    for step in plan.steps() {
        let StepOp::Linear(linear) = &step.op else { continue };
        let layer = &model.layers()[draft.layer(step.id).0];
        let Some((_, weight, bias)) = model.conv(layer) else {
            let fault = format!("layer {} has none", layer.name);
            return Err(CompileError::Weights { fault });
        };
        let correction = step_correction(plan, step);
        let weight = quantise_weights(step, linear, weight.data(), correction)?;
        let bias = quantise_bias(step, &linear.geometry, plan.fact(step.output), bias.data())?;
        layers.insert(step.id, LinearWeights { weight, bias });
    }
    Ok(layers)
}

/// The layers as the server's half of a plan, with the secret of its hint if it has one.
pub(crate) fn server_weights(
    model: &FusedModel,
    plan: &Plan,
    layers: BTreeMap<StepId, LinearWeights>,
    seeds: Option<&LatticeSeeds>,
) -> Result<ServerWeights, CompileError> {
    let Provenance { config, seed, .. } = plan.provenance().clone();
    let provenance = Provenance::new("compile", Some(model.digest()), config, seed);
    let weights = ServerWeights::new(plan, layers, provenance)
        .map_err(|fault| CompileError::Weights { fault })?;
    Ok(match seeds {
        Some(seeds) => weights.with_lattice_seed(&seeds.secret),
        None => weights,
    })
}

/// What the weights of a step must be multiplied by: more than 1 after a pooling sum alone.
fn step_correction(plan: &Plan, step: &Step) -> f64 {
    let before = &plan.steps()[step.inputs[0].0];
    match before.op {
        StepOp::SumPool => mean_correction(plan.fact(before.inputs[0]).shape.area()),
        _ => 1.0,
    }
}

fn quantise_weights(
    step: &Step,
    linear: &LinearStep,
    weights: &[f32],
    correction: f64,
) -> Result<Vec<i64>, CompileError> {
    let unit = f64::from(linear.weight_scale).exp2();
    let scaled = |&weight: &f32| (f64::from(weight) * correction * unit).round();
    let largest = weights.iter().map(scaled).fold(0.0, |max: f64, x| max.max(x.abs()));
    let needed = signed_bits(largest * filter_growth(linear.lowering));
    if needed > linear.weight_bits {
        return Err(CompileError::WeightOverflow {
            layer: step.name.clone(),
            largest: largest / unit,
            needed,
            available: linear.weight_bits,
            weight_scale: linear.weight_scale,
        });
    }
    Ok(weights.iter().map(|weight| scaled(weight) as i64).collect())
}

/// The largest absolute weight of a convolution.
///
/// # Errors
/// Where the layer has no weights.
pub(crate) fn largest_weight(model: &FusedModel, layer: &FusedLayer) -> Result<f64, CompileError> {
    let Some((_, weight, _)) = model.conv(layer) else {
        return Err(CompileError::Weights { fault: format!("layer {} has none", layer.name) });
    };
    Ok(weight.data().iter().fold(0.0, |max: f64, &w| max.max(f64::from(w).abs())))
}

/// How many times larger than the weights their transform may get.
pub(crate) fn filter_growth(lowering: Lowering) -> f64 {
    let growth = MinimalFiltering::of(lowering).map_or(1, |algorithm| {
        let sums = algorithm.filter.iter().map(|row| row.iter().map(|x| x.unsigned_abs()).sum());
        sums.max().unwrap_or(1u64).pow(2)
    });
    growth as f64
}

/// The bias map at the output's scale; one value for each channel where that is all there is to it.
fn quantise_bias(
    step: &Step,
    geometry: &ConvGeometry,
    output: &Fact,
    bias: &[f32],
) -> Result<Vec<i64>, CompileError> {
    let unit = f64::from(output.scale).exp2();
    let scaled = |&bias: &f32| (f64::from(bias) * unit).round();
    let largest = bias.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    let needed = signed_bits(scaled(&largest));
    if needed > output.ring.bits() {
        let (layer, ring, scale) = (step.name.clone(), output.ring, output.scale);
        return Err(CompileError::Overflow { layer, needed, ring, largest, head_room: 1, scale });
    }
    let map: Vec<i64> = bias.iter().map(|bias| scaled(bias) as i64).collect();
    let first = &map[..geometry.out_channels];
    let uniform = map.chunks(geometry.out_channels).all(|class| class == first);
    Ok(if uniform { first.to_vec() } else { map })
}
