//! Small plans with their weights, made by hand, and sessions over them.

#![allow(dead_code, reason = "each test file uses its own part")]

use copriv_ir::lattice::{Hint, PublicSeed, SecretSeed, attach, attach_reply};
use copriv_ir::{
    Activated, Activation, Comparison, ConvGeometry, Correlation, ExtendMethod, Fact, Granularity,
    InputSpec, LinearStep, LinearWeights, Lowering, OtKind, Party, Plan, PoolWindow, Provenance,
    Ring, ServerWeights, Shape, Sign, Step, StepId, StepOp, TruncateMethod, ValueId, Visibility,
    WinogradTile,
};
use copriv_runtime::ot::Prg;
use copriv_runtime::{Channel, ClientSession, RuntimeError, ServerSession};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

pub const WINOGRAD: Lowering = Lowering::Winograd(WinogradTile::F2X2_3X3);

/// A plan with the weights of its linear steps.
pub struct Model {
    pub plan: Arc<Plan>,
    pub weights: ServerWeights,
}

/// Builds a plan step by step. Each step's fact follows from its inputs.
pub struct Builder {
    /// The OT extension of the steps to come.
    pub ot: OtKind,
    /// Whether their comparisons take one-time tables.
    pub tables: bool,
    facts: Vec<Fact>,
    steps: Vec<Step>,
    layers: BTreeMap<StepId, LinearWeights>,
    random: Prg,
    /// What the next step takes in place of the last value.
    resumed: Option<ValueId>,
}

impl Builder {
    /// A plan that begins with an image of this shape.
    pub fn new(shape: Shape, bits: u32, scale: u32, seed: u64) -> Self {
        let ring = Ring::new(bits).expect("in range");
        let fact = Fact { shape, ring, scale, sign: Sign::Any, visibility: Visibility::Client };
        let random = Prg::from_seed(&(u128::from(seed)).to_le_bytes());
        let (ot, tables, layers) = (OtKind::Iknp, false, BTreeMap::new());
        let (facts, steps, resumed) = (vec![], vec![], None);
        let mut builder = Self { ot, tables, facts, steps, layers, random, resumed };
        builder.push(StepOp::Input, vec![], fact);
        builder
    }

    fn push(&mut self, op: StepOp, inputs: Vec<ValueId>, fact: Fact) -> ValueId {
        let id = self.steps.len();
        let output = ValueId(id);
        self.steps.push(Step { id: StepId(id), name: format!("step {id}"), op, inputs, output });
        self.facts.push(fact);
        self.resumed = None;
        output
    }

    /// The value that the next step takes.
    pub fn last(&self) -> ValueId {
        self.resumed.unwrap_or(ValueId(self.steps.len() - 1))
    }

    /// Lets the next step take an earlier value.
    pub fn resume(&mut self, value: ValueId) {
        self.resumed = Some(value);
    }

    pub fn fact(&self, value: ValueId) -> Fact {
        self.facts[value.0]
    }

    /// A linear step on the last value with random weights of `taps` bits, which become factors of
    /// `weight_bits` bits, and a random bias map.
    pub fn linear(
        &mut self,
        geometry: ConvGeometry,
        lowering: Lowering,
        chooser: Party,
        (taps, weight_bits): (u32, u32),
    ) -> ValueId {
        let input = self.fact(self.last());
        let correlation = Correlation::Ot { kind: self.ot, chooser };
        let step = LinearStep { geometry, lowering, correlation, weight_scale: 2, weight_bits };
        let classes = |extent| geometry.border_classes(extent).count();
        let mut biases = geometry.out_channels;
        if !self.random.next_u64().is_multiple_of(4) {
            biases *= classes(input.shape.height) * classes(input.shape.width);
        }
        let mut signed = |bits: u32| {
            let unused = 64 - bits;
            self.random.next_u64().cast_signed() << unused >> unused
        };
        let layer = LinearWeights {
            weight: (0..geometry.weight_elements()).map(|_| signed(taps)).collect(),
            bias: (0..biases).map(|_| signed(input.ring.bits().min(12))).collect(),
        };
        self.layers.insert(StepId(self.steps.len()), layer);
        let fact = Fact {
            shape: geometry.output_shape(input.shape),
            scale: input.scale + 2 + lowering.extra_scale(),
            sign: Sign::Any,
            visibility: Visibility::Shared,
            ..input
        };
        self.push(StepOp::Linear(step), vec![self.last()], fact)
    }

    pub fn truncate(&mut self, shift: u32, leaf_bits: u32) -> ValueId {
        let input = self.fact(self.last());
        let comparison = Comparison { ot: self.ot, leaf_bits, tables: self.tables };
        let op = StepOp::Truncate { shift, method: TruncateMethod::Faithful(comparison) };
        let fact = Fact { scale: input.scale - shift, visibility: Visibility::Shared, ..input };
        self.push(op, vec![self.last()], fact)
    }

