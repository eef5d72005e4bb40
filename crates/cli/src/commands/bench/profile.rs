//! `copriv bench profile`: how fast this machine computes, as a network profile for `copriv compile --network`.

use super::measure::{self, Measured};
use super::model::Model;
use crate::args::bench::Profile;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result};
use copriv_ir::cost::{self, Work};
use copriv_ir::{
    Activation, Comparison, ComputeRates, ConvGeometry, Correlation, LinearStep, Lowering,
    NetworkProfile, OtKind, Party, Phase, Shape, StepOp,
};

/// Bits of the ring that is measured in.
const BITS: u32 = 24;

pub fn run(args: &Profile, terminal: &Terminal) -> Result<()> {
    let network = NetworkProfile::open(&args.network)?;
    let mut rates = network.compute().clone();
    for kind in OtKind::ALL {
        terminal.detail(kind);
        comparisons(kind, args.elements, &mut rates)?;
    }
    terminal.detail("vectors");
    linear(Shape::vector(1024), ConvGeometry::fully_connected(1024, 256), &mut rates)?;
    terminal.detail("payload");
    linear(Shape::new(32, 32, 32), ConvGeometry::same(32, 32, 3, 1), &mut rates)?;
    let text = network.with_compute(rates).to_toml();
    match &args.out {
        None => terminal.data(text.trim_end())?,
        Some(path) => {
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            terminal.say(format_args!("written to  {}", path.display()));
        }
    }
    Ok(())
}

/// Rates of transfers of a kind, and of online messages, by ReLUs.
fn comparisons(kind: OtKind, elements: usize, rates: &mut ComputeRates) -> Result<()> {
    let comparison = Comparison { ot: kind, leaf_bits: 4, tables: false };
    let op = StepOp::Activation { function: Activation::Relu, comparison, mask: None };
    let model = Model::on_shares(Shape::new(1, elements, 1), BITS, vec![op])?;
    let (measured, [offline, online]) = measure(&model)?;
    let transfers = offline.transfers[kind as usize];
    let rate = transfers as f64 / cpu(&model, &measured, Phase::Offline);
    rates.transfers.insert(kind.name().into(), rate);
    rates.messages = online.messages as f64 / cpu(&model, &measured, Phase::Online);
    Ok(())
}

/// The rate of what a linear step has most of: vectors, or their bytes and multiplications. What else it does is taken off
/// by its own rate.
fn linear(input: Shape, geometry: ConvGeometry, rates: &mut ComputeRates) -> Result<()> {
    let correlation = Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Server };
    let lowering = Lowering::Direct;
    let step = LinearStep { geometry, lowering, correlation, weight_scale: 0, weight_bits: 8 };
    let model = Model::linear(input, BITS, step, 8)?;
    let (measured, [offline, online]) = measure(&model)?;
    let spent = cpu(&model, &measured, Phase::Offline);
    let is_long = offline.payload > 256 * offline.vectors;
    let others =
        if is_long { Work { payload: 0, ..offline } } else { Work { vectors: 0, ..offline } };
    // On a busy machine the rest may seem to have taken longer than all of it.
    let rest = (spent - rates.cpu_seconds(&others)).max(0.1 * spent);
    if is_long {
        rates.payload = offline.payload as f64 / rest;
        let online_rest = cpu(&model, &measured, Phase::Online);
        rates.multiplications = online.multiplications as f64 / online_rest;
    } else {
        rates.vectors = offline.vectors as f64 / rest;
    }
    Ok(())
}

/// One inference of the model, and its step's work offline and online.
fn measure(model: &Model) -> Result<(Measured, [Work; 2])> {
    let measured = measure::run(model, 0, 1)?;
    let step = &model.plan.steps()[model.step.0];
    let work =
        [Phase::Offline, Phase::Online].map(|phase| cost::step_work(&model.plan, step, phase));
    Ok((measured, work))
}

fn cpu(model: &Model, measured: &Measured, phase: Phase) -> f64 {
    // The clock may not have moved during a tiny job.
    measured.spent(model.step, phase).cpu.max(1e-4)
}
