//! Correlations as a whole, at the parameters of production and at worse ones.

use super::choose::Group;
use super::factors::Factors;
use super::server::evaluate;
use super::ternary::Ternary;
use super::*;
use crate::lowering::direct_conv;
use crate::packing::{Packer, Unpacker};
use crate::{ConvGeometry, Ring, Shape, StepId, ValueId};
use rand::{Rng as _, SeedableRng as _};

/// A few layers with weights, parameters and hint.
struct Model {
    candidates: Vec<Candidate>,
    weights: Vec<Vec<i64>>,
    choice: Choice,
    steps: Vec<LatticeStep>,
    seed: PublicSeed,
    secret: SecretSeed,
    hint: Hint,
}

/// What one inference made.
struct Made {
    masks: Vec<Vec<u64>>,
    client: Vec<Vec<u64>>,
    server: Vec<Vec<u64>>,
    messages: Vec<Vec<u8>>,
    draws: u64,
}

impl Model {
    fn new(layers: &[(ConvGeometry, Shape)], bits: u32, number: u8) -> Self {
        Self::for_inferences(100, layers, bits, number)
    }

    fn for_inferences(
        inferences: u64,
        layers: &[(ConvGeometry, Shape)],
        bits: u32,
        number: u8,
    ) -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(u64::from(number));
        let ring = Ring::new(bits).expect("in range");
        let weigh = |geometry: &ConvGeometry| -> Vec<i64> {
            (0..geometry.weight_elements()).map(|_| rng.random_range(-70..=70)).collect()
        };
        let weights: Vec<_> = layers.iter().map(|(geometry, _)| geometry).map(weigh).collect();
        let candidates: Vec<_> = (layers.iter().zip(&weights).enumerate())
            .map(|(i, (&(geometry, input), weights))| {
                let log_norm = log_norm(&geometry, weights);
                let (step, reads) = (StepId(3 * i + 1), ValueId(3 * i));
                Candidate { step, reads, geometry, input, ring, log_norm }
            })
            .collect();
        let choice = choose(&candidates, inferences).expect("parameters");
        Self::with(candidates, weights, choice, number)
    }

    fn with(
        candidates: Vec<Candidate>,
        weights: Vec<Vec<i64>>,
        choice: Choice,
        number: u8,
    ) -> Self {
        let steps: Vec<_> = (candidates.iter().zip(&choice.layers))
            .map(|(c, layer)| {
                let mut groups = Group::all(&candidates).into_iter();
                let group = groups.find(|g| g.candidates.contains(c)).expect("in one");
                let (kernel, place) = ((&c.geometry, group.window), (c.input, c.ring));
                LatticeStep::new(c.step, *layer, choice.shared, kernel, place).expect("fits")
            })
            .collect();
        let (seed, secret) = (PublicSeed::new([number; 32]), SecretSeed::new([number ^ 99; 32]));
        let all: Vec<_> = weights.iter().map(Vec::as_slice).collect();
        let hint = Hint::compute(&seed, &secret, &steps, &all).expect("within the norm");
        Self { candidates, weights, choice, steps, seed, secret, hint }
    }

    /// An inference, as the runtime does it: carriers travel with the first step that needs them.
    fn infer(&self, number: u8) -> Made {
        let (shared, seed) = (self.choice.shared, SecretSeed::new([number; 32]));
        let secrets = ClientSecrets::draw(seed, shared, &self.steps, &self.hint);
        let mut secrets = secrets.expect("fit for use");
        let matrix = Matrix::new(shared.set, &self.seed);
        let mut carriers: Vec<Option<Carrier>> = (0..shared.secrets).map(|_| None).collect();
        let (draws, mut uploads) = (secrets.draws(), vec![]);
        let mut made =
            Made { masks: vec![], client: vec![], server: vec![], messages: vec![], draws };
        for (i, (step, weights)) in self.steps.iter().zip(&self.weights).enumerate() {
            if step.is_shared() {
                let source = self.steps.iter().position(|s| s.id() == step.source());
                let source = source.expect("it came before");
                let share = server_share(step, weights, &self.secret, &carriers, &uploads[source]);
                made.server.push(share.to_vec());
                made.client.push(secrets.take_share(i).to_vec());
                made.masks.push(made.masks[source].clone());
                uploads.push(step.read_upload(&mut Unpacker::new(&[])));
                continue;
            }
            let mut packer = Packer::default();
            let mut used: Vec<_> =
                (0..step.layout().tiles().len()).map(|t| step.secret_of(t)).collect();
            used.retain(|&secret| carriers[secret].is_none());
            used.iter().for_each(|&s| secrets.carrier(s, shared, &matrix, &mut packer));
            made.masks.push(secrets.upload(step, &self.seed, &mut packer).to_vec());
            made.client.push(secrets.take_share(i).to_vec());
            let message = packer.finish();
            let bits = used.len() as u64 * step.carrier_bits() + step.upload_bits();
            assert_eq!(message.len() as u64, bits.div_ceil(8), "as predicted");
            let mut unpacker = Unpacker::new(&message);
            used.iter().for_each(|&s| carriers[s] = Some(Carrier::read(shared, &mut unpacker)));
            let upload = step.read_upload(&mut unpacker);
            let share = server_share(step, weights, &self.secret, &carriers, &upload);
            made.server.push(share.to_vec());
            made.messages.push(message);
            uploads.push(upload);
        }
        made
    }

    /// Outputs of an inference in which the shares are wrong, and all outputs.
    fn wrong(&self, made: &Made) -> (usize, usize) {
        let (mut wrong, mut all) = (0, 0);
        for (i, candidate) in self.candidates.iter().enumerate() {
            let Candidate { ring, geometry, input, .. } = candidate;
            let expected = direct_conv(*ring, geometry, *input, &made.masks[i], &self.weights[i]);
            let sums = made.server[i].iter().zip(&made.client[i]).map(|(&s, &t)| ring.add(s, t));
            wrong += sums.zip(&expected).filter(|(sum, expected)| sum != *expected).count();
            all += expected.len();
        }
        (wrong, all)
    }
}

