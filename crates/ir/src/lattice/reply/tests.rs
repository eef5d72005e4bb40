//! Correlations with a reply as a whole, at the parameters of production and at worse ones.

use super::super::factors::Factors;
use super::super::tests::{chi_square, log_norm, square, usual_layers};
use super::super::{Candidate, HintError, PublicSeed, SecretSeed};
use super::server::{kernels, uploaded};
use super::*;
use crate::ValueId;
use crate::lowering::direct_conv;
use crate::packing::{Packer, Unpacker};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

/// A few layers with weights and parameters.
struct Model {
    candidates: Vec<Candidate>,
    weights: Vec<Vec<i64>>,
    choice: ReplyChoice,
    seed: PublicSeed,
}

/// What one inference made of a step.
struct Made {
    id: StepId,
    mask: Zeroizing<Vec<u64>>,
    client: Zeroizing<Vec<u64>>,
    server: Zeroizing<Vec<u64>>,
    upload: Vec<u8>,
    reply: Vec<u8>,
}

impl Model {
    fn new(layers: &[(ConvGeometry, Shape)], bits: u32, number: u8) -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(u64::from(number));
        let ring = Ring::new(bits).expect("in range");
        let weights: Vec<Vec<i64>> = (layers.iter())
            .map(|(g, _)| (0..g.weight_elements()).map(|_| rng.random_range(-70..=70)).collect())
            .collect();
        let candidate = |(i, (&(geometry, input), weights)): (usize, (&_, &Vec<i64>))| {
            let geometry: ConvGeometry = geometry;
            let log_norm = log_norm(&geometry, weights);
            let reads = ValueId(3 * i);
            Candidate { step: StepId(3 * i + 1), reads, geometry, input, ring, log_norm }
        };
        let candidates: Vec<_> = layers.iter().zip(&weights).enumerate().map(candidate).collect();
        let choice = choose_reply(&candidates).expect("parameters");
        Self { candidates, weights, choice, seed: PublicSeed::new([number; 32]) }
    }

    /// An inference, as the runtime does it: the carrier travels with the first step.
    fn infer(&self, number: u8) -> Vec<Made> {
        let rounding = self.choice.carrier_rounding;
        let secret = ReplySecret::new(SecretSeed::new([number; 32]), rounding);
        let masks = ReplyMasks::new(SecretSeed::new([number ^ 1; 32]));
        let (mut key, mut all) = (None, vec![]);
        for (i, step) in self.choice.steps.iter().enumerate() {
            let mut packer = Packer::default();
            if i == 0 {
                secret.carrier(&self.seed, &mut packer);
            }
            let source = all.iter().find(|made: &&Made| made.id == step.source());
            let (mask, upload) = match source {
                Some(made) => {
                    assert_eq!(step.upload_bytes(false), 0);
                    (made.mask.clone(), made.upload.clone())
                }
                None => {
                    let mask = secret.upload(step, &self.seed, &mut packer);
                    let upload = packer.finish();
                    let expected = step.upload_bytes(i == 0) as usize - UPLOAD_TAG;
                    assert_eq!(upload.len(), expected, "as predicted");
                    (mask, upload)
                }
            };
            let (mut reader, mut reply) = (Unpacker::new(&upload), vec![]);
            if source.is_some_and(|made| made.id == self.choice.steps[0].id()) {
                let _ = ReplyKey::read(&self.seed, rounding, &mut reader);
            }
            let key =
                &*key.get_or_insert_with(|| ReplyKey::read(&self.seed, rounding, &mut reader));
            let at = (&self.seed, key);
            let sent = step.read_upload(&mut reader);
            let server = masks.reply(step, &self.weights[i], at, (&sent, &mut reply));
            let server = server.expect("within the norm");
            assert_eq!(reply.len(), step.reply_bytes() as usize - UPLOAD_TAG, "as predicted");
            let client = secret.share(step, &reply);
            all.push(Made { id: step.id(), mask, client, server, upload, reply });
        }
        all
    }

    /// Outputs of a step whose shares are wrong.
    fn wrong(&self, number: usize, made: &Made) -> usize {
        let Candidate { ring, geometry, input, .. } = &self.candidates[number];
        let expected = direct_conv(*ring, geometry, *input, &made.mask, &self.weights[number]);
        let sums = made.server.iter().zip(&*made.client).map(|(&s, &t)| ring.add(s, t));
        sums.zip(&expected).filter(|(sum, expected)| sum != *expected).count()
    }
}

