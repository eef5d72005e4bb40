//! A valid plan on its way through the passes.

use crate::context::Context;
use copriv_ir::{Fact, LayerId, LinearStep, Plan, PlanError, Shape, Step, StepId, StepOp, ValueId};
use std::collections::BTreeMap;

/// A plan, and the fused layer behind each of its steps. The plan is verified whenever it changes.
#[derive(Clone)]
pub(crate) struct Draft {
    plan: Plan,
    layers: Vec<LayerId>,
}

impl Draft {
    /// The draft of `steps`, each for one of `layers`. The facts follow from `input`; `plan` makes the
    /// plan of both.
    pub(crate) fn new(
        input: Fact,
        steps: Vec<(Step, LayerId)>,
        plan: impl FnOnce(Vec<Fact>, Vec<Step>) -> Result<Plan, PlanError>,
    ) -> Result<Self, PlanError> {
        let (mut steps, layers): (Vec<Step>, Vec<LayerId>) = steps.into_iter().unzip();
        let values = infer(input, &mut steps)?;
        Ok(Self { plan: plan(values, steps)?, layers })
    }

    /// The draft of a finished plan, each of its steps for one of `layers`.
    pub(crate) fn of(plan: Plan, layers: Vec<LayerId>) -> Self {
        Self { plan, layers }
    }

    /// The same with another linear step; facts and truncations after it follow.
    pub(crate) fn with_linear(&self, id: StepId, linear: LinearStep) -> Result<Self, PlanError> {
        let mut steps = self.plan.steps().to_vec();
        steps[id.0].op = StepOp::Linear(linear);
        let values = infer(self.plan.values()[0], &mut steps)?;
        self.replaced(values, steps)
    }

    /// The same with other operations where `op` gives one; facts stay as they are.
    pub(crate) fn with_ops(&self, op: impl Fn(&Step) -> Option<StepOp>) -> Result<Self, PlanError> {
        let mut steps = self.plan.steps().to_vec();
        for step in &mut steps {
            if let Some(op) = op(step) {
                step.op = op;
            }
        }
        self.replaced(self.plan.values().to_vec(), steps)
    }

    /// The steps with their layers, to be given back changed.
    pub(crate) fn steps(&self) -> Vec<(Step, LayerId)> {
        self.plan.steps().iter().cloned().zip(self.layers.iter().copied()).collect()
    }

    /// A draft of other steps. They name values by any numbers, each made before it is used, and are numbered anew;
    /// facts follow from the input's.
    pub(crate) fn with_steps(&self, steps: Vec<(Step, LayerId)>) -> Result<Self, PlanError> {
        let mut names: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let (mut values, mut numbered, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (mut step, layer)) in steps.into_iter().enumerate() {
            names.insert(step.output, ValueId(number));
            (step.id, step.output) = (StepId(number), ValueId(number));
            let fault = |fault| PlanError { step: step.id, name: step.name.clone(), fault };
            let named = step.inputs.iter().map(|input| names.get(input).copied());
            let inputs = named.collect::<Option<Vec<ValueId>>>();
            let inputs = inputs.ok_or_else(|| fault("uses what is not there yet".into()))?;
            let facts: Vec<&Fact> = inputs.iter().map(|value| &values[value.0]).collect();
            let fact = match step.op {
                StepOp::Input => self.plan.values()[0],
                _ => step.op.output(&facts).map_err(fault)?,
            };
            step.inputs = inputs;
            values.push(fact);
            numbered.push(step);
            layers.push(layer);
        }
        Ok(Self { layers, ..self.replaced(values, numbered)? })
    }

    /// How many inputs of steps a value is.
    pub(crate) fn uses(&self, value: ValueId) -> usize {
        let inputs = self.plan.steps().iter().flat_map(|step| &step.inputs);
        inputs.filter(|input| **input == value).count()
    }

    fn replaced(&self, values: Vec<Fact>, steps: Vec<Step>) -> Result<Self, PlanError> {
        let plan = &self.plan;
        let plan = Plan::new(
            plan.network().into(),
            plan.preset().into(),
            (*plan.input(), plan.labels().to_vec()),
            (values, steps),
            plan.provenance().clone(),
        )?;
        Ok(Self { plan, layers: self.layers.clone() })
    }

    /// The plan so far.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The finished plan.
    pub(crate) fn into_plan(self) -> Plan {
        self.plan
    }

    /// The fused layer that a step belongs to.
    pub(crate) fn layer(&self, step: StepId) -> LayerId {
        self.layers[step.0]
    }

    /// All linear steps with the shapes of their inputs.
    pub(crate) fn linear_steps(&self) -> Vec<(StepId, LinearStep, Shape)> {
        let linear = |step: &Step| match step.op {
            StepOp::Linear(linear) => Some((step.id, linear, self.plan.fact(step.inputs[0]).shape)),
            _ => None,
        };
        self.plan.steps().iter().filter_map(linear).collect()
    }

    /// The first of these linear steps that makes the plan cheapest.
    pub(crate) fn cheapest(
        &self,
        id: StepId,
        options: impl IntoIterator<Item = LinearStep>,
        context: &Context<'_>,
    ) -> Result<Option<LinearStep>, PlanError> {
        let mut best = None;
        for option in options {
            let price = context.pricing.plan(&self.with_linear(id, option)?, context.lattice);
            if best.is_none_or(|(cheapest, _)| price < cheapest) {
                best = Some((price, option));
            }
        }
        Ok(best.map(|(_, option)| option))
    }
}

/// The facts of all values, from that of the input. Truncations are set to drop what exceeds its
/// scale.
fn infer(input: Fact, steps: &mut [Step]) -> Result<Vec<Fact>, PlanError> {
    let mut values: Vec<Fact> = Vec::with_capacity(steps.len());
    for step in steps {
        let inputs: Vec<&Fact> = step.inputs.iter().map(|value| &values[value.0]).collect();
        if let (StepOp::Truncate { shift, .. }, [x]) = (&mut step.op, &inputs[..]) {
            *shift = x.scale.saturating_sub(input.scale);
        }
        let fault = |fault| PlanError { step: step.id, name: step.name.clone(), fault };
        values.push(match step.op {
            StepOp::Input => input,
            _ => step.op.output(&inputs).map_err(fault)?,
        });
    }
    Ok(values)
}
