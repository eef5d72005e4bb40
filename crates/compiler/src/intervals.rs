//! Which integers the values of a plan can be, whatever the image: exact for each channel and step, from the range
//! of the pixels and the server's integer weights.
//!
//! A step may *read* its input as a signed number: comparisons, extensions and faithful truncations do, and go wrong
//! where the number has left its ring. Sums, products, reductions and truncate-and-reduce do not read: they are right
//! modulo the ring whatever happened to their inputs. So a value may wrap as long as nothing reads it; what is
//! read must be in range as an integer. After each reading the analysis goes on with what is in range: a step that
//! cannot go wrong from there cannot be *the first* to go wrong.

use crate::ranges::RELU6_CAP;
use copriv_ir::{
    Activation, ConvGeometry, ExtendMethod, Fact, LinearWeights, Plan, Ring, Shape, Step, StepId,
    StepOp, TruncateMethod,
};
use std::collections::BTreeMap;

/// All integers from the first to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    low: i128,
    high: i128,
}

impl Interval {
    fn new(low: i128, high: i128) -> Self {
        Self { low, high }
    }

    fn map(self, f: impl Fn(i128) -> i128) -> Self {
        Self::new(f(self.low), f(self.high))
    }

    fn hull(self, other: Self) -> Self {
        Self::new(self.low.min(other.low), self.high.max(other.high))
    }

    fn clamped(self, to: Self) -> Self {
        self.map(|end| end.clamp(to.low, to.high))
    }

    fn is_within(self, other: Self) -> bool {
        other.low <= self.low && self.high <= other.high
    }

    /// The largest of these integers relative to what `limit` has on their side: more than 1 where one is outside.
    pub(crate) fn fill(self, limit: Self) -> f64 {
        let part = |end: i128, limit: i128| match limit {
            // Nothing on this side is allowed.
            0 => f64::from(u8::from(end != 0)) * 2.0,
            _ => end as f64 / limit as f64,
        };
        let low = if self.low < 0 { part(self.low, limit.low) } else { 0.0 };
        let high = if self.high > 0 { part(self.high, limit.high) } else { 0.0 };
        low.max(high)
    }

    /// Of the signed numbers that ring elements stand for; none for none.
    pub(crate) fn of(ring: Ring, elements: &[u64]) -> Option<Self> {
        let signed = |&x: &u64| i128::from(ring.to_signed(x));
        let (low, high) = (elements.iter().map(signed).min()?, elements.iter().map(signed).max()?);
        Some(Self::new(low, high))
    }
}

/// What a step that reads its input needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All numbers within these.
    Values(Interval),
    /// The differences of numbers of one channel within these.
    Differences(Interval),
    /// The differences of any two numbers within these.
    Contest(Interval),
}

impl Reading {
    /// How a step reads an input of this fact; not at all where the result is right modulo the ring.
    pub(crate) fn of(step: &Step, input: &Fact) -> Option<Self> {
        let (low, high) = input.ring.signed_range();
        let all = Interval::new(low.into(), high.into());
        Some(match &step.op {
            StepOp::Truncate { method: TruncateMethod::Reduce, .. }
            | StepOp::Input
            | StepOp::Linear(_)
            | StepOp::Add
            | StepOp::SumPool
            | StepOp::Reduce { .. } => return None,
            StepOp::Truncate { method: TruncateMethod::KnownSign(_), .. }
            | StepOp::Extend { method: ExtendMethod::KnownSign(_), .. } => {
                Self::Values(Interval::new(0, all.high))
            }
            StepOp::Extend { method: ExtendMethod::Offset(_), .. } => {
                // -2^(l-2) to 2^(l-2) - 1.
                Self::Values(Interval::new(all.low.div_euclid(2), all.high.div_euclid(2)))
            }
            StepOp::Activation { function: Activation::Relu6, .. } => {
                Self::Values(Interval::new(all.low + cap(input), all.high))
            }
            StepOp::MaxPool { .. } => Self::Differences(all),
            StepOp::ArgMax { .. } => Self::Contest(all),
            StepOp::Truncate { .. }
            | StepOp::Extend { .. }
            | StepOp::Activation { .. }
            | StepOp::Reveal => Self::Values(all),
        })
    }