    pub fn activation(&mut self, function: Activation, leaf_bits: u32) -> ValueId {
        let comparison = Comparison { ot: self.ot, leaf_bits, tables: self.tables };
        self.step(StepOp::Activation { function, comparison, mask: None })
    }

    /// An activation that applies to a random part of its channels or values: about `share` percent, if that is some.
    pub fn activation_in_part(
        &mut self,
        (function, leaf_bits): (Activation, u32),
        by: Granularity,
        share: u64,
    ) -> ValueId {
        let comparison = Comparison { ot: self.ot, leaf_bits, tables: self.tables };
        let shape = self.fact(self.last()).shape;
        let bits = (0..by.bits(shape)).map(|_| self.random.next_u64() % 100 < share).collect();
        let mask = match Activated::of_bits(shape, by, bits).expect("of its shape") {
            Activated::Part(mask) => Some(mask),
            Activated::All | Activated::None => None,
        };
        self.step(StepOp::Activation { function, comparison, mask })
    }

    /// Any step on the last value that needs no weights.
    pub fn step(&mut self, op: StepOp) -> ValueId {
        let fact = op.output(&[&self.fact(self.last())]).expect("a sound step");
        self.push(op, vec![self.last()], fact)
    }

    /// The sum of the last value and another.
    pub fn add(&mut self, other: ValueId) -> ValueId {
        let [x, y] = [self.last(), other].map(|value| self.fact(value));
        let both = x.sign == Sign::NonNegative && y.sign == Sign::NonNegative;
        let sign = if both { Sign::NonNegative } else { Sign::Any };
        let fact = Fact { sign, visibility: Visibility::Shared, ..x };
        self.push(StepOp::Add, vec![self.last(), other], fact)
    }

    pub fn sum_pool(&mut self) -> ValueId {
        let input = self.fact(self.last());
        let fact = Fact {
            shape: Shape::vector(input.shape.channels),
            scale: input.scale + input.shape.area().next_power_of_two().trailing_zeros(),
            ..input
        };
        self.push(StepOp::SumPool, vec![self.last()], fact)
    }

    pub fn reveal(mut self) -> Model {
        let input = self.fact(self.last());
        let fact = Fact { visibility: Visibility::Client, ..input };
        self.push(StepOp::Reveal, vec![self.last()], fact);
        let input = InputSpec { shape: self.facts[0].shape, mean: [0.5; 3], std: [0.25; 3] };
        let (values, steps) = (self.facts, self.steps);
        let words = ("test".into(), "test".into());
        let plan = Plan::new(words.0, words.1, (input, vec![]), (values, steps), provenance());
        let plan = plan.expect("a sound plan");
        let weights = ServerWeights::new(&plan, self.layers, provenance()).expect("they fit");
        Model { plan: Arc::new(plan), weights }
    }
}

/// The model with lattice correlations for all its direct linear steps, and their hint.
pub fn with_lattice(model: &Model, seed: u8) -> (Model, Hint) {
    hinted((*model.plan).clone(), weights_of(model), |_| true, seed)
}

/// The model with lattice correlations with a reply for all its direct linear steps.
pub fn with_replies(model: &Model, seed: u8) -> Model {
    let layers = weights_of(model);
    let plan = (*model.plan).clone();
    let plan = attach_reply(plan, |_| true, &layers, PublicSeed::new([seed; 32])).expect("fits");
    let weights = ServerWeights::new(&plan, layers, provenance()).expect("they fit");
    Model { plan: Arc::new(plan), weights }
}

/// The model with a reply for every other of its direct linear steps and a hint for those between.
pub fn with_both(model: &Model, seed: u8) -> (Model, Hint) {
    let layers = weights_of(model);
    let plan = (*model.plan).clone();
    let direct = |step: &&Step| matches!(&step.op, StepOp::Linear(linear) if linear.lowering == Lowering::Direct);
    let direct = plan.steps().iter().filter(direct).map(|step| step.id);
    let replied: BTreeSet<StepId> = direct.step_by(2).collect();
    let wanted = |id: StepId| replied.contains(&id);
    let plan = attach_reply(plan, wanted, &layers, PublicSeed::new([seed; 32])).expect("fits");
    hinted(plan, layers, |id| !wanted(id), seed)
}