pub(super) fn log_norm(geometry: &ConvGeometry, weights: &[i64]) -> u32 {
    let squares = |channel: &[i64]| channel.iter().map(|w| w * w).sum::<i64>().cast_unsigned();
    let most = weights.chunks(geometry.fan_in()).map(squares).max().unwrap_or(1);
    most.max(1).next_power_of_two().ilog2()
}

pub(super) fn square(geometry: ConvGeometry, size: usize) -> (ConvGeometry, Shape) {
    (geometry, Shape::new(geometry.in_channels, size, size))
}

/// Every kind of layer of the usual networks at 32 pixels, with few output channels.
pub(super) fn usual_layers() -> Vec<(ConvGeometry, Shape)> {
    let conv = ConvGeometry::same;
    vec![
        square(conv(3, 6, 3, 1), 32),  // stems
        square(conv(16, 4, 3, 1), 32), // ResNet-32
        square(conv(16, 4, 3, 2), 32),
        square(conv(16, 4, 1, 2), 32),
        square(conv(32, 4, 3, 1), 16),
        square(conv(64, 4, 3, 2), 16), // ResNet-18
        square(conv(64, 4, 1, 2), 16),
        square(conv(128, 4, 3, 1), 8),
        square(conv(256, 4, 3, 2), 8),
        square(conv(512, 4, 3, 1), 4),
        square(conv(512, 10, 1, 1), 1),
        square(conv(24, 4, 3, 2), 16), // MobileNetV2, fused
        square(conv(96, 4, 3, 1), 8),
        square(conv(160, 4, 3, 1), 4),
        square(conv(320, 6, 1, 1), 4),
        square(conv(1280, 10, 1, 1), 1),
        square(conv(32, 6, 1, 1), 32), // MobileNetV2, unfused
        square(ConvGeometry::depthwise(6, 3, 1), 32),
        square(ConvGeometry::depthwise(9, 3, 2), 16),
        square(ConvGeometry::depthwise(30, 3, 1), 4),
    ]
}

#[test]
fn all_layers_of_the_usual_networks_are_exact() {
    for bits in [27, 41] {
        let model = Model::new(&usual_layers(), bits, bits as u8);
        let expected = if bits > 33 { LatticeSet::R512x6 } else { LatticeSet::R512x5 };
        assert_eq!(model.choice.shared.set, expected);
        let made = model.infer(1);
        assert_eq!(model.wrong(&made).0, 0, "{bits} bits");
    }
}