    /// How many values of each channel of an input a step that reads it looks at: those of an activation's mask, or all.
    pub(crate) fn counts(step: &Step, input: &Fact) -> Vec<usize> {
        match &step.op {
            StepOp::Activation { mask: Some(mask), .. } => mask.counts_by_channel(),
            _ => vec![input.shape.area(); input.shape.channels],
        }
    }

    /// The integers of one channel as they are read, and their limit.
    pub(crate) fn view(self, channel: Interval) -> (Interval, Interval) {
        match self {
            Self::Values(limit) => (channel, limit),
            Self::Differences(limit) | Self::Contest(limit) => {
                let span = channel.high - channel.low;
                (Interval::new(-span, span), limit)
            }
        }
    }
}

/// ReLU6's cap as an integer.
fn cap(fact: &Fact) -> i128 {
    (RELU6_CAP as i128) << fact.scale
}

/// The steps that read an input which can be out of range, for all that is known of images, although no step before did.
pub(crate) fn unproven(plan: &Plan, weights: &BTreeMap<StepId, LinearWeights>) -> Vec<StepId> {
    let mut unproven = vec![];
    let mut values: Vec<Vec<Interval>> = Vec::with_capacity(plan.steps().len());
    for step in plan.steps() {
        if let (Some(&input), Some(fact)) =
            (step.inputs.first(), step.inputs.first().map(|&input| plan.fact(input)))
            && let Some(reading) = Reading::of(step, fact)
        {
            let is_safe = |&channel: &Interval| {
                let (read, limit) = reading.view(channel);
                read.is_within(limit)
            };
            let counts = Reading::counts(step, fact);
            let channels = &values[input.0];
            let hull = channels.iter().copied().reduce(Interval::hull);
            let all_safe = match reading {
                Reading::Contest(_) => hull.iter().all(is_safe),
                _ => channels.iter().zip(&counts).all(|(x, &count)| count == 0 || is_safe(x)),
            };
            if !all_safe {
                unproven.push(step.id);
            }
            if let Reading::Values(limit) = reading {
                let whole = values[input.0].iter_mut().zip(counts);
                let whole = whole.filter(|(_, count)| *count == fact.shape.area());
                whole.for_each(|(channel, _)| *channel = channel.clamped(limit));
            }
        }
        let inputs: Vec<&[Interval]> = step.inputs.iter().map(|v| values[v.0].as_slice()).collect();
        let value = output(plan, step, weights.get(&step.id), &inputs);
        values.push(value);
    }
    unproven
}

/// The integers that a step makes, by channel, of those that its inputs can be.
fn output(
    plan: &Plan,
    step: &Step,
    weights: Option<&LinearWeights>,
    inputs: &[&[Interval]],
) -> Vec<Interval> {
    let before = step.inputs.first().map(|&input| plan.fact(input));
    let each = |f: &dyn Fn(Interval) -> Interval| inputs[0].iter().map(|&x| f(x)).collect();
    match (&step.op, before) {
        (StepOp::Linear(linear), Some(before)) => {
            let Some(weights) = weights else { return vec![] };
            let extra = linear.lowering.extra_scale();
            convolution(&linear.geometry, before.shape, (weights, extra), inputs[0])
        }
        (StepOp::Add, _) => {
            let sum =
                |(x, y): (&Interval, &Interval)| Interval::new(x.low + y.low, x.high + y.high);
            inputs[0].iter().zip(inputs[1]).map(sum).collect()
        }
        (StepOp::SumPool, Some(before)) => {
            let area = before.shape.area() as i128;
            each(&|x| x.map(|end| end * area))
        }
        (StepOp::Truncate { shift, method }, Some(_)) => {
            let floor = |x: i128| x >> shift;
            let ceiling = |x: i128| -(-x >> shift);
            match method {
                TruncateMethod::Faithful(_) => each(&|x| x.map(floor)),
                _ => each(&|x| Interval::new(floor(x.low), ceiling(x.high))),
            }
        }
        (StepOp::Activation { function, .. }, Some(before)) => {
            let top = match function {
                Activation::Relu => i128::MAX,
                Activation::Relu6 => cap(before),
            };
            let channel = |(&x, count): (&Interval, usize)| {
                let activated = x.map(|end| end.clamp(0, top));
                match count {
                    0 => x,
                    _ if count == before.shape.area() => activated,
                    _ => activated.hull(x),
                }
            };
            inputs[0].iter().zip(Reading::counts(step, before)).map(channel).collect()
        }
        (StepOp::Input, _) => input(plan),
        // Digits as elements of `Z_2`.
        (StepOp::ArgMax { .. }, _) => {
            vec![Interval::new(-1, 0); plan.fact(step.output).shape.elements()]
        }
        // The numbers themselves, or some of them.
        _ => inputs.first().map(|x| x.to_vec()).unwrap_or_default(),
    }
}

