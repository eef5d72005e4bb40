//! What a plan computes, bit for bit: the oracle of the protocols.

use super::elementwise::{moved, relu, relu_below, rounded, rounded_by_chance, shifted, sums};
use super::integer::IntegerConvolution;
use super::rounding::{Rounding, key_of, seed_of};
use crate::{
    Activation, ActivationMask, Answer, Digest, Fact, Place, Plan, PoolWindow, Ring, ServerWeights,
    Shape, Step, StepId, StepOp, TruncateMethod, ValueId, Visibility, class_of_digits, next_round,
};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Executes a plan in the clear. What the parties reveal must equal its logits exactly, save for truncations that
/// round at random.
///
/// - *Input*: the image rounded to the value's scale ([`quantise_input`]).
/// - *Linear*: `2^extra_scale W (*) x + bias` in the ring.
/// - *Add*, *SumPool*: sums in the ring.
/// - *Truncate*, faithful: the signed value shifted right, towards minus infinity. By the other methods: that or the
///   next greater number, by chance or as given shares decide ([`Rounding`]).
/// - *Extend*, *Reduce*: the signed value in the other ring.
/// - *Activation*: ReLU is `x` where the signed value is not negative, else 0. ReLU6 is `ReLU(x) -
///   ReLU(x - cap)` in the ring, `cap = 6 * 2^scale`. Values outside a mask stay as they are.
/// - *MaxPool*: the greatest value of each window, where differences fit the ring.
/// - *ArgMax*: the number of the greatest element, the first of several, in binary, where differences fit the ring.
/// - *Reveal*: the value itself.
pub struct PlanEvaluator<'a> {
    plan: &'a Plan,
    convolutions: BTreeMap<StepId, IntegerConvolution<'a>>,
    seed: u64,
    /// The step after which each value is no longer needed.
    last_use: Vec<StepId>,
}

/// The weights given to [`PlanEvaluator::new`] are those of another plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the weights belong to plan {found}, not to plan {expected}")]
pub struct ForeignWeights {
    /// Digest of the plan.
    pub expected: Digest,
    /// Digest that the weights name.
    pub found: Digest,
}

impl<'a> PlanEvaluator<'a> {
    /// An evaluator of `plan` with its weights.
    ///
    /// # Errors
    /// [`ForeignWeights`] where the weights belong to another plan.
    pub fn new(plan: &'a Plan, weights: &'a ServerWeights) -> Result<Self, ForeignWeights> {
        let (expected, found) = (plan.digest(), weights.plan());
        if expected != found {
            return Err(ForeignWeights { expected, found });
        }
        let mut last_use: Vec<StepId> = plan.steps().iter().map(|step| step.id).collect();
        for step in plan.steps() {
            step.inputs.iter().for_each(|value| last_use[value.0] = step.id);
        }
        let convolution = |step: &Step| {
            let StepOp::Linear(linear) = &step.op else { return None };
            let input = plan.fact(step.inputs[0]);
            let input = (input.shape, input.ring);
            Some((step.id, IntegerConvolution::new(linear, input, weights.layer(step.id)?)))
        };
        let convolutions = plan.steps().iter().filter_map(convolution).collect();
        Ok(Self { plan, convolutions, seed: 0, last_use })
    }

    /// The same with another seed for truncations that round at random. One seed and one image always give one
    /// result.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The image as the plan's first value: see [`quantise_input`].
    #[must_use]
    pub fn quantise_input(&self, image: &[f32]) -> Vec<u64> {
        quantise_input(self.plan.fact(ValueId(0)), image)
    }

    /// What is revealed, signed, at the scale of the plan's last value: the logits, or the digits of the class.
    ///
    /// `image` is normalised and channel-major.
    ///
    /// # Panics
    /// Where the image has another size than the plan's input.
    #[must_use]
    pub fn run(&self, image: &[f32]) -> Vec<i64> {
        let mut values = self.execute(image, false, |_, _| {});
        let (revealed, fact) = (values.pop(), self.plan.values().last());
        let signed = |(revealed, fact): (Vec<u64>, &Fact)| {
            revealed.into_iter().map(|x| fact.ring.to_signed(x)).collect()
        };
        revealed.zip(fact).map(signed).unwrap_or_default()
    }

