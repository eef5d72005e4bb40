//! `copriv bench plan`: whole plans, by kind of step and beside each other.

use super::measure;
use super::model::Model;
use super::report::{self, OnNetwork, Row};
use super::usage::Spent;
use crate::args::bench::{Common, WholePlans};
use crate::artefact::{read_hint, read_plan_folder};
use crate::format;
use crate::terminal::Terminal;
use anyhow::Result;
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{NetworkProfile, Phase, Plan, StepId, Traffic};
use copriv_runtime::ot::Prg;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const PHASES: [Phase; 2] = [Phase::Offline, Phase::Online];

pub fn run(args: &WholePlans, threads: usize, terminal: &Terminal) -> Result<()> {
    let network = args.common.network.as_deref().map(NetworkProfile::open).transpose()?;
    let mut rows = Vec::new();
    for folder in &args.plans {
        let model = open(folder)?;
        let name = match args.plans.len() {
            1 => model.plan.preset().to_owned(),
            _ => format!("{} ({})", model.plan.preset(), folder.display()),
        };
        terminal.detail(&name);
        rows.push(one(&name, &model, (&args.common, threads, network.as_ref()), terminal)?);
    }
    if args.common.json {
        return Ok(());
    }
    if rows.len() > 1 {
        terminal.data(report::table("inferences", &rows))?;
    }
    if let Some(network) = &network {
        terminal.data(network)?;
        terminal.data(report::network_table(&rows))?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Model> {
    let (plan, weights) = read_plan_folder(folder)?;
    let hint = read_hint(folder, &plan)?.map(Arc::new);
    let image = noise(&plan);
    let step = StepId(plan.steps().len().saturating_sub(1));
    Ok(Model { plan: Arc::new(plan), weights, image, step, hint })
}

/// Runs one plan and says what its kinds of steps cost; the row of the whole.
fn one(
    name: &str,
    model: &Model,
    (common, threads, network): (&Common, usize, Option<&NetworkProfile>),
    terminal: &Terminal,
) -> Result<Row> {
    let measured = measure::run(model, tolerance(model)?, threads)?;
    let on_network = network.map(|network| OnNetwork::new(model, network)).transpose()?;
    let plan = &model.plan;
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    let mut total = Kind::default();
    for step in plan.steps() {
        let kind = kinds.entry(step.op.name()).or_default();
        for kind in [kind, &mut total] {
            kind.steps += 1;
            for (place, phase) in PHASES.into_iter().enumerate() {
                kind.traffic[place] += measured.comm.traffic(step.id, phase);
                kind.spent[place] += measured.spent(step.id, phase);
            }
        }
    }
    let Kind { traffic, spent, .. } = total;
    let row = Row::of(name, (&PHASES, 1.0), (traffic, spent), measured.peak, on_network);
    let row = Row { hint: model.hint_bytes(), ..row };
    if common.json {
        let params = json!({ "plan": plan.digest(), "network_name": plan.network() });
        terminal.data(row.json("plan", &params))?;
        return Ok(row);
    }
    let kinds = kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind));
    let cells = kinds.chain([("total".to_owned(), total)]).map(|(name, kind)| kind.cells(name));
    let header = [
        "step",
        "count",
        "offline",
        "online",
        "CPU offline",
        "CPU online",
        "wall",
        "waiting offline",
        "waiting online",
    ];
    terminal.data(name)?;
    terminal.data(format::table(header.map(str::to_owned).to_vec(), cells, 1..9))?;
    if let Some(hint) = row.hint {
        let hint = format::mebibytes(hint);
        terminal.data(format_args!("hint, downloaded once by each client: {hint}"))?;
    }
    if let Some(peak) = measured.peak {
        let peak = format::mebibytes(peak);
        terminal.data(format_args!("peak memory of both parties and the model: {peak}"))?;
    }
    Ok(row)
}

/// All steps of a kind together.
#[derive(Default)]
struct Kind {
    steps: usize,
    /// Offline, online.
    traffic: [Traffic; 2],
    spent: [Spent; 2],
}

impl Kind {
    fn cells(&self, name: String) -> Vec<String> {
        let [offline, online] = self.traffic;
        let seconds = |seconds: f64| format!("{seconds:.3} s");
        vec![
            name,
            self.steps.to_string(),
            format::mebibytes(offline.bytes()),
            format::mebibytes(online.bytes()),
            seconds(self.spent[0].cpu),
            seconds(self.spent[1].cpu),
            seconds(self.spent.iter().map(|spent| spent.wall).sum()),
            report::waiting(&self.spent[0]),
            report::waiting(&self.spent[1]),
        ]
    }
}

/// How far logits may lie from those in the clear: twice as far as chance takes these apart from each other, so not at
/// all where no step of the plan rounds at random.
fn tolerance(model: &Model) -> Result<u64> {
    const SEEDS: u64 = 8;
    let logits = |seed| -> Result<Vec<i64>> {
        let evaluator = PlanEvaluator::new(&model.plan, &model.weights)?.with_seed(seed);
        Ok(evaluator.run(&model.image))
    };
    let all = (0..SEEDS).map(logits).collect::<Result<Vec<_>>>()?;
    let apart = |place: usize| {
        let (min, max) = all
            .iter()
            .map(|logits| logits[place])
            .fold((i64::MAX, i64::MIN), |(min, max), logit| (min.min(logit), max.max(logit)));
        max.abs_diff(min)
    };
    Ok(2 * (0..all[0].len()).map(apart).max().unwrap_or(0))
}

/// A normalised image of noise.
fn noise(plan: &Plan) -> Vec<f32> {
    let mut random = Prg::from_seed(b"images of noise.");
    let pixel = || (random.next_u64() % 4096) as f32 / 1024.0 - 2.0;
    std::iter::repeat_with(pixel).take(plan.input().shape.elements()).collect()
}