#[test]
fn outputs_that_share_a_polynomial_are_exact_and_make_the_hint_smaller() {
    let conv = ConvGeometry::same;
    let layers = [
        square(conv(30, 11, 3, 1), 4),
        square(conv(20, 16, 3, 2), 8),
        square(conv(40, 30, 1, 1), 4),
        square(conv(9, 7, 1, 2), 8),
        square(ConvGeometry::depthwise(13, 3, 1), 4),
        square(conv(200, 33, 1, 1), 1),
        square(conv(3, 4, 3, 1), 32),
    ];
    for (bits, number) in [(27, 1), (40, 2)] {
        let models = [1, 1000].map(|n| Model::for_inferences(n, &layers, bits, number));
        let slots = |model: &Model| -> Vec<u32> {
            model.choice.layers.iter().map(|layer| layer.slots).collect()
        };
        assert_eq!(slots(&models[1]), [1; 7]);
        assert!(slots(&models[0])[..6].iter().all(|slots| *slots > 1), "{:?}", slots(&models[0]));
        let [once, often] = models.each_ref().map(|m| (m.choice.upload, m.choice.hint));
        assert!(once.0 > often.0 && 2 * (once.0 + once.1) < often.0 + often.1);
        for model in &models {
            assert_eq!(model.hint.size() as u64, model.choice.hint);
            let made = model.infer(3);
            assert_eq!(model.wrong(&made).0, 0);
        }
    }
}

#[test]
fn layers_that_read_one_value_share_its_upload() {
    let conv = ConvGeometry::same;
    let layers = [
        square(conv(24, 5, 3, 2), 8),
        square(conv(24, 7, 1, 2), 8),
        square(conv(24, 6, 3, 1), 8),
        square(conv(9, 4, 1, 2), 32),
        square(conv(9, 6, 3, 2), 32),
        square(conv(9, 6, 5, 2), 32),
    ];
    for (inferences, bits, number) in [(1, 27, 1), (1000, 40, 2)] {
        let alone = Model::for_inferences(inferences, &layers, bits, number);
        let mut candidates = alone.candidates.clone();
        candidates[..3].iter_mut().for_each(|c| c.reads = ValueId(100));
        candidates[3..].iter_mut().for_each(|c| c.reads = ValueId(101));
        let choice = choose(&candidates, inferences).expect("parameters");
        assert!(choice.upload < alone.choice.upload, "fewer bytes");
        let model = Model::with(candidates, alone.weights.clone(), choice, number);
        let sources: Vec<usize> = model.steps.iter().map(|step| step.source().0).collect();
        // A stride of its own makes the third read by itself.
        assert_eq!(sources, [1, 1, 7, 10, 10, 10]);
        let uploads = model.choice.prices.iter().map(|(upload, _)| *upload > 0);
        assert_eq!(uploads.collect::<Vec<_>>(), [true, false, true, true, false, false]);
        let made = model.infer(3);
        assert_eq!(made.messages.len(), 3);
        assert_eq!((model.wrong(&made).0, model.hint.size() as u64), (0, model.choice.hint));
    }
}

#[test]
fn large_maps_in_tiles_are_exact() {
    let layers = [
        square(ConvGeometry::same(3, 2, 3, 2), 224),
        square(ConvGeometry::same(3, 1, 7, 2), 112),
        square(ConvGeometry::same(8, 2, 1, 1), 56),
        square(ConvGeometry::depthwise(3, 3, 2), 112),
        square(ConvGeometry::same(5, 2, 3, 1), 28),
    ];
    let model = Model::new(&layers, 28, 5);
    assert!(model.choice.shared.secrets > 50);
    assert_eq!(model.wrong(&model.infer(2)).0, 0);
}

#[test]
fn a_million_outputs_are_exact_and_secrets_are_drawn_as_often_as_predicted() {
    let layers = [
        square(ConvGeometry::same(8, 150, 3, 1), 20),
        square(ConvGeometry::same(40, 500, 3, 1), 7),
    ];
    let model = Model::new(&layers, 29, 7);
    let mut risks = vec![0.0; model.choice.shared.secrets as usize];
    model.steps.iter().flat_map(|step| step.risks()).for_each(|(s, risk)| risks[s] += risk);
    // Norms are rounded up and weights differ, but each secret's noise bound is what is tested against.
    let expected: f64 = risks.iter().map(|risk| risk.exp()).sum();
    let (mut all, mut draws, mut tries) = (0, 0, 0);
    for number in 0..13 {
        let made = model.infer(number);
        let (wrong, outputs) = model.wrong(&made);
        assert_eq!(wrong, 0);
        all += outputs;
        draws += made.draws;
        tries += 1;
    }
    assert!(all > 1_000_000, "{all}");
    let ratio = draws as f64 / (f64::from(tries) * expected);
    assert!((0.6..1.5).contains(&ratio), "{draws} draws, {} expected", f64::from(tries) * expected);
}

