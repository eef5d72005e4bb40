//! The smallest plans that do one thing, with weights and an image.

use anyhow::{Result, anyhow, ensure};
use copriv_ir::lattice::{Hint, LatticeError, PublicSeed, SecretSeed, attach, attach_reply};
use copriv_ir::{
    ConvGeometry, Correlation, Fact, InputSpec, LinearStep, LinearWeights, Lowering, OtKind, Party,
    Plan, Provenance, Ring, ServerWeights, Shape, Sign, Step, StepId, StepOp, ValueId, Visibility,
};
use copriv_runtime::ot::Prg;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A plan with the weights of its linear steps and an image for it.
pub struct Model {
    pub plan: Arc<Plan>,
    pub weights: ServerWeights,
    pub image: Vec<f32>,
    /// The step that is measured: the last one before the opening.
    pub step: StepId,
    /// What lattice correlations need.
    pub hint: Option<Arc<Hint>>,
}

/// Fractional bits of the input: as many as the widest truncation may drop.
const SCALE: u32 = 40;

impl Model {
    /// One linear step on `input`, with random weights of `taps` bits. The step's `weight_bits` count after the filter
    /// transform.
    ///
    /// # Errors
    /// What is wrong with the step.
    ///
    /// # Panics
    /// If `taps` is not from 1 to 64.
    pub fn linear(input: Shape, bits: u32, step: LinearStep, taps: u32) -> Result<Self> {
        let mut draft = Draft::new(input, Ring::new(bits)?, 4);
        let mut weight = || draft.random.next_u64().cast_signed() >> (64 - taps);
        let weights = (0..step.geometry.weight_elements()).map(|_| weight()).collect();
        draft.linear(step, weights);
        draft.finish()
    }

    /// Steps on random shares of a map, the last of which is measured. The shares come from a linear step of one weight a
    /// channel.
    ///
    /// # Errors
    /// What is wrong with a step.
    pub fn on_shares(input: Shape, bits: u32, ops: Vec<StepOp>) -> Result<Self> {
        let ring = Ring::new(bits)?;
        ensure!(bits >= 4, "--bits must be at least 4");
        let mut draft = Draft::new(input, ring, SCALE.min(bits - 2));
        let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server };
        let channels = input.channels;
        let geometry =
            ConvGeometry { groups: channels, ..ConvGeometry::same(channels, channels, 1, 1) };
        let lowering = Lowering::Direct;
        let step = LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits: 2 };
        draft.linear(step, vec![1; channels]);
        for op in ops {
            let fact = op.output(&[&draft.last()]).map_err(|fault| anyhow!(fault))?;
            draft.push(op, fact);
        }
        draft.finish()
    }
}

impl Model {
    /// The same with lattice correlations for its linear steps, which must be direct; `None` where no parameters fit them.
    ///
    /// # Errors
    /// What is wrong with the plan or its weights.
    pub fn with_lattice(self) -> Result<Option<Self>> {
        // What is public here anyway needs no randomness.
        let (public, secret) = (PublicSeed::new([1; 32]), SecretSeed::new([2; 32]));
        let layers = self.layers();
        let plan = (*self.plan).clone();
        let (plan, hint) = match attach(plan, |_| true, &layers, 1, (public, &secret)) {
            Ok(attached) => attached,
            Err(LatticeError::Parameters(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let weights = ServerWeights::new(&plan, layers, provenance());
        let weights = weights.map_err(|fault| anyhow!(fault))?.with_lattice_seed(&secret);
        Ok(Some(Self { plan: Arc::new(plan), weights, hint: Some(Arc::new(hint)), ..self }))
    }

    /// The same with lattice correlations with a reply for its direct linear steps; none where a ring is too wide.
    ///
    /// # Errors
    /// What is wrong with the plan or its weights.
    pub fn with_replies(self) -> Result<Option<Self>> {
        let layers = self.layers();
        let public = PublicSeed::new([1; 32]);
        let plan = match attach_reply((*self.plan).clone(), |_| true, &layers, public) {
            Ok(plan) => plan,
            Err(LatticeError::Parameters(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let weights = ServerWeights::new(&plan, layers, provenance());
        let weights = weights.map_err(|fault| anyhow!(fault))?;
        Ok(Some(Self { plan: Arc::new(plan), weights, ..self }))
    }

    fn layers(&self) -> BTreeMap<StepId, LinearWeights> {
        let ids = self.plan.steps().iter().map(|step| step.id);
        ids.filter_map(|id| Some((id, self.weights.layer(id)?.clone()))).collect()
    }

    /// Bytes of the hint that a client downloads once, where there is one.
    pub fn hint_bytes(&self) -> Option<u64> {
        self.plan.lattice_plan().map(|lattice| lattice.hint_bytes())
    }
}

fn provenance() -> Provenance {
    Provenance::new("bench", None, serde_json::Value::Null, None)
}

struct Draft {
    facts: Vec<Fact>,
    steps: Vec<Step>,
    layers: BTreeMap<StepId, LinearWeights>,
    random: Prg,
}

impl Draft {
    fn new(shape: Shape, ring: Ring, scale: u32) -> Self {
        let random = Prg::from_seed(b"numbers to bench");
        let mut draft = Self { facts: vec![], steps: vec![], layers: BTreeMap::new(), random };
        let fact = Fact { shape, ring, scale, sign: Sign::Any, visibility: Visibility::Client };
        draft.push(StepOp::Input, fact);
        draft
    }

    fn last(&self) -> Fact {
        self.facts[self.facts.len() - 1]
    }

    fn push(&mut self, op: StepOp, fact: Fact) {
        let id = self.steps.len();
        let inputs = id.checked_sub(1).map(ValueId).into_iter().collect();
        let name = op.name().to_owned();
        self.steps.push(Step { id: StepId(id), name, op, inputs, output: ValueId(id) });
        self.facts.push(fact);
    }

    fn linear(&mut self, step: LinearStep, weight: Vec<i64>) {
        let input = self.last();
        let geometry = step.geometry;
        let layer = LinearWeights { weight, bias: vec![0; geometry.out_channels] };
        self.layers.insert(StepId(self.steps.len()), layer);
        let fact = Fact {
            shape: geometry.output_shape(input.shape),
            scale: input.scale + step.weight_scale + step.lowering.extra_scale(),
            sign: Sign::Any,
            visibility: Visibility::Shared,
            ..input
        };
        self.push(StepOp::Linear(step), fact);
    }

    fn finish(mut self) -> Result<Model> {
        let step = StepId(self.steps.len() - 1);
        let fact = Fact { visibility: Visibility::Client, ..self.last() };
        self.push(StepOp::Reveal, fact);
        let first = self.facts[0];
        let unit = (-f64::from(first.scale)).exp2();
        // Any number that the ring holds, but no more bits than an `f32` does.
        let unused = 64 - first.ring.bits().min(24);
        let mut number = || self.random.next_u64().cast_signed() >> unused;
        let spread = f64::from(first.ring.bits().saturating_sub(24)).exp2();
        let image = (0..first.shape.elements()).map(|_| (number() as f64 * spread * unit) as f32);
        let image = image.collect();
        let input = InputSpec { shape: first.shape, mean: [0.0; 3], std: [1.0; 3] };
        let (values, steps) = (self.facts, self.steps);
        let plan = Plan::new(
            "bench".into(),
            "bench".into(),
            (input, vec![]),
            (values, steps),
            provenance(),
        )?;
        let weights =
            ServerWeights::new(&plan, self.layers, provenance()).map_err(|fault| anyhow!(fault))?;
        Ok(Model { plan: Arc::new(plan), weights, image, step, hint: None })
    }
}
