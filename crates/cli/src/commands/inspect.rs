//! `copriv inspect`: what an artefact is.

use crate::args::Inspect;
use crate::artefact::Artefact;
use crate::commands::blocks::Blocks;
use crate::format;
use crate::terminal::Terminal;
use anyhow::{Result, ensure};
use copriv_compiler::overflows_of;
use copriv_ir::cost::stored::RECORD_HEADER;
use copriv_ir::{
    ActivationMask, Checkpoint, CommTable, Correlation, Forecast, FusedLayer, FusedModel, FusedOp,
    Gates, LinearStep, NetworkProfile, Party, Phase, Plan, Step, StepId, StepOp, Traffic, cost,
};
use copriv_runtime::store::{Contents, Ledger, RecordInfo, Store};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub fn run(args: &Inspect, terminal: &Terminal) -> Result<()> {
    if Ledger::exists(&args.artefact)? {
        return store(args, terminal);
    }
    let artefact = Artefact::open(&args.artefact)?;
    let network = args.network.as_deref().map(NetworkProfile::open).transpose()?;
    let is_plan = matches!(artefact, Artefact::Plan(_));
    ensure!(network.is_none() || is_plan, "--network says how long a plan takes; this is none");
    if args.json {
        let value = match &artefact {
            Artefact::Checkpoint(checkpoint) => checkpoint_json(checkpoint)?,
            Artefact::Fused(fused) => fused_json(fused),
            Artefact::Plan(plan) => {
                let mut value = plan_json(plan);
                if let Some(network) = &network {
                    add_forecast(&mut value, plan, network);
                }
                value
            }
        };
        terminal.data(serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    match &artefact {
        Artefact::Checkpoint(checkpoint) => {
            terminal.data(checkpoint)?;
            draw(&checkpoint_blocks(checkpoint)?, terminal)?;
        }
        Artefact::Fused(fused) => {
            terminal.data(fused)?;
            draw(&Blocks::new(fused, None), terminal)?;
            terminal.data(fused_table(fused))?;
        }
        Artefact::Plan(plan) => {
            terminal.data(plan)?;
            terminal.data(plan_table(plan, network.as_ref()))?;
            if let Some(network) = &network {
                terminal.data(network)?;
            }
            let [server, client] = [Party::Server, Party::Client]
                .map(|party| format::bytes(record_bytes(plan, party)));
            if let Some((_, summary)) = overflows_of(plan) {
                terminal.data(format_args!("overflow    {summary}"))?;
            }
            terminal.data(format_args!(
                "prepared    {server} at the server, {client} at the client, for each inference in a store"
            ))?;
        }
    }
    Ok(())
}

/// A store of prepared inferences, without its secrets.
fn store(args: &Inspect, terminal: &Terminal) -> Result<()> {
    let Contents { records, unreadable } = Store::list(&args.artefact)?;
    let bytes = |record: &RecordInfo| RECORD_HEADER + record.payload;
    let total: u64 = records.iter().map(bytes).sum();
    if args.json {
        let entry = |record: &RecordInfo| {
            json!({
                "record": record.id.to_string(),
                "number": record.number,
                "plan": record.plan,
                "party": record.party,
                "bytes": bytes(record),
            })
        };
        let entries: Vec<Value> = records.iter().map(entry).collect();
        let count = entries.len();
        let unreadable: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
        let store = json!({
            "kind": "store",
            "count": count,
            "bytes": total,
            "records": entries,
            "unreadable": unreadable,
        });
        terminal.data(serde_json::to_string_pretty(&store)?)?;
        return Ok(());
    }
    let mut plans: BTreeMap<String, (usize, u64, Party)> = BTreeMap::new();
    for record in &records {
        let plan = plans.entry(record.plan.short()).or_insert((0, 0, record.party));
        (plan.0, plan.1) = (plan.0 + 1, plan.1 + bytes(record));
    }
    terminal.data(format_args!("store       {} prepared inferences", records.len()))?;
    terminal.data(format_args!("size        {}", format::bytes(total)))?;
    let rows = plans.into_iter().map(|(plan, (count, bytes, party))| {
        vec![plan, party.to_string(), count.to_string(), format::bytes(bytes)]
    });
    terminal.data(format::table(header(&["plan", "half of", "count", "size"]), rows, [2, 3]))?;
    unreadable.iter().try_for_each(|error| terminal.data(format_args!("unreadable  {error}")))?;
    Ok(())
}

/// Bytes of a party's file for one prepared inference.
fn record_bytes(plan: &Plan, party: Party) -> u64 {
    RECORD_HEADER + cost::stored::record(plan, party)
}

fn draw(blocks: &Blocks, terminal: &Terminal) -> Result<()> {
    terminal.data(blocks.table())?;
    terminal.data(blocks.legend())?;
    Ok(())
}

/// Before and after the fusing that its gates ask for.
fn checkpoint_blocks(checkpoint: &Checkpoint) -> Result<Blocks> {
    Ok(Blocks::new(&copriv_reparam::fuse(checkpoint)?, Some(checkpoint.gates())))
}

fn checkpoint_json(checkpoint: &Checkpoint) -> Result<Value> {
    Ok(json!({
        "kind": "checkpoint",
        "digest": checkpoint.digest(),
        "network": checkpoint.network(),
        "mask": checkpoint.gates().mask(),
        "alphas": checkpoint.gates().alphas(),
        "activated": activated_in_part(checkpoint.gates()),
        "blocks": checkpoint_blocks(checkpoint)?.json(),
        "provenance": checkpoint.provenance(),
    }))
}

/// How many of how many values each activation in part applies to, and how finely they are chosen.
fn activated_in_part(gates: &Gates) -> Map<String, Value> {
    let part = |(name, mask): (&String, &ActivationMask)| {
        let (count, all, by) = (mask.count(), mask.shape().elements(), mask.granularity());
        (name.clone(), json!({ "values": count, "of": all, "by": by }))
    };
    gates.parts().iter().map(part).collect()
}

fn fused_json(fused: &FusedModel) -> Value {
    json!({
        "kind": "fused-model",
        "digest": fused.digest(),
        "network": fused.network(),
        "mask": fused.mask(),
        "blocks": Blocks::new(fused, None).json(),
        "layers": fused_layers_json(fused),
        "provenance": fused.provenance(),
    })
}

/// The layers, with how many values each activation applies to.
fn fused_layers_json(fused: &FusedModel) -> Vec<Value> {
    let layer = |layer: &FusedLayer| {
        let mut value = json!(layer);
        if matches!(layer.op, FusedOp::Activation(_)) {
            value["activated"] = json!(layer.activated());
        }
        value
    };
    fused.layers().iter().map(layer).collect()
}

fn fused_table(fused: &FusedModel) -> comfy_table::Table {
    let rows = fused.layers().iter().map(|layer| {
        let (what, mmac) = match &layer.op {
            FusedOp::Conv(geometry) => {
                let input = fused.layers()[layer.inputs[0].0].shape;
                let mmac = geometry.multiplications(input) as f64 / 1e6;
                (geometry.to_string(), format!("{mmac:.2}"))
            }
            FusedOp::Input => ("input".into(), String::new()),
            FusedOp::Activation(_) => match &layer.mask {
                Some(mask) => (format!("activation by {}", mask.granularity()), String::new()),
                None => ("activation".into(), String::new()),
            },
            FusedOp::Add => ("add".into(), String::new()),
            FusedOp::MaxPool { .. } => ("max pool".into(), String::new()),
            FusedOp::GlobalAveragePool => ("global average pool".into(), String::new()),
        };
        let relus = match layer.op {
            FusedOp::Activation(_) => layer.activated().to_string(),
            _ => String::new(),
        };
        vec![layer.name.clone(), what, layer.shape.to_string(), mmac, relus]
    });
    format::table(header(&["layer", "operation", "output", "MMAC", "ReLUs"]), rows, [3, 4])
}

/// A plan as `--json` prints it.
pub fn plan_json(plan: &Plan) -> Value {
    let comm = plan.predicted_comm();
    let ring = plan.values().iter().map(|fact| fact.ring.bits()).max();
    let steps: Vec<Value> = plan.steps().iter().map(|step| step_json(plan, step, &comm)).collect();
    json!({
        "digest": plan.digest(),
        "network": plan.network(),
        "preset": plan.preset(),
        "ring": ring,
        "hint_bytes": plan.lattice_plan().map(|lattice| lattice.hint_bytes()),
        "steps": steps,
        "overflow": overflow_json(plan),
        "total": phases_json(|phase| comm.total(phase)),
        "record": {
            "server": record_bytes(plan, Party::Server),
            "client": record_bytes(plan, Party::Client),
        },
    })
}

/// Why each value stays in its ring, and what that comes to; null where the plan does not say.
fn overflow_json(plan: &Plan) -> Value {
    let Some((values, summary)) = overflows_of(plan) else { return Value::Null };
    json!({
        "proven": summary.proven,
        "probability": summary.probability,
        "values": values,
    })
}

fn step_json(plan: &Plan, step: &Step, comm: &CommTable) -> Value {
    let fact = plan.fact(step.output);
    let weights = match &step.op {
        StepOp::Linear(linear) => {
            json!({ "bits": linear.weight_bits, "scale": linear.weight_scale })
        }
        _ => Value::Null,
    };
    let (lowering, correlation, chooser) = match &step.op {
        StepOp::Linear(linear) => {
            let (correlation, chooser) = match linear.correlation {
                Correlation::Ot { chooser, .. } => (json!("ot"), json!(chooser)),
                Correlation::Lattice(_) => (json!("lattice"), Value::Null),
                Correlation::Reply(_) => (json!("reply"), Value::Null),
            };
            (json!(linear.lowering.to_string()), correlation, chooser)
        }
        _ => (Value::Null, Value::Null, Value::Null),
    };
    json!({
        "id": step.id,
        "name": step.name,
        "op": step.op.name(),
        "activated": activated(plan, step),
        "shape": fact.shape,
        "bits": fact.ring.bits(),
        "scale": fact.scale,
        "weights": weights,
        "lowering": lowering,
        "correlation": correlation,
        "chooser": chooser,
        "comm": phases_json(|phase| comm.traffic(step.id, phase)),
    })
}

/// How many values an activation applies to; none for other steps.
fn activated(plan: &Plan, step: &Step) -> Option<usize> {
    let is_activation = matches!(step.op, StepOp::Activation { .. });
    is_activation.then(|| step.op.count(plan.fact(step.output).shape))
}

/// Adds `"network"`, and `"seconds": { phase: s }` to each step and in all.
fn add_forecast(value: &mut Value, plan: &Plan, network: &NetworkProfile) {
    let forecast = network.forecast(plan);
    let phases = |seconds: &dyn Fn(Phase) -> f64| {
        let entry = |phase: Phase| (phase.to_string(), json!(seconds(phase)));
        Value::Object(Phase::ALL.into_iter().map(entry).collect::<Map<_, _>>())
    };
    for (number, step) in value["steps"].as_array_mut().into_iter().flatten().enumerate() {
        step["seconds"] = phases(&|phase| forecast.seconds(StepId(number), phase));
    }
    value["seconds"] = phases(&|phase| forecast.total(phase));
    value["network"] = json!(network.name());
}

/// `{ phase: { "server_to_client", "client_to_server", "rounds" } }` over all phases.
pub fn phases_json(traffic: impl Fn(Phase) -> Traffic) -> Value {
    let entry = |phase: Phase| (phase.to_string(), json!(traffic(phase)));
    Value::Object(Phase::ALL.into_iter().map(entry).collect::<Map<_, _>>())
}

fn plan_table(plan: &Plan, network: Option<&NetworkProfile>) -> comfy_table::Table {
    let comm = plan.predicted_comm();
    let forecast = network.map(|network| network.forecast(plan));
    let total: u64 = Phase::ALL.into_iter().map(|phase| comm.total(phase).bytes()).sum();
    let overflows: BTreeMap<StepId, String> = overflows_of(plan)
        .map(|(all, _)| all.iter().map(|one| (one.step, one.assurance.to_string())).collect())
        .unwrap_or_default();
    let cells = |words: [String; 9], row: Row<'_>| {
        let [offline, online] = [Phase::Offline, Phase::Online].map(row.traffic);
        let bytes = (row.traffic)(Phase::Setup).bytes() + offline.bytes() + online.bytes();
        let numbers = [
            format::bytes(offline.bytes()),
            format::bytes(online.bytes()),
            online.rounds.to_string(),
            format::percent(bytes as f64 / total.max(1) as f64),
        ];
        let seconds = forecast.as_ref().into_iter().flat_map(|forecast| {
            [Phase::Offline, Phase::Online].map(|phase| (row.seconds)(forecast, phase))
        });
        let seconds = seconds.map(|seconds| format!("{seconds:.3}"));
        words.into_iter().chain(numbers).chain(seconds).collect::<Vec<String>>()
    };
    let mut rows: Vec<Vec<String>> = plan
        .steps()
        .iter()
        .map(|step| {
            let fact = plan.fact(step.output);
            let [weights, lowering, correlation, chooser] = match &step.op {
                StepOp::Linear(linear) => linear_words(linear),
                _ => Default::default(),
            };
            let ring = format!("{}.{}", fact.ring.bits(), fact.scale);
            let overflow = overflows.get(&step.id).cloned().unwrap_or_default();
            let name = step.name.clone();
            let op = match &step.op {
                StepOp::Activation { mask: Some(mask), .. } => format!("{} {mask}", step.op.name()),
                op => op.name().into(),
            };
            let shape = fact.shape.to_string();
            let words = [name, op, shape, ring, overflow, weights, lowering, correlation, chooser];
            let traffic = &|phase| comm.traffic(step.id, phase);
            cells(
                words,
                Row { traffic, seconds: &|forecast, phase| forecast.seconds(step.id, phase) },
            )
        })
        .collect();
    let mut words: [String; 9] = Default::default();
    words[0] = "total".into();
    let traffic = &|phase| comm.total(phase);
    rows.push(cells(words, Row { traffic, seconds: &|forecast, phase| forecast.total(phase) }));
    let mut names = vec![
        "step",
        "op",
        "output",
        "bits.scale",
        "overflow",
        "weights",
        "lowering",
        "correlation",
        "chooser",
        "offline",
        "online",
        "rounds",
        "share",
    ];
    if network.is_some() {
        names.extend(["offline s", "online s"]);
    }
    let last = names.len();
    format::table(header(&names), rows, (3..6).chain(9..last))
}

/// What the numbers of a row come from.
struct Row<'a> {
    traffic: &'a dyn Fn(Phase) -> Traffic,
    seconds: &'a dyn Fn(&Forecast, Phase) -> f64,
}

/// Bits and scale of the weights, lowering, correlation, chooser.
fn linear_words(linear: &LinearStep) -> [String; 4] {
    let weights = format!("{}.{}", linear.weight_bits, linear.weight_scale);
    let (correlation, chooser) = match linear.correlation {
        Correlation::Ot { kind, chooser } => (kind.to_string(), chooser.to_string()),
        Correlation::Lattice(_) => ("lattice".into(), String::new()),
        Correlation::Reply(_) => ("reply".into(), String::new()),
    };
    [weights, linear.lowering.to_string(), correlation, chooser]
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}
