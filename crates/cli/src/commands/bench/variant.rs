//! What each job measures: one line a variant, the published baseline first.

use super::model::Model;
use crate::args::bench::{Classes, Convolution, Elements, PoolShape, Pooling, Truncation};
use crate::format;
use anyhow::{Result, bail, ensure};
use copriv_ir::{
    Activation, Comparison, ConvGeometry, Correlation, LinearStep, Lowering, OtKind, Party, Phase,
    PoolWindow, Shape, StepOp, TruncateMethod, WinogradTile,
};
use serde_json::{Value, json};

/// One way to do a job.
pub struct Variant {
    pub name: String,
    pub model: Model,
    /// How far a result may be from that in the clear.
    pub tolerance: u64,
}

/// A job: the same work, done in several ways.
pub struct Job {
    pub name: &'static str,
    pub params: Value,
    /// Units of work, for what is done a CPU second.
    pub work: f64,
    /// What they are called.
    pub unit: &'static str,
    /// The phases that count.
    pub phases: &'static [Phase],
    /// The baseline first.
    pub variants: Vec<Variant>,
}

const BOTH: &[Phase] = &[Phase::Offline, Phase::Online];

/// Correlated transfers: a matrix of weights times a vector, the server choosing by the bits of the weights. As many bits as
/// the ring allows up to eight, so that what a weight costs beside its transfers counts little.
pub fn ot(args: &Elements) -> Result<Job> {
    ensure!(args.elements > 0, "--elements must be at least 1");
    let weight_bits = args.bits.clamp(1, 8);
    let weights = args.elements.div_ceil(weight_bits as usize);
    let inner = weights.min(1024);
    let outputs = weights.div_ceil(inner);
    let variants = OtKind::ALL.map(|kind| {
        let correlation = Correlation::Ot { kind, chooser: Party::Server };
        let (geometry, lowering) =
            (ConvGeometry::fully_connected(inner, outputs), Lowering::Direct);
        let step = LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits };
        let model = Model::linear(Shape::vector(inner), args.bits, step, weight_bits)?;
        Ok(Variant { name: kind.to_string(), model, tolerance: 0 })
    });
    let elements = inner * outputs * weight_bits as usize;
    Ok(Job {
        name: "ot",
        params: json!({ "elements": elements, "bits": args.bits, "weight_bits": weight_bits }),
        work: elements as f64,
        unit: "OTs",
        phases: &[Phase::Offline],
        variants: variants.into_iter().collect::<Result<_>>()?,
    })
}

/// How comparisons are made: the extension, bits of a digit. CrypTFlow2's, then ours.
const COMPARISONS: [(OtKind, u32); 9] = [
    (OtKind::Iknp, 4),
    (OtKind::SoftSpoken2, 4),
    (OtKind::SoftSpoken4, 4),
    (OtKind::SoftSpoken4, 2),
    (OtKind::SoftSpoken8, 4),
    (OtKind::Silent, 4),
    (OtKind::Silent, 3),
    (OtKind::Silent, 2),
    (OtKind::Silent, 1),
];

/// The same with one-time truth tables.
const TABLES: [(OtKind, u32); 3] =
    [(OtKind::SoftSpoken4, 2), (OtKind::Silent, 2), (OtKind::Silent, 4)];

/// Comparisons with their names.
fn comparisons() -> impl Iterator<Item = (String, Comparison)> {
    COMPARISONS.into_iter().enumerate().map(|(place, (ot, leaf_bits))| {
        let name = format!("{ot}, 1-of-{} leaves", 1 << leaf_bits);
        let name = if place == 0 { format!("cryptflow2 ({name})") } else { name };
        (name, Comparison { ot, leaf_bits, tables: false })
    })
}

/// Comparisons by one-time truth tables with their names.
fn tables() -> impl Iterator<Item = (String, Comparison)> {
    TABLES.into_iter().map(|(ot, leaf_bits)| {
        let name = format!("{ot}, one-time tables of {leaf_bits} bits");
        (name, Comparison { ot, leaf_bits, tables: true })
    })
}

