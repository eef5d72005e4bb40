//! Mixed precision, in place of passes 1 to 3: every value in the ring that it needs.
//!
//! Between layers values are *small*: `activation_bits` bits for the largest calibrated one, and room for
//! `head_room` times as much. A linear layer works in a *wide* ring, just wide enough that what is left once the bits beyond
//! the output's scale are cut off (truncate and reduce, local) is the small value in its small ring. Before the next linear
//! layer the value is extended again: by one correlated transfer where its sign is known, else after an offset for which
//! its ring has a bit to spare. Activations and sums run in the small rings.
//!
//! Sums inside a linear layer may wrap, since only their total is read: the wide ring follows from the range of the
//! output alone.

use crate::context::Context;
use crate::draft::Draft;
use crate::lower::allowed;
use crate::pricing::Price;
use crate::quantise::{filter_growth, largest_weight};
use crate::ranges::{RELU6_CAP, difference_bits};
use crate::select::{feeds_only_convolutions, finish, unsupported_mean};
use crate::{Calibration, CompileConfig, CompileError, LoweringRule, Output};
use copriv_ir::fixed_point::{self, FormatGroups, Origin, mean_bits, mean_correction, signed_bits};
use copriv_ir::{
    Activation, Comparison, ConvGeometry, Correlation, ExtendMethod, Fact, FusedLayer, FusedModel,
    FusedOp, LayerId, LinearStep, Lowering, PoolWindow, Ring, Sign, Step, StepId, StepOp,
    TruncateMethod, ValueId, Visibility, cost,
};
use std::collections::BTreeMap;

/// The plan of `model` with every value in its own ring.
///
/// # Errors
/// [`CompileError::TooWide`] where a wide ring would need more than 64 bits; what has no step.
pub(crate) fn narrow(
    model: &FusedModel,
    calibration: &Calibration,
    context: &Context<'_>,
) -> Result<Draft, CompileError> {
    let config = context.config;
    let weight_scales = weight_scales(model, config)?;
    let formats = formats(model, calibration, config, &weight_scales)?;
    let mut narrowing = Narrowing {
        model,
        calibration,
        config,
        context,
        weight_scales,
        formats,
        comparison: context.comparison(),
        steps: vec![],
        facts: vec![],
        layers: vec![],
        extended: BTreeMap::new(),
    };
    let mut values: Vec<ValueId> = vec![];
    for number in 0..model.layers().len() {
        let value = narrowing.layer(LayerId(number), &values)?;
        values.push(value);
    }
    let last = LayerId(values.len() - 1);
    let mut answer = values[last.0];
    if config.output == Output::ArgMax {
        let comparison = narrowing.comparison;
        answer = narrowing.push(last, StepOp::ArgMax { comparison }, vec![answer])?;
    }
    narrowing.push(last, StepOp::Reveal, vec![answer])?;
    let Narrowing { steps, facts, layers, .. } = narrowing;
    Ok(Draft::of(finish(model, calibration, config, (facts, steps))?, layers))
}

/// How a small value is represented.
#[derive(Clone, Copy, Debug)]
struct Format {
    scale: u32,
    ring: Ring,
}

/// The formats of all layers' values. Values that are added to each other, and what an activation or max pool takes
/// and gives, have one format.
fn formats(
    model: &FusedModel,
    calibration: &Calibration,
    config: &CompileConfig,
    weight_scales: &[u32],
) -> Result<Vec<Format>, CompileError> {
    let format_groups = format_groups(model);
    let groups = format_groups.groups();
    let head_room = f64::from(config.head_room);
    let (mut largest, mut bounds) = (vec![0f64; groups.len()], vec![0f64; groups.len()]);
    let mut spare = vec![0; groups.len()];
    for (number, (layer, &group)) in model.layers().iter().zip(groups).enumerate() {
        let id = LayerId(number);
        let value = f64::from(calibration.largest()[id.0]);
        let cap = match layer.op {
            FusedOp::Activation(Activation::Relu6) => RELU6_CAP,
            _ => 0.0,
        };
        largest[group] = largest[group].max(value);
        bounds[group] = bounds[group].max(value * head_room + cap);
        let sign = if is_non_negative(model, id) { Sign::NonNegative } else { Sign::Any };
        // An offset takes a bit, too; the client extends the input without one.
        let offset = sign == Sign::Any && layer.op != FusedOp::Input && is_multiplied(model, id);
        let compared = if is_compared(model, id) { difference_bits(sign) } else { 0 };
        spare[group] = spare[group].max(u32::from(offset)).max(compared);
    }
    let scales = format_groups.scales(
        calibration.largest(),
        |group| config.widths.activation(&model.layers()[group].name),
        |layer| Some(weight_scales[layer]),
    );
    groups
        .iter()
        .map(|&group| {
            let scale = scales[group];
            // Rounding may add one.
            let needed = signed_bits(bounds[group] * f64::from(scale).exp2() + 1.0);
            let needed = needed + spare[group];
            let overflow = |_| CompileError::TooWide {
                layer: model.layers()[group].name.clone(),
                needed,
                largest: largest[group] as f32,
                head_room: config.head_room,
            };
            Ok(Format { scale, ring: Ring::new(needed).map_err(overflow)? })
        })
        .collect()
}