    /// The class that the plan reveals, where it reveals that and not the logits.
    ///
    /// # Panics
    /// As [`Self::run`].
    #[must_use]
    pub fn class(&self, image: &[f32]) -> Option<usize> {
        match self.plan.answer() {
            Answer::Logits => None,
            Answer::Class { .. } => {
                let digits = self.execute(image, false, |_, _| {}).pop();
                digits.map(|digits| class_of_digits(&digits))
            }
        }
    }

    /// The logits as numbers, also where the plan keeps them from the client.
    ///
    /// # Panics
    /// As [`Self::run`].
    #[must_use]
    pub fn logits_f64(&self, image: &[f32]) -> Vec<f64> {
        let (logits, fact) = match self.plan.answer() {
            Answer::Logits => {
                (self.execute(image, false, |_, _| {}).pop(), self.plan.values().last())
            }
            Answer::Class { logits } => {
                let mut read = None;
                self.watch(image, |step, inputs| {
                    if step.inputs == [logits] {
                        read = inputs.first().map(|logits| logits.to_vec());
                    }
                });
                (read, Some(self.plan.fact(logits)))
            }
        };
        let number = |(logits, fact): (Vec<u64>, &Fact)| {
            let unit = (-f64::from(fact.scale)).exp2();
            logits.into_iter().map(|logit| fact.ring.to_signed(logit) as f64 * unit).collect()
        };
        logits.zip(fact).map(number).unwrap_or_default()
    }

    /// The logits of many images as numbers, on all threads.
    ///
    /// # Panics
    /// As [`Self::run`].
    #[must_use]
    pub fn batch_logits<I: AsRef<[f32]> + Sync>(&self, images: &[I]) -> Vec<Vec<f64>> {
        images.par_iter().map(|image| self.logits_f64(image.as_ref())).collect()
    }

    /// Every value of the plan, reduced, in the order of [`Plan::values`].
    ///
    /// # Panics
    /// As [`Self::run`].
    #[must_use]
    pub fn values(&self, image: &[f32]) -> Vec<Vec<u64>> {
        self.execute(image, true, |_, _| {})
    }

    /// Runs the plan and shows each step with its inputs, before it is done.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn watch(&self, image: &[f32], watch: impl FnMut(&Step, &[&[u64]])) {
        self.execute(image, false, watch);
    }

    /// What one step makes of its inputs, in the step's order; nothing of [`StepOp::Input`], which has none.
    ///
    /// # Panics
    /// Where inputs have other sizes than the plan says.
    #[must_use]
    pub fn step(&self, step: &Step, inputs: &[&[u64]], rounding: Rounding<'_>) -> Vec<u64> {
        let fact = self.plan.fact(step.output);
        match (&step.op, inputs) {
            // Weights were checked to have all of the plan's when they were made or read.
            (StepOp::Linear(_), [x]) => {
                self.convolutions.get(&step.id).map(|step| step.apply(x)).unwrap_or_default()
            }
            (StepOp::Add, [x, y]) => sums(fact.ring, x, y),
            (StepOp::SumPool, [x]) => {
                let area = self.plan.fact(step.inputs[0]).shape.area();
                let sum = |channel: &[u64]| {
                    channel.iter().fold(0, |sum, &value| fact.ring.add(sum, value))
                };
                x.chunks(area).map(sum).collect()
            }
            (StepOp::Truncate { shift, method }, [x]) => {
                let input = self.plan.fact(step.inputs[0]);
                truncate(step, (input, fact), (*shift, *method), x, rounding)
            }
            (StepOp::Extend { .. } | StepOp::Reduce { .. }, [x]) => {
                moved(self.plan.fact(step.inputs[0]).ring, fact.ring, x)
            }
            (StepOp::Activation { function, mask, .. }, [x]) => {
                activate(*function, mask.as_ref(), fact, x)
            }
            (StepOp::MaxPool { window, .. }, [x]) => {
                max_pool(fact.ring, *window, self.plan.fact(step.inputs[0]).shape, x)
            }
            (StepOp::ArgMax { .. }, [x]) => {
                let class = greatest(self.plan.fact(step.inputs[0]).ring, x);
                (0..fact.shape.elements()).map(|place| (class >> place & 1) as u64).collect()
            }
            (StepOp::Reveal, [x]) => x.to_vec(),
            // A verified plan has the right number of inputs everywhere.
            _ => Vec::new(),
        }
    }

    fn execute(
        &self,
        image: &[f32],
        keep: bool,
        mut watch: impl FnMut(&Step, &[&[u64]]),
    ) -> Vec<Vec<u64>> {
        let input = self.quantise_input(image);
        let rounding = Rounding::Seeded(seed_of(self.seed, &input));
        let mut values: Vec<Vec<u64>> = Vec::with_capacity(self.plan.steps().len());
        values.push(input);
        for step in &self.plan.steps()[1..] {
            let inputs: Vec<&[u64]> = step.inputs.iter().map(|v| values[v.0].as_slice()).collect();
            watch(step, &inputs);
            let value = self.step(step, &inputs, rounding);
            values.push(value);
            for input in &step.inputs {
                if !keep && self.last_use[input.0] == step.id {
                    values[input.0] = Vec::new();
                }
            }
        }
        values
    }
}