#[test]
fn all_layers_of_the_usual_networks_are_exact() {
    let large = [
        square(ConvGeometry::same(3, 2, 3, 2), 224),
        square(ConvGeometry::depthwise(3, 3, 2), 112),
        square(ConvGeometry::same(3, 1, 7, 2), 112),
        square(ConvGeometry::same(2, 5, 1, 1), 80),
    ];
    for (bits, layers) in [(27, usual_layers()), (41, usual_layers()), (30, large.to_vec())] {
        let model = Model::new(&layers, bits, bits as u8);
        for (number, made) in model.infer(2).iter().enumerate() {
            assert_eq!(model.wrong(number, made), 0, "{:?} in {bits} bits", layers[number]);
        }
    }
}

#[test]
fn layers_that_read_one_value_share_its_upload() {
    let conv = ConvGeometry::same;
    let layers = [
        square(conv(24, 5, 3, 2), 8),
        square(conv(24, 7, 1, 2), 8),
        square(conv(4, 4, 1, 2), 80),
        square(conv(4, 6, 3, 2), 80),
    ];
    let mut model = Model::new(&layers, 30, 6);
    model.candidates[1].reads = model.candidates[0].reads;
    model.candidates[3].reads = model.candidates[2].reads;
    model.choice = choose_reply(&model.candidates).expect("parameters");
    let sources: Vec<usize> = model.choice.steps.iter().map(|step| step.source().0).collect();
    assert_eq!(sources, [1, 1, 7, 7]);
    for (number, made) in model.infer(2).iter().enumerate() {
        assert_eq!(model.wrong(number, made), 0, "{number}");
    }
}

#[test]
fn large_maps_are_cut_and_small_ones_share_products() {
    let layers = [
        square(ConvGeometry::same(3, 2, 3, 1), 112),
        square(ConvGeometry::same(3, 16, 3, 1), 32),
        square(ConvGeometry::same(320, 128, 1, 1), 4),
    ];
    let model = Model::new(&layers, 30, 1);
    let shape = |step: &ReplyStep| (step.layout().tiles().len(), step.layout().slots());
    let shapes: Vec<_> = model.choice.steps.iter().map(shape).collect();
    assert!(shapes[0].0 > 1 && shapes[0].1 == 1, "{shapes:?}");
    assert_eq!(shapes[1], (1, 3));
    assert!(shapes[2].0 == 1 && shapes[2].1 > 4, "{shapes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_convolution_is_exact(
        (groups, inputs, outputs) in (1usize..=3, 1usize..=4, 1usize..=5),
        (kernel, stride, bits) in (1usize..=5, 1usize..=3, 2u32..=44),
        (height, width) in (1usize..=40, 1usize..=40),
        (padding, number) in (0usize..5, 0u8..=255),
    ) {
        let (in_channels, out_channels) = (groups * inputs, groups * outputs);
        let padding = padding.min(kernel - 1);
        let geometry = ConvGeometry { in_channels, out_channels, kernel, stride, padding, groups };
        let input = Shape::new(in_channels, height, width);
        prop_assume!(geometry.output_shape(input).elements() > 0);
        let model = Model::new(&[(geometry, input)], bits, number);
        prop_assert_eq!(model.wrong(0, &model.infer(number)[0]), 0);
    }
}

/// `Z - G - W (*) R q / 2^l` of all outputs before share and flood, and after them and all rounding, in gaps.
fn noise(model: &Model, number: u8) -> (Vec<f64>, Vec<f64>) {
    let (step, rounding) = (&model.choice.steps[0], model.choice.carrier_rounding);
    let (set, layout, gap) = (step.step.set, step.layout(), step.step.gap_bits());
    let secret = ReplySecret::new(SecretSeed::new([number; 32]), rounding);
    let masks = ReplyMasks::new(SecretSeed::new([number ^ 1; 32]));
    let mut packer = Packer::default();
    secret.carrier(&model.seed, &mut packer);
    let mask = secret.upload(step, &model.seed, &mut packer);
    let message = packer.finish();
    let mut reader = Unpacker::new(&message);
    let key = ReplyKey::read(&model.seed, rounding, &mut reader);
    let sent = step.read_upload(&mut reader);
    let chunks = uploaded(step, &model.seed, &sent);
    let Candidate { ring, geometry, input, .. } = model.candidates[0];
    let exact = direct_conv(ring, &geometry, input, &mask, &model.weights[0]);
    let (area, tile) = (geometry.output_shape(input).area(), &layout.tiles()[0]);
    let (first, reach) = (layout.first_output(0), layout.reach(tile));
    let centred = |x: u128| {
        let shift = 128 - set.modulus_bits();
        (x << shift).cast_signed() >> shift
    };
    let mut before = vec![];
    for product in 0..layout.polynomials() {
        let kernels = kernels(step, &model.weights[0], product);
        let (c1, c0) = masks.encrypt(step, (0, product), (&key, &chunks[0]), &kernels);
        let factors = Factors::new(set, c1.iter().copied(), reach);
        let g = factors.product(set, secret.ternary(), first, reach);
        for (slot, channel) in step.channels(product).enumerate() {
            let start = layout.first_output(slot) - first;
            for (at, position) in layout.offsets(tile).zip(layout.positions(tile)) {
                let at = start + at;
                let output = u128::from(exact[channel * area + position]) << gap;
                before.push(centred(c0[at].wrapping_sub(g[at]).wrapping_sub(output)) as f64);
            }
        }
    }
    let (at, mut reply) = ((&model.seed, &key), vec![]);
    let server = masks.reply(step, &model.weights[0], at, (&sent, &mut reply));
    let server = server.expect("within the norm");
    let phases = secret.phases(step, &reply);
    let after = phases.iter().enumerate().map(|(at, &phase)| {
        let t = u128::from(ring.sub(exact[at], server[at])) << gap;
        centred(phase.wrapping_sub(t)) as f64 / f64::from(gap).exp2()
    });
    (before, after.collect())
}