/// Which layers' values share a format.
pub(crate) fn format_groups(model: &FusedModel) -> FormatGroups {
    let origin = |layer: &FusedLayer| match layer.op {
        FusedOp::Input | FusedOp::GlobalAveragePool => Origin::Own,
        FusedOp::Activation(_) | FusedOp::Add | FusedOp::MaxPool { .. } => {
            Origin::Alike(layer.inputs.iter().map(|input| input.0).collect())
        }
        FusedOp::Conv(_) => {
            let (LayerId(factor), pooled) = source(model, layer);
            Origin::Product { factor, pooled }
        }
    };
    FormatGroups::new(model.layers().iter().map(origin).collect())
}

/// Fractional bits of each layer's weights; 0 where it has none.
fn weight_scales(model: &FusedModel, config: &CompileConfig) -> Result<Vec<u32>, CompileError> {
    let scale = |layer: &FusedLayer| match layer.op {
        FusedOp::Conv(_) => weight_scale(model, layer, config.widths.weight(&layer.name)),
        _ => Ok(0),
    };
    model.layers().iter().map(scale).collect()
}

/// Fractional bits of a layer's weights: the most at which all have `bits` bits, sign included.
pub(crate) fn weight_scale(
    model: &FusedModel,
    layer: &FusedLayer,
    bits: u32,
) -> Result<u32, CompileError> {
    let pooled = pooled(model, layer);
    let largest = largest_weight(model, layer)? * pooled.map_or(1.0, mean_correction);
    fixed_point::weight_scale(largest, bits).ok_or_else(|| CompileError::CoarseWeights {
        layer: layer.name.clone(),
        largest,
        needed: signed_bits(largest.round()),
        available: bits,
    })
}

/// The layer whose small value a convolution multiplies, and the fractional bits that a pooling sum between them adds.
pub(crate) fn source(model: &FusedModel, layer: &FusedLayer) -> (LayerId, u32) {
    match pooled(model, layer) {
        Some(area) => {
            let pool = &model.layers()[layer.inputs[0].0];
            (pool.inputs[0], mean_bits(area))
        }
        None => (layer.inputs[0], 0),
    }
}

/// The area that is summed right before a convolution, if any.
fn pooled(model: &FusedModel, layer: &FusedLayer) -> Option<usize> {
    let input = &model.layers()[layer.inputs[0].0];
    (input.op == FusedOp::GlobalAveragePool).then(|| model.layers()[input.inputs[0].0].shape.area())
}

/// Bits that a filter transform may add to a weight.
fn growth_bits(lowering: Lowering) -> u32 {
    filter_growth(lowering).log2().ceil() as u32
}

/// Whether a layer's value is known not to be negative.
fn is_non_negative(model: &FusedModel, id: LayerId) -> bool {
    let layer = &model.layers()[id.0];
    match layer.op {
        FusedOp::Activation(_) if layer.mask.is_none() => true,
        // What passes by an activation in part is as it was.
        FusedOp::Activation(_) | FusedOp::Add | FusedOp::MaxPool { .. } => {
            layer.inputs.iter().all(|&input| is_non_negative(model, input))
        }
        _ => false,
    }
}

/// Whether a convolution, perhaps after a pooling sum, takes a layer's value.
fn is_multiplied(model: &FusedModel, id: LayerId) -> bool {
    let mut convolutions =
        model.layers().iter().filter(|layer| matches!(layer.op, FusedOp::Conv(_)));
    convolutions.any(|layer| source(model, layer).0 == id)
}