/// The first value of a plan, of fact `fact`, from a normalised channel-major image: rounded to the
/// nearest multiple of `2^-scale` (halves away from zero), saturated to the ring.
///
/// # Panics
/// Where the image has another size than the fact says.
#[must_use]
pub fn quantise_input(fact: &Fact, image: &[f32]) -> Vec<u64> {
    assert_eq!(image.len(), fact.shape.elements(), "pixels of a {} image", fact.shape);
    let unit = f64::from(fact.scale).exp2();
    let (min, max) = fact.ring.signed_range();
    let quantise = |&x: &f32| {
        // The cast saturates to 64 bits, the clamp to the ring.
        let rounded = (f64::from(x) * unit).round() as i64;
        fact.ring.from_signed(rounded.clamp(min, max))
    };
    image.iter().map(quantise).collect()
}

fn truncate(
    step: &Step,
    (input, output): (&Fact, &Fact),
    (shift, method): (u32, TruncateMethod),
    x: &[u64],
    rounding: Rounding<'_>,
) -> Vec<u64> {
    let (from, to) = (input.ring, output.ring);
    // What the client alone knows has a server's share of zero.
    let is_certain = input.visibility != Visibility::Shared;
    match (method, rounding) {
        (TruncateMethod::Faithful(_), _) => shifted(from, to, shift, x),
        _ if is_certain => shifted(from, to, shift, x),
        (_, Rounding::Seeded(seed)) => rounded_by_chance(from, to, shift, x, key_of(seed, step.id)),
        (_, Rounding::ServerShares(shares)) => rounded(from, to, shift, x, shares),
    }
}

/// Two values meet as `y + relu(x - y)` in the ring: the greater, where their difference fits.
fn max_pool(ring: Ring, window: PoolWindow, input: Shape, x: &[u64]) -> Vec<u64> {
    let mut values = x.to_vec();
    for side in window.sides(input) {
        let mut groups = side.groups();
        values = side.entrants().map(|at| values[at]).collect();
        for _ in side.matches() {
            let winner = |place: Place| {
                if !place.is_match {
                    return values[place.at];
                }
                let (x, y) = (values[place.at], values[place.at + 1]);
                if ring.to_signed(ring.sub(x, y)) < 0 { y } else { x }
            };
            values = next_round(&groups).map(winner).collect();
            groups.iter_mut().for_each(|size| *size = size.div_ceil(2));
        }
    }
    values
}

/// The number of the greatest element by a knock-out: of two that meet the first goes on unless it is less by their
/// difference in the ring.
fn greatest(ring: Ring, x: &[u64]) -> usize {
    let mut standing: Vec<usize> = (0..x.len()).collect();
    while standing.len() > 1 {
        let meet = |pair: &[usize]| match *pair {
            [first, second] if ring.to_signed(ring.sub(x[first], x[second])) < 0 => second,
            _ => pair[0],
        };
        standing = standing.chunks(2).map(meet).collect();
    }
    standing.first().copied().unwrap_or(0)
}

