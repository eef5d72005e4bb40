//! The offline phase: every step's correlation, in the plan's order for it ([`Plan::offline_order`]).

use super::Progress;
use super::role::Role;
use crate::linear::LinearLayer;
use crate::nonlinear::{
    ActivationCorrelation, ArgMaxCorrelation, ExtensionCorrelation, MaxPoolCorrelation,
    TruncationCorrelation,
};
use crate::ot::Ots;
use crate::store::{RecordReader, RecordTooShort, RecordWriter, Stored};
use crate::{Channel, RuntimeError};
use copriv_ir::{ActivationMask, Phase, Plan, Step, StepOp, cost};

/// One inference of which all is ready but the input: one party's correlations, to be used once.
pub(super) struct Correlations<L> {
    /// In the order of the plan's steps.
    pub steps: Vec<ReadyStep<L>>,
}

/// A step with what it uses up. `L` is a party's correlation of linear steps.
pub(super) enum ReadyStep<L> {
    Input,
    Linear(Box<LinearLayer>, L),
    Add,
    SumPool,
    Truncate(Box<TruncationCorrelation>),
    Extend(Box<ExtensionCorrelation>),
    Reduce,
    /// Of the values of a mask, or of all.
    Activation(Box<ActivationCorrelation>, Option<ActivationMask>),
    MaxPool(Box<MaxPoolCorrelation>),
    ArgMax(Box<ArgMaxCorrelation>),
    Reveal,
}

impl<L: Stored<Shape = LinearLayer>> Correlations<L> {
    /// Lays all of them down, step by step.
    pub fn store(self, record: &mut RecordWriter) {
        for step in self.steps {
            match step {
                ReadyStep::Linear(_, correlation) => correlation.store(record),
                ReadyStep::Truncate(correlation) => correlation.store(record),
                ReadyStep::Extend(correlation) => correlation.store(record),
                ReadyStep::Activation(correlation, _) => correlation.store(record),
                ReadyStep::MaxPool(correlation) => correlation.store(record),
                ReadyStep::ArgMax(correlation) => correlation.store(record),
                ReadyStep::Input
                | ReadyStep::Add
                | ReadyStep::SumPool
                | ReadyStep::Reduce
                | ReadyStep::Reveal => {}
            }
        }
    }

    /// Takes up what [`Self::store`] laid down for the same plan.
    pub fn restore(plan: &Plan, record: &mut RecordReader<'_>) -> Result<Self, RecordTooShort> {
        let steps = plan.steps().iter().map(|step| restore_step(plan, step, record));
        Ok(Self { steps: steps.collect::<Result<_, _>>()? })
    }
}

/// The steps that are ready so far, each in its place.
type Ready<L> = [Option<ReadyStep<L>>];

/// Makes all correlations of one inference.
pub(super) fn prepare<R: Role>(
    role: &R,
    channel: &mut Channel,
    ots: &mut Ots,
    plan: &Plan,
    progress: Progress<'_>,
) -> Result<Correlations<R::Linear>, RuntimeError> {
    let before = channel.bytes();
    let mut lattice = role.begin(ots.begin_inference())?;
    let mut steps: Vec<Option<ReadyStep<R::Linear>>> = plan.steps().iter().map(|_| None).collect();
    for step in plan.offline_order() {
        channel.enter(step.id, Phase::Offline)?;
        let mut watch =
            |channel: &Channel| progress(Phase::Offline, step.id, channel.bytes() - before);
        watch(channel);
        ots.reserve(channel, &cost::step_cost(plan, step).0.ots)?;
        let of = (plan, step, steps.as_slice());
        let ready = prepare_step(role, channel, (ots, &mut lattice), of, &mut watch)?;
        steps[step.id.0] = Some(ready);
        channel.flush()?;
        watch(channel);
    }
    Ok(Correlations { steps: steps.into_iter().flatten().collect() })
}

