//! Lattice correlations of whole networks: bytes, processor time of both parties, and whether all outputs are exact.
//!
//! `cargo run --release -p copriv-ir --example lattice -- [RING BITS] [INFERENCES] [NETWORK] [EXPECTED]`; networks are
//! those of [`networks::ALL`], all but the largest by default; parameters are for clients that run `EXPECTED` inferences, 1000
//! by default. Beside them correlations with a reply of the same layers. Weights are random with a root mean square of 40. `30 53 mobilenet_v2-fused-32` checks ten million outputs.

#![allow(clippy::print_stdout, reason = "an example talks")]

#[path = "../tests/networks/mod.rs"]
mod networks;

use copriv_ir::lattice::{
    Candidate, Carrier, Choice, ClientSecrets, Hint, LatticeStep, Matrix, PublicSeed, ReplyKey,
    ReplyMasks, ReplySecret, ReplyStep, SecretSeed, Window, choose, choose_reply, server_share,
};
use copriv_ir::lowering::direct_conv;
use copriv_ir::packing::{Packer, Unpacker};
use copriv_ir::{ConvGeometry, Ring, Shape, StepId, ValueId};
use rand::{Rng as _, SeedableRng as _};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let bits = arguments.next().map_or(30, |bits| bits.parse().expect("a number of bits"));
    let inferences = arguments.next().map_or(1, |count| count.parse().expect("a number"));
    let wanted = arguments.next();
    let expected = arguments.next().map_or(1000, |count| count.parse().expect("a number"));
    for (name, layers) in networks::ALL {
        let chosen = wanted.as_ref().map_or(!name.ends_with("224"), |wanted| wanted == name);
        if chosen {
            let ring = Ring::new(bits).expect("1 to 64");
            measure(name, &layers(), ring, (inferences, expected));
        }
    }
}

fn measure(
    name: &str,
    layers: &[(ConvGeometry, Shape)],
    ring: Ring,
    (inferences, expected): (u64, u64),
) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut weigh = |geometry: &ConvGeometry| -> Vec<i64> {
        (0..geometry.weight_elements()).map(|_| rng.random_range(-69..=69)).collect()
    };
    let weights: Vec<_> = layers.iter().map(|(geometry, _)| weigh(geometry)).collect();
    let candidate = |(i, &(geometry, input)): (usize, &(ConvGeometry, Shape))| {
        let squares = |w: &[i64]| w.iter().map(|w| w * w).sum::<i64>().cast_unsigned();
        let most = weights[i].chunks(geometry.fan_in()).map(squares).max().unwrap_or(1);
        let log_norm = most.next_power_of_two().ilog2();
        let (step, reads) = (StepId(i), ValueId(i));
        Candidate { step, reads, geometry, input, ring, log_norm }
    };
    let candidates: Vec<_> = layers.iter().enumerate().map(candidate).collect();
    let choice = match choose(&candidates, expected) {
        Ok(choice) => choice,
        Err(error) => return println!("{name}: {error}"),
    };
    let shared = choice.shared;
    let step = |(c, layer): (&Candidate, &_)| {
        let kernel = (&c.geometry, Window::own(c.step, &c.geometry));
        LatticeStep::new(c.step, *layer, shared, kernel, (c.input, ring)).expect("it was chosen")
    };
    let steps: Vec<_> = candidates.iter().zip(&choice.layers).map(step).collect();
    let widths = steps.iter().map(LatticeStep::own_bits);
    println!(
        "{name}, {ring}: {}, {} secrets, {}-{} bits an input; up {:.3} MB, hint {:.1} MB",
        shared.set,
        shared.secrets,
        widths.clone().min().unwrap_or(0),
        widths.max().unwrap_or(0),
        choice.upload as f64 / 1e6,
        choice.hint as f64 / 1e6
    );
    let (seed, secret) = (PublicSeed::new([3; 32]), SecretSeed::new([4; 32]));
    let all: Vec<_> = weights.iter().map(Vec::as_slice).collect();
    let mut clock = Clock::new();
    let hint = Hint::compute(&seed, &secret, &steps, &all).expect("within the norm");
    println!("  hint: {}", clock.lap());
    let mut sums = [0, 0];
    for number in 0..inferences {
        let mut inference = [77; 32];
        inference[..8].copy_from_slice(&number.to_le_bytes());
        let inference = (SecretSeed::new(inference), &hint);
        let found = infer(&steps, &weights, (&seed, &secret), inference, &mut clock);
        sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
    }
    let [wrong, outputs] = sums;
    println!("  all: {wrong} of {outputs} outputs wrong");
    reply(&candidates, &weights, (&choice, expected));
}

