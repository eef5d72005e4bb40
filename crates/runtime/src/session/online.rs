//! The online phase: the steps of a plan on shares.

use super::Progress;
use super::offline::{Correlations, ReadyStep};
use super::role::Role;
use crate::linear::Openings;
use crate::nonlinear::reveal;
use crate::{Channel, RuntimeError};
use copriv_ir::{Fact, Phase, Plan, Ring, StepOp, ValueId};
use zeroize::Zeroizing;

/// A party's shares of a value.
pub(super) type Shares = Zeroizing<Vec<u64>>;

/// Runs one inference on this party's share of the input; what was revealed to this party, if anything.
pub(super) fn run<R: Role>(
    role: &R,
    channel: &mut Channel,
    plan: &Plan,
    (input, correlations): (Shares, Correlations<R::Linear>),
    progress: Progress<'_>,
) -> Result<Option<Vec<u64>>, RuntimeError> {
    let before = channel.bytes();
    let mut values = Values::new(plan);
    let (mut input, mut revealed, mut openings) = (Some(input), None, Openings::new());
    for (step, ready) in plan.steps().iter().zip(correlations.steps) {
        channel.enter(step.id, Phase::Online)?;
        progress(Phase::Online, step.id, channel.bytes() - before);
        let mut inputs: Vec<_> = step.inputs.iter().map(|&value| values.take(value)).collect();
        if let Some(input) = input.take_if(|_| step.op == StepOp::Input) {
            inputs.push(input);
        }
        let fact = plan.fact(step.output);
        let output = execute(role, channel, fact, ready, (inputs, &mut openings))?;
        match output {
            Output::Shares(shares) => values.set(step.output, shares),
            Output::Revealed(opened) => revealed = opened,
        }
        channel.flush()?;
        progress(Phase::Online, step.id, channel.bytes() - before);
    }
    Ok(revealed)
}

/// What a step gives a party.
pub(super) enum Output {
    /// Its shares.
    Shares(Shares),
    /// What was opened to it, if anything.
    Revealed(Option<Vec<u64>>),
}

/// Runs one step on this party's shares of its inputs; of the plan's input the shares are given. `fact` is the output's.
pub(super) fn execute<R: Role>(
    role: &R,
    channel: &mut Channel,
    fact: &Fact,
    ready: ReadyStep<R::Linear>,
    (inputs, openings): (Vec<Shares>, &mut Openings),
) -> Result<Output, RuntimeError> {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().unwrap_or_default();
    Ok(Output::Shares(match ready {
        ReadyStep::Input => next(),
        ReadyStep::Linear(layer, correlation) => {
            role.apply(channel, &layer, correlation, (next(), openings))?
        }
        ReadyStep::Add => add(fact.ring, next(), &next()),
        ReadyStep::SumPool => sum_pool(fact, &next()),
        ReadyStep::Truncate(correlation) => correlation.truncate(channel, &next())?,
        ReadyStep::Extend(correlation) => correlation.extend(channel, &next())?,
        ReadyStep::Reduce => reduce(fact.ring, next()),
        ReadyStep::Activation(correlation, None) => {
            correlation.apply(channel, fact.scale, &next())?
        }
        ReadyStep::Activation(correlation, Some(mask)) => {
            correlation.apply_in_part(channel, fact.scale, &mask, next())?
        }
        ReadyStep::MaxPool(correlation) => correlation.pool(channel, &next())?,
        ReadyStep::ArgMax(correlation) => correlation.find(channel, &next())?,
        ReadyStep::Reveal => return reveal(channel, fact.ring, &next()).map(Output::Revealed),
    }))
}

/// Shares of the sums.
fn add(ring: Ring, mut x: Shares, y: &[u64]) -> Shares {
    x.iter_mut().zip(y).for_each(|(x, &y)| *x = ring.add(*x, y));
    x
}

/// Shares of the same numbers in a narrower ring.
fn reduce(ring: Ring, mut x: Shares) -> Shares {
    x.iter_mut().for_each(|x| *x = ring.reduce(*x));
    x
}

/// Shares of the sum over each channel; `output` is the result's fact.
fn sum_pool(output: &Fact, x: &[u64]) -> Shares {
    let area = (x.len() / output.shape.channels).max(1);
    let sum = |channel: &[u64]| channel.iter().fold(0, |sum, &x| output.ring.add(sum, x));
    Zeroizing::new(x.chunks(area).map(sum).collect())
}

/// Shares of the plan's values, each forgotten after its last use.
struct Values {
    shares: Vec<Shares>,
    /// Inputs of later steps that are still to be taken.
    uses: Vec<usize>,
}

impl Values {
    fn new(plan: &Plan) -> Self {
        let count = plan.values().len();
        let mut uses = vec![0; count];
        plan.steps().iter().flat_map(|step| &step.inputs).for_each(|value| uses[value.0] += 1);
        Self { shares: vec![Shares::default(); count], uses }
    }

    fn set(&mut self, value: ValueId, shares: Shares) {
        self.shares[value.0] = shares;
    }

    fn take(&mut self, value: ValueId) -> Shares {
        self.uses[value.0] -= 1;
        if self.uses[value.0] == 0 {
            std::mem::take(&mut self.shares[value.0])
        } else {
            self.shares[value.0].clone()
        }
    }
}