fn activate(
    function: Activation,
    mask: Option<&ActivationMask>,
    fact: &Fact,
    x: &[u64],
) -> Vec<u64> {
    let ring = fact.ring;
    let mut y = match function {
        Activation::Relu => relu(ring, x),
        Activation::Relu6 => relu_below(ring, ring.reduce(6u64.wrapping_shl(fact.scale)), x),
    };
    if let Some(mask) = mask {
        let passing = y.iter_mut().zip(x).zip(mask.values()).filter(|(_, activated)| !activated);
        passing.for_each(|((y, &x), _)| *y = x);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Comparison, ConvGeometry, Correlation, Granularity, InputSpec, LinearStep, LinearWeights,
        Lowering, OtKind, Party, Provenance, Sign, WinogradTile, cost,
    };
    use std::collections::BTreeMap;

    const COMPARISON: Comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };

    fn provenance() -> Provenance {
        Provenance::new("test", None, serde_json::Value::Null, None)
    }

    fn fact(shape: Shape, bits: u32, scale: u32) -> Fact {
        let ring = Ring::new(bits).expect("in range");
        Fact { shape, ring, scale, sign: Sign::Any, visibility: Visibility::Shared }
    }

    fn linear(geometry: ConvGeometry, lowering: Lowering, bits: u32) -> StepOp {
        let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server };
        let (weight_scale, weight_bits) = (1, bits);
        StepOp::Linear(LinearStep { geometry, lowering, correlation, weight_scale, weight_bits })
    }

    /// A plan of these operations one after the other, with the facts of their outputs.
    fn chain(steps: Vec<(StepOp, Fact)>) -> Plan {
        let input = InputSpec { shape: steps[0].1.shape, mean: [0.0; 3], std: [1.0; 3] };
        let (ops, mut facts): (Vec<StepOp>, Vec<Fact>) = steps.into_iter().unzip();
        let last = facts.len() - 1;
        (facts[0].visibility, facts[last].visibility) = (Visibility::Client, Visibility::Client);
        let step = |(id, op): (usize, StepOp)| Step {
            id: StepId(id),
            name: format!("step {id}"),
            inputs: (0..op.arity()).map(|back| ValueId(id - 1 - back)).collect(),
            op,
            output: ValueId(id),
        };
        let steps = ops.into_iter().enumerate().map(step).collect();
        Plan::new("test".into(), "test".into(), (input, vec![]), (facts, steps), provenance())
            .expect("a valid plan")
    }

    fn weights(plan: &Plan, layers: &[(usize, &[i64], &[i64])]) -> ServerWeights {
        let layer = |&(step, weight, bias): &(usize, &[i64], &[i64])| {
            (StepId(step), LinearWeights { weight: weight.to_vec(), bias: bias.to_vec() })
        };
        ServerWeights::new(plan, layers.iter().map(layer).collect(), provenance()).expect("fits")
    }

    fn truncate(shift: u32) -> StepOp {
        StepOp::Truncate { shift, method: TruncateMethod::Faithful(COMPARISON) }
    }

    #[test]
    fn each_operation_does_what_its_definition_says() {
        let (map, vector) = (Shape::new(1, 1, 3), Shape::vector(1));
        let relu =
            StepOp::Activation { function: Activation::Relu, comparison: COMPARISON, mask: None };
        let positive = |fact: Fact| Fact { sign: Sign::NonNegative, ..fact };
        let plan = chain(vec![
            (StepOp::Input, fact(map, 16, 3)),
            (linear(ConvGeometry::same(1, 1, 1, 1), Lowering::Direct, 16), fact(map, 16, 4)),
            (truncate(2), fact(map, 16, 2)),
            (relu, positive(fact(map, 16, 2))),
            (StepOp::Add, fact(map, 16, 2)),
            (StepOp::SumPool, fact(vector, 16, 4)),
            (StepOp::Reveal, fact(vector, 16, 4)),
        ]);
        let weights = weights(&plan, &[(1, &[-3], &[2])]);
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("its own weights");
        let image = [-1.0, 0.3, 1.0];
        let signed = |values: &[u64]| -> Vec<i64> {
            values.iter().map(|&x| Ring::new(16).expect("in range").to_signed(x)).collect()
        };
        let values: Vec<Vec<i64>> = evaluator.values(&image).iter().map(|v| signed(v)).collect();
        assert_eq!(values[0], [-8, 2, 8]);
        assert_eq!(values[1], [26, -4, -22]);
        assert_eq!(values[2], [6, -1, -6], "towards minus infinity");
        assert_eq!(values[3], [6, 0, 0]);
        assert_eq!(values[4], [12, -1, -6], "the last two values");
        assert_eq!(values[5], [5]);
        assert_eq!(evaluator.run(&image), [5]);
        assert_eq!(evaluator.logits_f64(&image), [5.0 / 16.0]);
    }

    #[test]
    fn relu6_is_a_difference_of_relus() {
        let map = Shape::new(1, 1, 4);
        let relu6 =
            StepOp::Activation { function: Activation::Relu6, comparison: COMPARISON, mask: None };
        let plan = chain(vec![
            (StepOp::Input, fact(map, 8, 3)),
            (relu6, Fact { sign: Sign::NonNegative, ..fact(map, 8, 3) }),
            (StepOp::Reveal, Fact { sign: Sign::NonNegative, ..fact(map, 8, 3) }),
        ]);
        let weights = weights(&plan, &[]);
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("its own weights");
        assert_eq!(evaluator.run(&[-2.0, 5.0, 6.0, 9.0]), [0, 40, 48, 48]);
        // x - cap leaves the ring of 8 bits at -16: there the result is not ReLU6.
        assert_eq!(evaluator.run(&[-16.0, 0.0, 0.0, 0.0]), [-80, 0, 0, 0]);
    }

    #[test]
    fn values_outside_a_mask_pass_and_cost_nothing() {
        let map = Shape::new(2, 1, 3);
        let bits = vec![true, false, false, true, false, true];
        let mask = ActivationMask::new(map, Granularity::Pixel, bits).expect("in part");
        let some = |sign| Fact { sign, ..fact(map, 8, 3) };
        let plan_of = |mask: Option<ActivationMask>, map: Shape, sign| {
            let op = |function| StepOp::Activation {
                function,
                comparison: COMPARISON,
                mask: mask.clone(),
            };
            let fact = Fact { sign, ..fact(map, 8, 3) };
            let input = Fact { sign: Sign::Any, ..fact };
            chain(vec![
                (StepOp::Input, input),
                (op(Activation::Relu6), fact),
                (op(Activation::Relu), fact),
                (StepOp::Reveal, fact),
            ])
        };
        let plan = plan_of(Some(mask.clone()), map, Sign::Any);
        let weights = weights(&plan, &[]);
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("its own weights");
        let image = [-2.0, -2.0, 9.0, 9.0, 9.0, 5.0];
        assert_eq!(evaluator.run(&image), [0, -16, 72, 48, 72, 40]);

        // As many values by themselves take as much, on the wire, waiting and on disk.
        let three = plan_of(None, Shape::new(1, 1, 3), Sign::NonNegative);
        for (masked, alone) in plan.steps()[1..3].iter().zip(&three.steps()[1..3]) {
            assert_eq!(cost::step_cost(&plan, masked), cost::step_cost(&three, alone));
        }
        let activations = |streams: Vec<(StepId, Vec<_>)>| streams[1..3].to_vec();
        assert_eq!(
            activations(cost::streams::online(&plan)),
            activations(cost::streams::online(&three))
        );
        assert_eq!(
            activations(cost::streams::offline(&plan)),
            activations(cost::streams::offline(&three))
        );
        for party in [Party::Server, Party::Client] {
            assert_eq!(cost::stored::record(&plan, party), cost::stored::record(&three, party));
        }

        // The sign is known where it was known before, or where all are activated.
        let relu = |mask| {
            let function = Activation::Relu;
            StepOp::Activation { function, comparison: COMPARISON, mask }
        };
        let sign = |op: StepOp, sign| op.output(&[&some(sign)]).expect("applies").sign;
        assert_eq!(sign(relu(Some(mask.clone())), Sign::Any), Sign::Any);
        assert_eq!(sign(relu(Some(mask.clone())), Sign::NonNegative), Sign::NonNegative);
        assert_eq!(sign(relu(None), Sign::Any), Sign::NonNegative);
        let other = fact(Shape::new(3, 1, 2), 8, 3);
        let fault = relu(Some(mask)).output(&[&other]).expect_err("another shape");
        assert_eq!(fault, "a mask of 2x1x3 on values of 3x1x2");
    }

    #[test]
    fn argmax_names_the_first_of_the_greatest() {
        let vector = fact(Shape::vector(5), 8, 3);
        let argmax = StepOp::ArgMax { comparison: COMPARISON };
        let digits = argmax.output(&[&vector]).expect("it fits");
        assert_eq!((digits.shape, digits.ring.bits()), (Shape::vector(3), 1));
        let plan = chain(vec![(StepOp::Input, vector), (argmax, digits), (StepOp::Reveal, digits)]);
        let weights = weights(&plan, &[]);
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("its own weights");
        for (image, class) in [
            ([1.0, 2.0, -3.0, 2.0, 1.5], 1),
            ([-1.0, -2.0, -3.0, -2.0, -0.5], 4),
            ([0.0; 5], 0),
            ([0.0, 0.0, 0.0, 3.0, 3.0], 3),
        ] {
            assert_eq!(evaluator.class(&image), Some(class));
            let digits: Vec<i64> = (0..3).map(|place| -((class >> place & 1) as i64)).collect();
            assert_eq!(evaluator.run(&image), digits);
            assert_eq!(evaluator.logits_f64(&image), image.map(f64::from));
        }
    }

    #[test]
    fn lowerings_change_the_scale_but_not_the_meaning() {
        let map = Shape::new(1, 3, 3);
        let geometry = ConvGeometry::same(1, 1, 3, 1);
        let winograd = Lowering::Winograd(WinogradTile::F2X2_3X3);
        let logits = |lowering: Lowering, bias: &[i64]| {
            let output = fact(map, 20, 4 + lowering.extra_scale());
            let plan = chain(vec![
                (StepOp::Input, fact(map, 20, 3)),
                (linear(geometry, lowering, 20), output),
                (StepOp::Reveal, output),
            ]);
            let weights = weights(&plan, &[(1, &[1, -2, 3, -4, 5, -6, 7, -8, 9], bias)]);
            let evaluator = PlanEvaluator::new(&plan, &weights).expect("its own weights");
            evaluator.logits_f64(&[0.5, 1.0, -1.0, 2.0, 0.0, -3.0, 0.25, 0.125, 4.0])
        };
        let bias: Vec<i64> = (0..9).collect();
        let scaled: Vec<i64> = bias.iter().map(|x| 4 * x).collect();
        assert_eq!(logits(Lowering::Direct, &bias), logits(winograd, &scaled));
    }

    #[test]
    fn images_saturate_at_the_ring() {
        let fact = fact(Shape::new(1, 1, 4), 8, 4);
        assert_eq!(quantise_input(&fact, &[100.0, -100.0, 0.04, f32::NAN]), [127, 128, 1, 0]);
    }

    #[test]
    fn weights_of_another_plan_are_refused() {
        let one = |scale| {
            let map = fact(Shape::vector(2), 8, scale);
            chain(vec![(StepOp::Input, map), (StepOp::Reveal, map)])
        };
        let (plan, other) = (one(3), one(4));
        let foreign = ServerWeights::new(&other, BTreeMap::new(), provenance()).expect("fits");
        let error = PlanEvaluator::new(&plan, &foreign).err().expect("refused");
        assert_eq!(error, ForeignWeights { expected: plan.digest(), found: other.digest() });
    }
}