/// Differences `Z - G - W (*) R q / 2^l` of one layer, with `G mod q / 2^l`, whatever the risk.
fn noise(model: &Model, number: u8) -> Vec<(i64, u64, bool)> {
    let (step, shared) = (&model.steps[0], model.choice.shared);
    let secrets = ClientSecrets::undrawn(SecretSeed::new([number; 32]), shared);
    let matrix = Matrix::new(shared.set, &model.seed);
    let mut packer = Packer::default();
    secrets.carrier(0, shared, &matrix, &mut packer);
    let mask = secrets.upload(step, &model.seed, &mut packer);
    let message = packer.finish();
    let mut unpacker = Unpacker::new(&message);
    let carriers = [Some(Carrier::read(shared, &mut unpacker))];
    let upload = step.read_upload(&mut unpacker);
    let z = evaluate(step, &model.weights[0], &model.secret, (&carriers, &upload), |z| z as u64);
    let Candidate { ring, geometry, input, .. } = model.candidates[0];
    let exact = direct_conv(ring, &geometry, input, &mask, &model.weights[0]);
    let gap = step.gap_bits();
    let mut all = Vec::new();
    let layout = step.layout();
    let tile = &layout.tiles()[0];
    for channel in 0..geometry.out_channels {
        let span = layout.span(tile);
        let factors = Factors::new(shared.set, model.hint.polynomial(step, channel), span);
        let secret: &Ternary = secrets.ternary(0);
        let g = factors.product(shared.set, secret, layout.first_output(0), span);
        for (at, position) in layout.offsets(tile).zip(layout.positions(tile)) {
            let place = channel * tile.outputs() + position;
            let (z, g) = (z[place], g[at] as u64);
            let noise = z.wrapping_sub(g).wrapping_sub(exact[place] << gap).cast_signed();
            let sum = ring.add(ring.reduce(z >> gap), ring.neg(g >> gap));
            all.push((noise, g & ((1 << gap) - 1), sum != exact[place]));
        }
    }
    all
}

#[test]
fn noise_is_as_large_as_its_formula_says() {
    for (number, geometry) in
        [(1, ConvGeometry::same(24, 40, 3, 1)), (2, ConvGeometry::same(200, 64, 1, 1))]
    {
        let model = Model::new(&[square(geometry, 8)], 30, number);
        let all = noise(&model, number);
        let mean = all.iter().map(|(noise, ..)| *noise as f64).sum::<f64>() / all.len() as f64;
        let square: f64 = all.iter().map(|(noise, ..)| (*noise as f64).powi(2)).sum();
        let found = (square / all.len() as f64).sqrt();
        // The bound on the norm is a power of two; the formula is held to the weights' own norm.
        let norm: f64 = model.weights[0].iter().map(|w| (w * w) as f64).sum();
        let norm =
            (norm / geometry.out_channels as f64 / f64::from(model.candidates[0].log_norm).exp2())
                .sqrt();
        let expected = model.steps[0].deviation() * norm;
        assert!((found / expected - 1.0).abs() < 0.15, "{found} for {expected}");
        assert!(mean.abs() < 0.15 * found, "{mean} in {found}");
    }
}