/// Makes the correlation of a step; those before it in [`Plan::offline_order`] are `ready`.
fn prepare_step<R: Role>(
    role: &R,
    channel: &mut Channel,
    (ots, lattice): (&mut Ots, &mut R::Lattice<'_>),
    (plan, step, ready): (&Plan, &Step, &Ready<R::Linear>),
    watch: &mut dyn FnMut(&Channel),
) -> Result<ReadyStep<R::Linear>, RuntimeError> {
    // The first input; those steps that take none or two need no correlation.
    let fact = plan.fact(step.inputs.first().copied().unwrap_or(step.output));
    let (ring, count) = (fact.ring, step.op.count(fact.shape));
    Ok(match &step.op {
        StepOp::Input => ReadyStep::Input,
        StepOp::Linear(linear) => {
            let layer = LinearLayer::new(plan, step.id, *linear, fact);
            let earlier = layer.earlier().and_then(|id| match ready.get(id.0) {
                Some(Some(ReadyStep::Linear(_, correlation))) => Some(correlation),
                _ => None,
            });
            let correlation = role.prepare(channel, (ots, lattice), (&layer, earlier), watch)?;
            ReadyStep::Linear(Box::new(layer), correlation)
        }
        StepOp::Add => ReadyStep::Add,
        StepOp::SumPool => ReadyStep::SumPool,
        StepOp::Truncate { shift, method } => {
            let by = (ring, *shift);
            let prepared = TruncationCorrelation::prepare(channel, ots, *method, by, count)?;
            ReadyStep::Truncate(Box::new(prepared))
        }
        StepOp::Extend { ring: wider, method } => {
            let rings = (ring, *wider);
            let prepared = ExtensionCorrelation::prepare(channel, ots, *method, rings, count)?;
            ReadyStep::Extend(Box::new(prepared))
        }
        StepOp::Reduce { .. } => ReadyStep::Reduce,
        StepOp::Activation { function, comparison, mask } => {
            let function = (*function, comparison);
            let prepared = ActivationCorrelation::prepare(channel, ots, function, ring, count)?;
            ReadyStep::Activation(Box::new(prepared), mask.clone())
        }
        StepOp::MaxPool { window, comparison } => {
            let (how, of) = ((*window, comparison), (ring, fact.shape));
            let prepared = MaxPoolCorrelation::prepare(channel, ots, how, of)?;
            ReadyStep::MaxPool(Box::new(prepared))
        }
        StepOp::ArgMax { comparison } => {
            let prepared = ArgMaxCorrelation::prepare(channel, ots, comparison, (ring, count))?;
            ReadyStep::ArgMax(Box::new(prepared))
        }
        StepOp::Reveal => ReadyStep::Reveal,
    })
}

/// One step of [`Correlations::restore`]; its shapes are those of [`prepare_step`].
fn restore_step<L: Stored<Shape = LinearLayer>>(
    plan: &Plan,
    step: &Step,
    record: &mut RecordReader<'_>,
) -> Result<ReadyStep<L>, RecordTooShort> {
    let fact = plan.fact(step.inputs.first().copied().unwrap_or(step.output));
    let (ring, count) = (fact.ring, step.op.count(fact.shape));
    Ok(match &step.op {
        StepOp::Input => ReadyStep::Input,
        StepOp::Linear(linear) => {
            let layer = LinearLayer::new(plan, step.id, *linear, fact);
            ReadyStep::Linear(Box::new(layer), L::restore(layer, record)?)
        }
        StepOp::Add => ReadyStep::Add,
        StepOp::SumPool => ReadyStep::SumPool,
        StepOp::Truncate { shift, method } => {
            let shape = (*method, ring, *shift, count);
            ReadyStep::Truncate(Box::new(Stored::restore(shape, record)?))
        }
        StepOp::Extend { ring: wider, method } => {
            let shape = (*method, ring, *wider, count);
            ReadyStep::Extend(Box::new(Stored::restore(shape, record)?))
        }
        StepOp::Reduce { .. } => ReadyStep::Reduce,
        StepOp::Activation { function, comparison, mask } => {
            let shape = (*function, *comparison, ring, count);
            ReadyStep::Activation(Box::new(Stored::restore(shape, record)?), mask.clone())
        }
        StepOp::MaxPool { window, comparison } => {
            let shape = (*window, *comparison, ring, fact.shape);
            ReadyStep::MaxPool(Box::new(Stored::restore(shape, record)?))
        }
        StepOp::ArgMax { comparison } => {
            let shape = (ring, count, *comparison);
            ReadyStep::ArgMax(Box::new(Stored::restore(shape, record)?))
        }
        StepOp::Reveal => ReadyStep::Reveal,
    })
}