/// ReLU of random numbers.
pub fn relu(args: &Elements) -> Result<Job> {
    let op = |comparison| StepOp::Activation { function: Activation::Relu, comparison, mask: None };
    Ok(Job {
        name: "relu",
        params: json!({ "elements": args.elements, "bits": args.bits }),
        work: args.elements as f64,
        unit: "ReLUs",
        phases: BOTH,
        variants: by_comparison(numbers(args.elements), args.bits, op)?,
    })
}

/// The greatest of each window of a map of random numbers.
pub fn max_pool(args: &Pooling) -> Result<Job> {
    let PoolShape { channels, side, kernel, stride } = args.shape;
    let window = PoolWindow { kernel, stride, padding: kernel / 2 };
    if let Some(fault) = window.geometry(channels).fault() {
        bail!("--shape: {fault}");
    }
    let input = Shape::new(channels, side, side);
    ensure!(input.is_possible(), "--shape: {input} is no map of a sensible size");
    let variants =
        by_comparison(input, args.bits, |comparison| StepOp::MaxPool { window, comparison })?;
    let outputs = window.geometry(channels).output_shape(input).elements();
    Ok(Job {
        name: "max-pool",
        params: json!({ "shape": [channels, side, kernel, stride], "bits": args.bits }),
        work: outputs as f64,
        unit: "windows",
        phases: BOTH,
        variants,
    })
}

/// The place of the greatest of random numbers.
pub fn argmax(args: &Classes) -> Result<Job> {
    let op = |comparison| StepOp::ArgMax { comparison };
    Ok(Job {
        name: "argmax",
        params: json!({ "elements": args.elements, "bits": args.bits }),
        work: args.elements as f64,
        unit: "logits",
        phases: BOTH,
        variants: by_comparison(numbers(args.elements), args.bits, op)?,
    })
}

/// A step on shares of random numbers, with every way to compare.
fn by_comparison(
    shape: Shape,
    bits: u32,
    op: impl Fn(Comparison) -> StepOp,
) -> Result<Vec<Variant>> {
    let variants = comparisons().chain(tables()).map(|(name, comparison)| {
        let model = Model::on_shares(shape, bits, vec![op(comparison)])?;
        Ok(Variant { name, model, tolerance: 0 })
    });
    variants.collect()
}

/// So many numbers in a column.
fn numbers(elements: usize) -> Shape {
    Shape::new(1, elements, 1)
}

/// Truncation of random numbers.
pub fn truncate(args: &Truncation) -> Result<Job> {
    let Truncation { shift, elements: Elements { elements, bits, .. } } = *args;
    let mut ways: Vec<(String, Vec<StepOp>, u64)> = Vec::new();
    let by = |method| StepOp::Truncate { shift, method };
    for (name, comparison) in comparisons() {
        ways.push((format!("faithful, {name}"), vec![by(TruncateMethod::Faithful(comparison))], 0));
    }
    for ot in [OtKind::SoftSpoken4, OtKind::Silent] {
        let comparison = Comparison { ot, leaf_bits: 4, tables: false };
        let one_off = by(TruncateMethod::OneOff(comparison));
        ways.push((format!("off by one, {ot}"), vec![one_off], 1));
        // After a ReLU the sign is known.
        let relu = StepOp::Activation { function: Activation::Relu, comparison, mask: None };
        let known = by(TruncateMethod::KnownSign(ot));
        ways.push((format!("off by one, known sign, {ot}"), vec![relu, known], 1));
    }
    ways.push(("truncate and reduce, local".into(), vec![by(TruncateMethod::Reduce)], 1));
    let variants = ways.into_iter().map(|(name, ops, tolerance)| {
        Ok(Variant { name, model: Model::on_shares(numbers(elements), bits, ops)?, tolerance })
    });
    Ok(Job {
        name: "truncate",
        params: json!({ "elements": elements, "bits": bits, "shift": shift }),
        work: elements as f64,
        unit: "numbers",
        phases: BOTH,
        variants: variants.collect::<Result<_>>()?,
    })
}