fn hinted(
    plan: Plan,
    layers: BTreeMap<StepId, LinearWeights>,
    wanted: impl Fn(StepId) -> bool,
    seed: u8,
) -> (Model, Hint) {
    let (seed, secret) = (PublicSeed::new([seed; 32]), SecretSeed::new([seed ^ 1; 32]));
    let (plan, hint) = attach(plan, wanted, &layers, 10, (seed, &secret)).expect("fits");
    let weights = ServerWeights::new(&plan, layers, provenance()).expect("they fit");
    (Model { plan: Arc::new(plan), weights: weights.with_lattice_seed(&secret) }, hint)
}

fn weights_of(model: &Model) -> BTreeMap<StepId, LinearWeights> {
    let ids = model.plan.steps().iter().map(|step| step.id);
    ids.filter_map(|id| Some((id, model.weights.layer(id)?.clone()))).collect()
}

/// Convolutions of every kind between activations, all direct: strides, groups, tiles, a residual block.
pub fn every_direct_step(bits: u32, seed: u64) -> Model {
    let (party, leaf_bits) = (Party::Client, 4);
    let mut plan = Builder::new(Shape::new(3, 25, 24), bits, 8, seed);
    let linear = |plan: &mut Builder, geometry| {
        plan.linear(geometry, Lowering::Direct, party, (6, bits));
        plan.truncate(2, leaf_bits);
    };
    linear(&mut plan, ConvGeometry::same(3, 6, 3, 1));
    plan.activation(Activation::Relu, leaf_bits);
    linear(&mut plan, ConvGeometry::depthwise(6, 3, 2));
    let shortcut = plan.activation(Activation::Relu, leaf_bits);
    linear(&mut plan, ConvGeometry::same(6, 6, 3, 1));
    plan.add(shortcut);
    linear(&mut plan, ConvGeometry::same(6, 20, 1, 2));
    plan.sum_pool();
    plan.linear(ConvGeometry::fully_connected(20, 6), Lowering::Direct, party, (6, bits));
    plan.reveal()
}

/// A block whose shortcut reads what its first convolution reads, in this order of the two.
pub fn downsampling(bits: u32, shortcut_first: bool, seed: u64) -> Model {
    let (party, leaf_bits) = (Party::Client, 4);
    let mut plan = Builder::new(Shape::new(3, 12, 10), bits, 8, seed);
    let linear = |plan: &mut Builder, geometry| {
        plan.linear(geometry, Lowering::Direct, party, (6, bits));
        plan.truncate(2, leaf_bits)
    };
    linear(&mut plan, ConvGeometry::same(3, 5, 3, 1));
    let read = plan.activation(Activation::Relu, leaf_bits);
    let early = shortcut_first.then(|| linear(&mut plan, ConvGeometry::same(5, 7, 1, 2)));
    plan.resume(read);
    linear(&mut plan, ConvGeometry::same(5, 7, 3, 2));
    plan.activation(Activation::Relu, leaf_bits);
    let other = match early {
        Some(early) => early,
        None => {
            let long = linear(&mut plan, ConvGeometry::same(7, 7, 3, 1));
            plan.resume(read);
            linear(&mut plan, ConvGeometry::same(5, 7, 1, 2));
            long
        }
    };
    plan.add(other);
    plan.sum_pool();
    plan.linear(ConvGeometry::fully_connected(7, 4), Lowering::Direct, party, (6, bits));
    plan.reveal()
}

fn provenance() -> Provenance {
    Provenance::new("test", None, serde_json::Value::Null, None)
}

/// Every kind of step once: a convolution, a residual Winograd block with a ReLU of some channels, a strided depthwise
/// convolution with a ReLU6 of some values, a strided Winograd convolution, pooling, a classifier. `choosers` take turns.
pub fn every_step(choosers: [Party; 2], leaf_bits: u32, seed: u64) -> Model {
    every_step_by((OtKind::Iknp, false), choosers, leaf_bits, seed)
}

/// The same with another OT extension, and perhaps one-time tables.
pub fn every_step_by(
    (ot, tables): (OtKind, bool),
    choosers: [Party; 2],
    leaf_bits: u32,
    seed: u64,
) -> Model {
    let [odd, even] = choosers;
    let mut plan = Builder::new(Shape::new(3, 9, 7), 30, 8, seed);
    (plan.ot, plan.tables) = (ot, tables);
    plan.linear(ConvGeometry::same(3, 4, 3, 1), Lowering::Direct, odd, (5, 5));
    plan.truncate(2, leaf_bits);
    let shortcut = plan.activation(Activation::Relu, leaf_bits);
    plan.linear(ConvGeometry::same(4, 4, 3, 1), WINOGRAD, even, (5, 9));
    plan.truncate(4, leaf_bits);
    plan.add(shortcut);
    plan.activation_in_part((Activation::Relu, leaf_bits), Granularity::Channel, 50);
    plan.linear(ConvGeometry::depthwise(4, 3, 2), Lowering::Direct, odd, (4, 30));
    plan.truncate(6, leaf_bits);
    plan.activation_in_part((Activation::Relu6, leaf_bits), Granularity::Pixel, 50);
    plan.linear(ConvGeometry::same(4, 5, 3, 2), Lowering::WinogradStride2, even, (4, 6));
    plan.sum_pool();
    plan.linear(ConvGeometry::fully_connected(5, 6), Lowering::Direct, odd, (6, 6));
    plan.reveal()
}