/// Whether a max pool takes a layer's value.
fn is_compared(model: &FusedModel, id: LayerId) -> bool {
    let mut pools =
        model.layers().iter().filter(|layer| matches!(layer.op, FusedOp::MaxPool { .. }));
    pools.any(|layer| layer.inputs.contains(&id))
}

/// A plan in the making.
struct Narrowing<'a> {
    model: &'a FusedModel,
    calibration: &'a Calibration,
    config: &'a CompileConfig,
    context: &'a Context<'a>,
    weight_scales: Vec<u32>,
    formats: Vec<Format>,
    comparison: Comparison,
    steps: Vec<Step>,
    facts: Vec<Fact>,
    layers: Vec<LayerId>,
    /// Small values that were taken to a wide ring.
    extended: BTreeMap<(ValueId, Ring), ValueId>,
}

/// A way to run a linear layer.
struct Way {
    step: LinearStep,
    wide: Ring,
    /// Bits beyond the output's scale.
    shift: u32,
}

impl Narrowing<'_> {
    /// Emits the steps of a layer; its value.
    fn layer(&mut self, id: LayerId, values: &[ValueId]) -> Result<ValueId, CompileError> {
        let layer = &self.model.layers()[id.0];
        let inputs: Vec<ValueId> = layer.inputs.iter().map(|input| values[input.0]).collect();
        match layer.op {
            FusedOp::Input => self.input(id),
            FusedOp::Conv(geometry) => self.linear(id, (layer, geometry), values),
            FusedOp::Activation(function) => {
                let (comparison, mask) = (self.comparison, layer.mask.clone());
                self.push(id, StepOp::Activation { function, comparison, mask }, inputs)
            }
            FusedOp::Add => self.push(id, StepOp::Add, inputs),
            // Summed in the ring of each convolution that takes it.
            FusedOp::GlobalAveragePool if feeds_only_convolutions(self.model, id) => Ok(inputs[0]),
            FusedOp::GlobalAveragePool => Err(unsupported_mean(self.model, id)),
            FusedOp::MaxPool { kernel, stride, padding } => {
                let window = PoolWindow { kernel, stride, padding };
                let comparison = self.comparison;
                self.push(id, StepOp::MaxPool { window, comparison }, inputs)
            }
        }
    }

    fn input(&mut self, id: LayerId) -> Result<ValueId, CompileError> {
        let Format { scale, ring } = self.formats[id.0];
        let shape = self.model.layers()[id.0].shape;
        let (sign, visibility) = (Sign::Any, Visibility::Client);
        self.facts.push(Fact { shape, ring, scale, sign, visibility });
        Ok(self.record(id, StepOp::Input, vec![]))
    }

    /// Extension, pooling sum, product, truncation: as far as each is needed.
    fn linear(
        &mut self,
        id: LayerId,
        (layer, geometry): (&FusedLayer, ConvGeometry),
        values: &[ValueId],
    ) -> Result<ValueId, CompileError> {
        let (source, _) = source(self.model, layer);
        let small = values[source.0];
        let way = self.cheapest(id, (layer, geometry), small)?;
        let mut value = self.widened(source, small, way.wide)?;
        if pooled(self.model, layer).is_some() {
            value = self.push(layer.inputs[0], StepOp::SumPool, vec![value])?;
        }
        value = self.push(id, StepOp::Linear(way.step), vec![value])?;
        if way.shift > 0 {
            let method = TruncateMethod::Reduce;
            value = self.push(id, StepOp::Truncate { shift: way.shift, method }, vec![value])?;
        }
        Ok(value)
    }

    /// The cheapest way that the settings allow.
    fn cheapest(
        &self,
        id: LayerId,
        (layer, geometry): (&FusedLayer, ConvGeometry),
        small: ValueId,
    ) -> Result<Way, CompileError> {
        let input = self.model.layers()[layer.inputs[0].0].shape;
        let rule = match self.context.lattice.contains(&id) {
            false => self.config.lowering,
            true => LoweringRule::Direct,
        };
        let mut best: Option<(Price, Way)> = None;
        for lowering in allowed(rule, &geometry, input) {
            for chooser in self.context.choosers() {
                let correlation = Correlation::Ot { kind: self.context.ot, chooser };
                let way = self.way(id, (layer, geometry), small, (lowering, correlation))?;
                // Its filter transform must fit the wide ring.
                let transformed = self.config.widths.weight(&layer.name) + growth_bits(lowering);
                if lowering != Lowering::Direct && transformed > way.wide.bits() {
                    continue;
                }
                let fact = self.facts[small.0];
                let (offline, online) = cost::linear(&way.step, input, way.wide);
                let count = fact.shape.elements() as u64;
                let extension = match self.extension(&fact) {
                    method if fact.ring < way.wide => {
                        cost::extend(fact.ring, way.wide, count, method)
                    }
                    _ => Default::default(),
                };
                let work = cost::linear_work(&way.step, input, way.wide)
                    + cost::offline_work(&extension.0);
                let offline = extension.0 + offline;
                let price = self.context.pricing.part((&offline, &work), &(extension.1 + online));
                if best.as_ref().is_none_or(|(cheapest, _)| price < *cheapest) {
                    best = Some((price, way));
                }
            }
        }
        Ok(best.expect("direct products fit every convolution, and one party may choose").1)
    }

    fn way(
        &self,
        id: LayerId,
        (layer, geometry): (&FusedLayer, ConvGeometry),
        small: ValueId,
        (lowering, correlation): (Lowering, Correlation),
    ) -> Result<Way, CompileError> {
        let weight_scale = self.weight_scales[id.0];
        let (_, pooled) = source(self.model, layer);
        let scale = self.facts[small.0].scale + pooled + weight_scale + lowering.extra_scale();
        let is_last = id.0 + 1 == self.model.layers().len();
        let largest = self.calibration.largest()[id.0];
        let (shift, needed) = if is_last {
            let bound = f64::from(largest) * f64::from(self.config.head_room);
            let is_compared = self.config.output == Output::ArgMax;
            let spare = if is_compared { difference_bits(Sign::Any) } else { 0 };
            (0, signed_bits(bound * f64::from(scale).exp2()) + spare)
        } else {
            let Format { scale: kept, ring } = self.formats[id.0];
            (scale - kept, ring.bits() + scale - kept)
        };
        let wide = Ring::new(needed).map_err(|_| CompileError::TooWide {
            layer: layer.name.clone(),
            needed,
            largest,
            head_room: self.config.head_room,
        })?;
        let weight_bits =
            (self.config.widths.weight(&layer.name) + growth_bits(lowering)).min(needed);
        let step = LinearStep { geometry, lowering, correlation, weight_scale, weight_bits };
        Ok(Way { step, wide, shift })
    }

    /// A small value in a wide ring, taken there once however many layers multiply it there.
    fn widened(
        &mut self,
        layer: LayerId,
        small: ValueId,
        wide: Ring,
    ) -> Result<ValueId, CompileError> {
        let fact = self.facts[small.0];
        if fact.ring == wide {
            return Ok(small);
        }
        if let Some(&value) = self.extended.get(&(small, wide)) {
            return Ok(value);
        }
        let op = if fact.ring < wide {
            StepOp::Extend { ring: wide, method: self.extension(&fact) }
        } else {
            StepOp::Reduce { ring: wide }
        };
        let value = self.push(layer, op, vec![small])?;
        self.extended.insert((small, wide), value);
        Ok(value)
    }

    fn extension(&self, fact: &Fact) -> ExtendMethod {
        match (fact.visibility, fact.sign) {
            (Visibility::Client, _) => ExtendMethod::Local,
            (Visibility::Shared, Sign::NonNegative) => ExtendMethod::KnownSign(self.context.ot),
            (Visibility::Shared, Sign::Any) => ExtendMethod::Offset(self.context.ot),
        }
    }

    fn push(
        &mut self,
        layer: LayerId,
        op: StepOp,
        inputs: Vec<ValueId>,
    ) -> Result<ValueId, CompileError> {
        let facts: Vec<&Fact> = inputs.iter().map(|value| &self.facts[value.0]).collect();
        let name = &self.model.layers()[layer.0].name;
        let fault = |fault| copriv_ir::PlanError {
            step: StepId(self.steps.len()),
            name: name.clone(),
            fault,
        };
        let fact = op.output(&facts).map_err(fault)?;
        self.facts.push(fact);
        Ok(self.record(layer, op, inputs))
    }

    fn record(&mut self, layer: LayerId, op: StepOp, inputs: Vec<ValueId>) -> ValueId {
        let (id, output) = (StepId(self.steps.len()), ValueId(self.steps.len()));
        let name = self.model.layers()[layer.0].name.clone();
        self.steps.push(Step { id, name, op, inputs, output });
        self.layers.push(layer);
        output
    }
}