/// The image's integers: rounding and normalising keep the order of pixels.
fn input(plan: &Plan) -> Vec<Interval> {
    let (spec, fact) = (plan.input(), &plan.values()[0]);
    let of_all = |pixel: u8| {
        let image = spec.normalise(&vec![pixel; spec.shape.elements()]);
        copriv_ir::evaluate::quantise_input(fact, &image)
    };
    let (black, white) = (of_all(0), of_all(u8::MAX));
    let signed = |x: u64| i128::from(fact.ring.to_signed(x));
    let channels = black.chunks(spec.shape.area()).zip(white.chunks(spec.shape.area()));
    channels.map(|(black, white)| Interval::new(signed(black[0]), signed(white[0]))).collect()
}

/// `2^extra W (*) x + bias`, each output of its border class: what the taps inside the map can give in the worst case.
fn convolution(
    geometry: &ConvGeometry,
    shape: Shape,
    (weights, extra): (&LinearWeights, u32),
    inputs: &[Interval],
) -> Vec<Interval> {
    let (rows, columns) =
        (geometry.border_classes(shape.height), geometry.border_classes(shape.width));
    let (kernel, outputs) = (geometry.kernel, geometry.out_channels);
    let (group_inputs, group_outputs) =
        (geometry.in_channels / geometry.groups, outputs / geometry.groups);
    let uniform = weights.bias_is_uniform(geometry);
    let channel = |(out, filter): (usize, &[i64])| {
        let first = out / group_outputs * group_inputs;
        let taps = taps(filter, kernel, &inputs[first..first + group_inputs]);
        let mut hull: Option<Interval> = None;
        for (row, rows) in rows.valid_taps().iter().enumerate() {
            for (column, valid) in columns.valid_taps().iter().enumerate() {
                let inside = rows.clone().flat_map(|i| valid.clone().map(move |j| i * kernel + j));
                let sum = inside.fold(Interval::new(0, 0), |sum, tap| {
                    Interval::new(sum.low + taps[tap].low, sum.high + taps[tap].high)
                });
                let class = if uniform { 0 } else { row * columns.count() + column };
                let bias = i128::from(weights.bias[class * outputs + out]);
                let sum = sum.map(|end| (end << extra) + bias);
                hull = Some(hull.map_or(sum, |hull| hull.hull(sum)));
            }
        }
        hull.unwrap_or(Interval::new(0, 0))
    };
    weights.weight.chunks(geometry.fan_in().max(1)).enumerate().map(channel).collect()
}

/// What each tap of a filter adds, over all its input channels.
fn taps(filter: &[i64], kernel: usize, inputs: &[Interval]) -> Vec<Interval> {
    let mut taps = vec![Interval::new(0, 0); kernel * kernel];
    for (filter, input) in filter.chunks(kernel * kernel).zip(inputs) {
        for (tap, &weight) in taps.iter_mut().zip(filter) {
            let weight = i128::from(weight);
            let (a, b) = (weight * input.low, weight * input.high);
            *tap = Interval::new(tap.low + a.min(b), tap.high + a.max(b));
        }
    }
    taps
}