fn deviation(all: &[f64]) -> f64 {
    (all.iter().map(|x| x * x).sum::<f64>() / all.len() as f64).sqrt()
}

#[test]
fn noise_is_as_large_as_its_formula_says_and_drowns_in_the_flood() {
    for (number, geometry, size) in
        [(1, ConvGeometry::same(24, 40, 3, 1), 8), (2, ConvGeometry::same(9, 10, 3, 1), 32)]
    {
        let model = Model::new(&[square(geometry, size)], 30, number);
        let step = &model.choice.steps[0];
        let (before, after) = noise(&model, number);
        // The bound on the norm is a power of two; the formula is held to the weights' own norm.
        let norm: f64 = model.weights[0].iter().map(|w| (w * w) as f64).sum();
        let norm = norm / step.layout().polynomials() as f64;
        let carrier =
            0.7 * 4096.0 * (10.5 + (4f64.powi(model.choice.carrier_rounding as i32)) / 12.0);
        let input = 4f64.powi(step.layer().input_rounding as i32) / 12.0;
        let expected = (norm * input + carrier).sqrt();
        let found = deviation(&before);
        assert!((found / expected - 1.0).abs() < 0.15, "{found} for {expected}");
        assert!(expected <= step.deviation());
        assert!(before.iter().all(|e| e.abs() < 6.0 * step.deviation()));
        // Flood, rounding of c0, rounding of c1.
        let first = 2.0 / 3.0 * 4096.0 / 12.0 / 4f64.powi(FIRST_BITS as i32);
        let expected = (1.0 / 48.0 + 1.0 / 192.0 + first).sqrt();
        let found = deviation(&after);
        assert!((found / expected - 1.0).abs() < 0.05, "{found} for {expected}");
        assert!(after.iter().all(|x| x.abs() < 0.5), "exact");
    }
}

/// The probability that flood, rounding of `c0` and a normal number of this deviation leave half a gap.
fn error_probability(deviation: f64) -> f64 {
    let steps = 400;
    let tail = |x: f64| {
        // Abramowitz and Stegun 26.2.17.
        let (z, t) = (x.abs(), 1.0 / (1.0 + 0.231_641_9 * x.abs()));
        let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
        let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
        let tail = sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
        if x < 0.0 { 1.0 - tail } else { tail }
    };
    let mut sum = 0.0;
    for i in 0..steps {
        for j in 0..steps {
            let part =
                |k: usize, width: f64| ((k as f64 + 0.5) / f64::from(steps as u32) - 0.5) * width;
            let both = part(i, 0.5) + part(j, 0.25);
            sum += tail((0.5 - both) / deviation) + tail((0.5 + both) / deviation);
        }
    }
    sum / (steps * steps) as f64
}

#[test]
fn coefficients_that_are_trimmed_too_far_err_as_predicted() {
    for (number, bits) in [(3u8, 4), (4, 6)] {
        let mut model = Model::new(&[square(ConvGeometry::same(24, 60, 3, 1), 8)], 30, number);
        let step = &mut model.choice.steps[0];
        step.step.layer.hint_rounding += FIRST_BITS - bits;
        let deviation = (2.0 / 3.0 * 4096.0 / 12.0f64).sqrt() / f64::from(bits).exp2();
        let (mut wrong, mut all) = (0, 0);
        for inference in 0..4 {
            let made = &model.infer(8 * number + 2 * inference)[0];
            wrong += model.wrong(0, made);
            all += made.client.len();
        }
        let expected = error_probability(deviation) * all as f64;
        assert!(expected > 30.0);
        let difference = (wrong as f64 - expected).abs();
        assert!(difference < 5.0 * expected.sqrt() + 0.05 * expected, "{wrong} for {expected}");
    }
}