/// The same with a reply, once.
fn reply(candidates: &[Candidate], weights: &[Vec<i64>], (hinted, expected): (&Choice, u64)) {
    let choice = match choose_reply(candidates) {
        Ok(choice) => choice,
        Err(error) => return println!("  {error}"),
    };
    let seed = PublicSeed::new([5; 32]);
    let secret = ReplySecret::new(SecretSeed::new([6; 32]), choice.carrier_rounding);
    let masks = ReplyMasks::new(SecretSeed::new([7; 32]));
    let (mut key, mut clock) = (None, Clock::new());
    let (mut up, mut down, mut wrong, mut uploading, mut serving, mut reading) =
        (0, 0, 0, 0.0, 0.0, 0.0);
    for (step, (c, weights)) in choice.steps.iter().zip(candidates.iter().zip(weights)) {
        let mut message = Packer::default();
        clock.lap();
        if key.is_none() {
            secret.carrier(&seed, &mut message);
        }
        let mask = secret.upload(step, &seed, &mut message);
        let message = message.finish();
        uploading += clock.lap().cpu;
        let (mut reader, mut reply) = (Unpacker::new(&message), vec![]);
        let key = &*key
            .get_or_insert_with(|| ReplyKey::read(&seed, choice.carrier_rounding, &mut reader));
        let upload = step.read_upload(&mut reader);
        let server = masks.reply(step, weights, (&seed, key), (&upload, &mut reply));
        let server = server.expect("within the norm");
        serving += clock.lap().cpu;
        let client = secret.share(step, &reply);
        reading += clock.lap().cpu;
        let exact = direct_conv(c.ring, &c.geometry, c.input, &mask, weights);
        let sums = server.iter().zip(&*client).map(|(&s, &t)| c.ring.add(s, t));
        wrong += sums.zip(&exact).filter(|(sum, exact)| sum != *exact).count();
        (up, down) = (up + message.len(), down + reply.len());
    }
    let cheaper = choice.steps.iter().zip(&hinted.prices).filter(|(step, (upload, hint))| {
        step.upload_bytes(false) + step.reply_bytes() < upload + hint / expected
    });
    let products: u64 = choice.steps.iter().map(ReplyStep::products).sum();
    println!(
        "  with a reply: up {:.3} MB, down {:.3} MB; client sends in {uploading:.3} s and reads in {reading:.3} s, \
         server {serving:.3} s ({products} products); {wrong} wrong; cheaper than the hint for {} of {} layers",
        up as f64 / 1e6,
        down as f64 / 1e6,
        cheaper.count(),
        candidates.len()
    );
}

fn infer(
    steps: &[LatticeStep],
    weights: &[Vec<i64>],
    (seed, secret): (&PublicSeed, &SecretSeed),
    (inference, hint): (SecretSeed, &Hint),
    clock: &mut Clock,
) -> [usize; 2] {
    clock.lap();
    let shared = steps[0].shared();
    let matrix = Matrix::new(shared.set, seed);
    let mut secrets = ClientSecrets::draw(inference, shared, steps, hint).expect("fit for use");
    let (drawn, mut uploading, mut serving) = (clock.lap(), 0.0, 0.0);
    let mut carriers: Vec<Option<Carrier>> = (0..shared.secrets).map(|_| None).collect();
    let (mut wrong, mut outputs, mut bytes) = (0, 0, 0);
    for (number, (step, weights)) in steps.iter().zip(weights).enumerate() {
        clock.lap();
        let mut message = Packer::default();
        let mut fresh: Vec<_> =
            (0..step.layout().tiles().len()).map(|t| step.secret_of(t)).collect();
        fresh.retain(|&secret| carriers[secret].is_none());
        fresh.iter().for_each(|&s| secrets.carrier(s, shared, &matrix, &mut message));
        let mask = secrets.upload(step, seed, &mut message);
        let message = message.finish();
        uploading += clock.lap().cpu;
        let mut reader = Unpacker::new(&message);
        fresh.iter().for_each(|&s| carriers[s] = Some(Carrier::read(shared, &mut reader)));
        let upload = step.read_upload(&mut reader);
        let share = server_share(step, weights, secret, &carriers, &upload);
        serving += clock.lap().cpu;
        let (ring, layout) = (step.ring(), step.layout());
        let expected = direct_conv(ring, layout.geometry(), layout.input(), &mask, weights);
        let sums = share
            .iter()
            .zip(&*secrets.take_share(number))
            .map(|(&s, &t)| ring.add(s, t))
            .collect::<Vec<_>>();
        wrong += sums.iter().zip(&expected).filter(|(a, b)| a != b).count();
        outputs += sums.len();
        bytes += message.len();
    }
    println!(
        "  inference: {bytes} bytes; client draws {} secrets in {drawn}, uploads in {uploading:.3} s, server {serving:.3} s; \
         {wrong} of {outputs} wrong",
        secrets.draws()
    );
    [wrong, outputs]
}

/// Processor time of this process.
struct Clock(f64, std::time::Instant);

struct Lap {
    cpu: f64,
    wall: f64,
}

impl Clock {
    fn new() -> Self {
        Self(cpu_seconds(), std::time::Instant::now())
    }

    fn lap(&mut self) -> Lap {
        let now = Self::new();
        let lap = Lap { cpu: now.0 - self.0, wall: (now.1 - self.1).as_secs_f64() };
        *self = now;
        lap
    }
}

impl std::fmt::Display for Lap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} CPU s ({:.3} s)", self.cpu, self.wall)
    }
}

/// Nanoseconds on a processor, of all threads, as Linux keeps them; zero elsewhere.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let time = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(time).sum::<f64>() / 1e9
}
