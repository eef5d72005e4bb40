//! A valid plan on its way through the passes.

use crate::{CompileConfig, Objective};
use copriv_ir::{
    Fact, LayerId, LinearStep, Phase, Plan, PlanError, Shape, Sign, Step, StepId, StepOp,
    Visibility,
};

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
        let values = infer(input, &mut steps);
        Ok(Self { plan: plan(values, steps)?, layers })
    }

    /// The same with another linear step; facts and truncations after it follow.
    pub(crate) fn with_linear(&self, id: StepId, linear: LinearStep) -> Result<Self, PlanError> {
        let plan = &self.plan;
        let mut steps = plan.steps().to_vec();
        steps[id.0].op = StepOp::Linear(linear);
        let values = infer(plan.values()[0], &mut steps);
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
        match objective {
            Objective::Bytes => (offline + online, online),
            Objective::Online => (online, offline),
        }
    }
}

/// The facts of all values, from that of the input. Truncations are set to drop what exceeds its
/// scale.
fn infer(input: Fact, steps: &mut [Step]) -> Vec<Fact> {
    let mut values: Vec<Fact> = Vec::with_capacity(steps.len());
    for step in steps {
        let x = step.inputs.first().map_or(input, |value| values[value.0]);
        let shared = Fact { visibility: Visibility::Shared, ..x };
        values.push(match &mut step.op {
            StepOp::Input => input,
            StepOp::Linear(linear) => Fact {
                shape: linear.geometry.output_shape(x.shape),
                scale: x.scale + linear.weight_scale + linear.lowering.extra_scale(),
                sign: Sign::Any,
                ..shared
            },
            StepOp::Add => {
                let other = step.inputs.get(1).map_or(x, |value| values[value.0]);
                let sign = if x.sign == other.sign { x.sign } else { Sign::Any };
                Fact { sign, ..shared }
            }
            StepOp::SumPool => {
                let extra = x.shape.area().next_power_of_two().trailing_zeros();
                Fact { shape: Shape::vector(x.shape.channels), scale: x.scale + extra, ..x }
            }
            StepOp::Truncate { shift, .. } => {
                *shift = x.scale.saturating_sub(input.scale);
                Fact { scale: x.scale - *shift, ..shared }
            }
            StepOp::Activation { .. } => Fact { sign: Sign::NonNegative, ..shared },
            StepOp::Reveal => Fact { visibility: Visibility::Client, ..x },
        });
    }
    values
}