#[test]
fn exactness_leaves_more_than_eight_deviations() {
    let first = (2.0 / 3.0 * 4096.0 / 12.0f64).sqrt() / f64::from(FIRST_BITS).exp2();
    let left = 0.5 - 0.25 - 0.5 / f64::from(NOUGHT_BITS).exp2();
    assert!(left > 8.4 * first, "{}", left / first);
    assert!(error_probability(first) < 1e-12);
}

#[test]
fn what_either_side_sends_looks_uniform_and_depends_on_all_seeds() {
    let layers = [square(ConvGeometry::same(64, 16, 3, 1), 8)];
    let mut model = Model::new(&layers, 32, 11);
    let made = &model.infer(4)[0];
    let shares: Vec<u8> = [&made.mask, &made.server, &made.client]
        .iter()
        .flat_map(|shares| shares.iter().flat_map(|&x| (x as u32).to_le_bytes()))
        .collect();
    for bytes in [&made.upload, &made.reply, &shares] {
        assert!(chi_square(bytes).abs() < 5.0);
    }
    assert_ne!(model.infer(6)[0].upload, made.upload);
    // Without weights a reply is an encryption of what the server draws, and looks no different.
    let real = std::mem::replace(&mut model.weights[0], vec![0; 64 * 16 * 9]);
    let blank = &model.infer(4)[0];
    assert!(chi_square(&blank.reply).abs() < 5.0);
    assert_ne!(blank.reply, made.reply);
    assert_eq!(blank.upload, made.upload);
    model.weights[0] = real;
    let again = &model.infer(4)[0];
    assert_eq!(again.reply, made.reply, "a function of its seeds");
}

#[test]
fn noise_that_no_flood_hides_and_weights_beyond_the_norm_are_refused() {
    let model = Model::new(&[square(ConvGeometry::same(4, 3, 3, 1), 6)], 30, 1);
    let (step, rounding) = (&model.choice.steps[0], model.choice.carrier_rounding);
    let Candidate { geometry, input, ring, .. } = model.candidates[0];
    let window = Window::own(StepId(1), &geometry);
    let with = |layer, rounding| {
        ReplyStep::new(StepId(1), layer, rounding, (&geometry, window), (input, ring))
    };
    assert_eq!(with(step.layer(), rounding).as_ref(), Ok(step));
    let input_rounding = step.layer().input_rounding + 1;
    assert_eq!(with(ReplyLayer { input_rounding, ..step.layer() }, rounding), Err(Unfit::Noise));
    let log_norm = step.layer().log_norm + 2;
    assert_eq!(with(ReplyLayer { log_norm, ..step.layer() }, rounding), Err(Unfit::Noise));
    assert_eq!(with(step.layer(), rounding + 2), Err(Unfit::Noise));
    assert_eq!(with(ReplyLayer { slots: 4, ..step.layer() }, rounding), Err(Unfit::Layout));
    let mut weights = model.weights[0].clone();
    weights[40] = 1 << 20;
    let (masks, mut reader) = (ReplyMasks::new(SecretSeed::new([1; 32])), Unpacker::new(&[]));
    let key = ReplyKey::read(&model.seed, rounding, &mut reader);
    let (sent, mut reply) = (step.read_upload(&mut reader), vec![]);
    let error = masks.reply(step, &weights, (&model.seed, &key), (&sent, &mut reply));
    assert!(matches!(error, Err(HintError { step: StepId(1), .. })));
    assert!(reply.is_empty(), "nothing leaves");
}

#[test]
fn rings_that_are_too_wide_are_refused_with_a_remedy() {
    let (geometry, input) = square(ConvGeometry::same(64, 64, 3, 1), 8);
    let candidate = |bits| {
        let ring = Ring::new(bits).expect("in range");
        let (step, reads) = (StepId(4), ValueId(3));
        Candidate { step, reads, geometry, input, ring, log_norm: 20 }
    };
    let error = choose_reply(&[candidate(60)]).expect_err("too wide");
    assert!(error.to_string().contains("lower ring"), "{error}");
    assert!((40..48).contains(&error.fits), "{error}");
    assert!(choose_reply(&[candidate(error.fits)]).is_ok());
}