#[test]
fn gaps_that_are_too_small_err_as_predicted_and_every_error_is_at_risk() {
    let base = Model::new(&[square(ConvGeometry::same(24, 60, 3, 1), 8)], 30, 3);
    for rounding in [16, 20] {
        let mut choice = base.choice.clone();
        choice.shared.secrets = 1;
        choice.layers[0].first_secret = 0;
        choice.layers[0].input_rounding = rounding;
        let model = Model::with(base.candidates.clone(), base.weights.clone(), choice, 3);
        let all = noise(&model, 3);
        let deviation =
            (all.iter().map(|(e, ..)| (*e as f64).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        let gap = f64::from(model.steps[0].gap_bits()).exp2();
        let expected = all.len() as f64 * 0.8 * deviation / gap;
        let wrong = all.iter().filter(|(.., wrong)| *wrong).count() as f64;
        assert!((wrong - expected).abs() < 5.0 * expected.sqrt() + 2.0, "{wrong} for {expected}");
        let margin = model.steps[0].margin() as f64;
        let safe = |g: u64| (margin..=gap - 1.0 - margin).contains(&(g as f64));
        assert!(all.iter().all(|&(_, g, wrong)| !(wrong && safe(g))), "flagged");
    }
}

/// The chi-square statistic of the bytes, less its mean, in its standard deviations.
pub(super) fn chi_square(bytes: &[u8]) -> f64 {
    let mut counts = [0f64; 256];
    bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1.0);
    let expected = bytes.len() as f64 / 256.0;
    let statistic: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    (statistic - 255.0) / (2.0 * 255f64).sqrt()
}

#[test]
fn uploads_masks_and_hints_look_uniform() {
    let layers =
        [square(ConvGeometry::same(64, 16, 3, 1), 8), square(ConvGeometry::same(16, 8, 1, 1), 16)];
    let model = Model::new(&layers, 32, 11);
    let made = model.infer(4);
    assert!(made.messages.iter().all(|message| chi_square(message).abs() < 5.0));
    let masks: Vec<u8> =
        made.masks.iter().flatten().flat_map(|r| (*r as u32).to_le_bytes()).collect();
    assert!(chi_square(&masks).abs() < 5.0);
    let zero = model.weights.iter().map(|weights| vec![0; weights.len()]).collect();
    let blank = Model::with(model.candidates.clone(), zero, model.choice.clone(), 11);
    for hint in [&model.hint, &blank.hint] {
        assert!(chi_square(&hint.content()[100..]).abs() < 5.0);
    }
    assert_ne!(model.infer(5).messages, made.messages, "another seed, another upload");
}

#[test]
fn damaged_and_foreign_hints_are_refused() {
    let layers = [square(ConvGeometry::same(4, 3, 3, 1), 6)];
    let (model, other) = (Model::new(&layers, 30, 1), Model::new(&layers, 30, 2));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hint.bin");
    let read = || Hint::read(&path, &model.seed, &model.steps, model.hint.digest());
    model.hint.write(&path).expect("written");
    assert_eq!(crate::ArtefactKind::of_file(&path).ok(), Some(crate::ArtefactKind::Hint));
    assert_eq!(read().expect("its own"), model.hint);
    assert_eq!(model.hint.size() as u64, Hint::predicted_size(&model.steps));
    let bytes = std::fs::read(&path).expect("readable");
    let text = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        read().expect_err("refused").to_string()
    };
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert!(text(&flipped(0)).contains("is no CoPriv artefact"));
    assert!(text(&flipped(8)).contains("format version"));
    assert!(text(&flipped(20)).contains("another plan"));
    assert!(text(&flipped(bytes.len() - 1)).contains("digest"));
    assert!(text(&bytes[..bytes.len() - 1]).contains("size"));
    assert!(text(other.hint.content()).contains("another plan"));
    assert!(text(b"{}").contains("hint"));
}

#[test]
fn weights_beyond_the_norm_are_refused() {
    let model = Model::new(&[square(ConvGeometry::same(4, 3, 3, 1), 6)], 30, 1);
    let mut weights = model.weights[0].clone();
    weights[40] = 1 << 20;
    let error = Hint::compute(&model.seed, &model.secret, &model.steps, &[&weights]);
    assert_eq!(error, Err(HintError { step: StepId(1), channel: 1 }));
}

/// A plan of them would be refused otherwise.
#[test]
fn small_rings_are_rounded_no_more_than_plans_may_be() {
    let mut most = 0;
    for (bits, log_norm) in (4..=12).flat_map(|bits| [0, 4, 20].map(|norm| (bits, norm))) {
        let geometry = ConvGeometry::same(2, 3, 3, 1);
        let ring = Ring::new(bits).expect("in range");
        let (input, step, reads) = (Shape::new(2, 8, 8), StepId(1), ValueId(0));
        let candidate = Candidate { step, reads, geometry, input, ring, log_norm };
        let Ok(choice) = choose(&[candidate], 1) else { continue };
        let LatticeLayer { input_rounding, hint_rounding, .. } = choice.layers[0];
        let roundings = [input_rounding, hint_rounding, choice.shared.carrier_rounding];
        most = roundings.into_iter().fold(most, u32::max);
    }
    assert_eq!(most, LatticeLayer::MOST_ROUNDING, "as far as they may");
}

#[test]
fn rings_that_no_set_holds_are_refused_with_a_remedy() {
    let (geometry, input) = square(ConvGeometry::same(64, 64, 3, 1), 8);
    let candidate = |bits| {
        let ring = Ring::new(bits).expect("in range");
        let (step, reads) = (StepId(4), ValueId(3));
        Candidate { step, reads, geometry, input, ring, log_norm: 20 }
    };
    let error = choose(&[candidate(60)], 1).expect_err("too wide");
    assert!(error.to_string().contains("lower ring"), "{error}");
    assert!((40..50).contains(&error.fits), "{error}");
    assert!(choose(&[candidate(error.fits)], 1).is_ok());
}