/// Mixed precision with max pooling: the image extended by the client, a convolution in a wide ring, truncate and
/// reduce, pooling and ReLU in a small ring, extension with a known sign and with an offset, truncations that round.
pub fn mixed(ot: OtKind, seed: u64) -> Model {
    let comparison = Comparison { ot, leaf_bits: 4, tables: false };
    let ring = |bits| Ring::new(bits).expect("in range");
    let extend = |bits, method| StepOp::Extend { ring: ring(bits), method };
    let window = PoolWindow { kernel: 3, stride: 2, padding: 1 };
    let mut plan = Builder::new(Shape::new(3, 9, 7), 8, 4, seed);
    plan.step(extend(22, ExtendMethod::Local));
    plan.linear(ConvGeometry::same(3, 4, 3, 1), Lowering::Direct, Party::Server, (4, 4));
    plan.step(StepOp::Truncate { shift: 4, method: TruncateMethod::Reduce });
    plan.step(StepOp::Reduce { ring: ring(15) });
    plan.step(StepOp::MaxPool { window, comparison });
    plan.activation(Activation::Relu, 4);
    plan.step(extend(24, ExtendMethod::KnownSign(ot)));
    plan.step(StepOp::Truncate { shift: 1, method: TruncateMethod::KnownSign(ot) });
    plan.linear(ConvGeometry::same(4, 3, 1, 1), Lowering::Direct, Party::Client, (3, 3));
    plan.step(StepOp::Truncate { shift: 2, method: TruncateMethod::OneOff(comparison) });
    plan.step(extend(30, ExtendMethod::Offset(ot)));
    plan.step(extend(31, ExtendMethod::Compare(comparison)));
    plan.sum_pool();
    plan.reveal()
}

/// A fully connected layer of which only the greatest of so many outputs is told.
pub fn classifier((ot, tables): (OtKind, bool), classes: usize, seed: u64) -> Model {
    let mut plan = Builder::new(Shape::vector(5), 24, 4, seed);
    (plan.ot, plan.tables) = (ot, tables);
    let geometry = ConvGeometry::fully_connected(5, classes);
    plan.linear(geometry, Lowering::Direct, Party::Client, (4, 4));
    plan.step(StepOp::ArgMax { comparison: Comparison { ot, leaf_bits: 3, tables } });
    plan.reveal()
}

/// Nothing but an image and its opening: no correlations at all.
pub fn nothing(seed: u64) -> Model {
    Builder::new(Shape::new(3, 2, 2), 16, 8 + (seed % 4) as u32, seed).reveal()
}

/// A normalised image, mostly between -2 and 2.
pub fn image(plan: &Plan, seed: u64) -> Vec<f32> {
    let mut random = Prg::from_seed(&u128::from(seed | 1 << 40).to_le_bytes());
    let pixel = || (random.next_u64() % 4096) as f32 / 1024.0 - 2.0;
    std::iter::repeat_with(pixel).take(plan.input().shape.elements()).collect()
}

/// Runs a server on `server`'s end and `act` as the client of a session on the other. What either gave.
pub fn session<T: Send>(
    model: &Model,
    channels: (Channel, Channel),
    act: impl FnOnce(ClientSession) -> Result<T, RuntimeError> + Send,
) -> (Result<usize, RuntimeError>, Result<T, RuntimeError>) {
    session_on(1, model, channels, act)
}

/// The same, each party on so many threads.
pub fn session_on<T: Send>(
    threads: usize,
    model: &Model,
    (server, client): (Channel, Channel),
    act: impl FnOnce(ClientSession) -> Result<T, RuntimeError> + Send,
) -> (Result<usize, RuntimeError>, Result<T, RuntimeError>) {
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let rng = Prg::from_seed(b"server's secrets");
            ServerSession::accept_with(server, Arc::clone(&model.plan), &model.weights, rng)?
                .with_threads(threads)?
                .serve()
        });
        let client = scope.spawn(|| {
            let rng = Prg::from_seed(b"client's secrets");
            act(ClientSession::connect_with(client, Arc::clone(&model.plan), rng)?
                .with_threads(threads)?)
        });
        (server.join().expect("the server does not panic"), client.join().expect("nor the client"))
    })
}
