//! A valid plan on its way through the passes.

use crate::{CompileConfig, Objective};
use copriv_ir::{Fact, LayerId, LinearStep, Phase, Plan, PlanError, Shape, Step, StepId, StepOp};

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
        let plan = &self.plan;
        let mut steps = plan.steps().to_vec();
        steps[id.0].op = StepOp::Linear(linear);
        let values = infer(plan.values()[0], &mut steps)?;
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
        config: &CompileConfig,
    ) -> Result<Option<LinearStep>, PlanError> {
        let mut best = None;
        for option in options {
            let price = self.with_linear(id, option)?.price(config.objective);
            if best.is_none_or(|(cheapest, _)| price < cheapest) {
                best = Some((price, option));
            }
        }
        Ok(best.map(|(_, option)| option))
    }

    /// What an inference costs: the objective first, what decides between equals second.
    fn price(&self, objective: Objective) -> (u64, u64) {
        let comm = self.plan.predicted_comm();
        let [offline, online] = [Phase::Offline, Phase::Online].map(|p| comm.total(p).bytes());
        objective.price(offline, online)
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