/// The offline phase of a convolution.
pub fn conv(args: &Convolution) -> Result<Job> {
    let Convolution { shape, bits, weight_bits, .. } = *args;
    ensure!((1..=bits).contains(&weight_bits), "--weight-bits must be from 1 to --bits, {bits}");
    let geometry = ConvGeometry::same(shape.inputs, shape.outputs, shape.kernel, shape.stride);
    let input = Shape::new(shape.inputs, shape.side, shape.side);
    if let Some(fault) = geometry.fault() {
        bail!("--shape: {fault}");
    }
    ensure!(input.is_possible(), "--shape: {input} is no map of a sensible size");
    let winograd = [
        Lowering::Winograd(WinogradTile::F2X2_3X3),
        Lowering::Winograd(WinogradTile::F4X4_3X3),
        Lowering::WinogradStride2,
    ];
    // A filter transform makes factors of up to four bits more, for 4x4 outputs up to ten.
    let widened = |lowering| match lowering {
        Lowering::Direct => weight_bits,
        Lowering::Winograd(tile) if tile == WinogradTile::F4X4_3X3 => weight_bits + 10,
        _ => weight_bits + 4,
    };
    let (server, client) = (Party::Server, Party::Client);
    let mut ways = vec![(OtKind::Iknp, Lowering::Direct, client, bits)];
    for kind in [OtKind::Iknp, OtKind::SoftSpoken4, OtKind::Silent] {
        ways.push((kind, Lowering::Direct, server, weight_bits));
        for lowering in winograd {
            let factors = widened(lowering);
            if lowering.mat_mul(&geometry, input).is_some() && factors <= bits {
                ways.push((kind, lowering, client, factors));
                ways.push((kind, lowering, server, factors));
            }
        }
    }
    let variants = ways.into_iter().enumerate().map(|(place, way)| {
        let (kind, lowering, chooser, factors) = way;
        let choice = if chooser == server { factors } else { bits };
        let name = format!("{kind}, {lowering}, {chooser} chooses, {choice} bits");
        let name = if place == 0 { format!("cryptflow2 ({name})") } else { name };
        let correlation = Correlation::Ot { kind, chooser };
        let step =
            LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits: factors };
        let model = Model::linear(input, bits, step, weight_bits)?;
        Ok(Variant { name, model, tolerance: 0 })
    });
    let lattices = lattice(input, bits, (geometry, weight_bits))?;
    let variants = variants.chain(lattices.into_iter().map(Ok));
    let numbers = [shape.inputs, shape.outputs, shape.side, shape.kernel, shape.stride];
    Ok(Job {
        name: "conv",
        params: json!({ "shape": numbers, "bits": bits, "weight_bits": weight_bits }),
        work: geometry.multiplications(input) as f64,
        unit: "MACs",
        phases: BOTH,
        variants: variants.collect::<Result<_>>()?,
    })
}

/// The convolution with both kinds of lattice correlation, where its ring and weights leave room for them.
fn lattice(
    input: Shape,
    bits: u32,
    (geometry, weight_bits): (ConvGeometry, u32),
) -> Result<Vec<Variant>> {
    let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Client };
    let lowering = Lowering::Direct;
    let step = LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits: bits };
    let model = || Model::linear(input, bits, step, weight_bits);
    let hint = |bytes| format!("lattice, direct, after a hint of {}", format::mebibytes(bytes));
    let hinted = model()?.with_lattice()?.map(|model| {
        let name = hint(model.hint_bytes().unwrap_or_default());
        Variant { name, model, tolerance: 0 }
    });
    let replied = model()?.with_replies()?.map(|model| {
        let name = "lattice, direct, with a reply".into();
        Variant { name, model, tolerance: 0 }
    });
    Ok(hinted.into_iter().chain(replied).collect())
}
