//! What was measured, as tables and as JSON.

use super::measure::{self, Measured, copy_seconds};
use super::model::Model;
use super::usage::Spent;
use super::variant::{Job, Variant};
use crate::format;
use anyhow::Result;
use comfy_table::Table;
use copriv_ir::{NetworkProfile, Phase, Traffic, cost};
use serde_json::{Value, json};

/// One variant's figures: of its step, or of its whole plan.
pub struct Row {
    pub name: String,
    /// Offline, online.
    pub traffic: [Traffic; 2],
    /// Offline, online.
    pub spent: [Spent; 2],
    /// Wall-clock seconds of the phases that count.
    pub seconds: f64,
    /// CPU seconds of the phases that count.
    pub cpu_seconds: f64,
    /// Units of work a CPU second.
    pub rate: f64,
    pub peak: Option<u64>,
    /// Bytes of the hint that lattice correlations need, downloaded once and not counted.
    pub hint: Option<u64>,
    pub on_network: Option<OnNetwork>,
}

const PHASES: [Phase; 2] = [Phase::Offline, Phase::Online];

impl Row {
    pub fn new(
        job: &Job,
        variant: &Variant,
        measured: &Measured,
        on_network: Option<OnNetwork>,
    ) -> Self {
        let step = variant.model.step;
        let mut traffic = PHASES.map(|phase| measured.comm.traffic(step, phase));
        // By itself the step would not share its first round with the one before it.
        let plan = &variant.model.plan;
        traffic[1].rounds = cost::step_cost(plan, &plan.steps()[step.0]).1.traffic().rounds;
        let spent = PHASES.map(|phase| measured.spent(step, phase));
        let (counted, hint) = ((job.phases, job.work), variant.model.hint_bytes());
        let row = Self::of(&variant.name, counted, (traffic, spent), measured.peak, on_network);
        Self { hint, ..row }
    }

    /// A row of these figures; the phases that count and the work done in them.
    pub fn of(
        name: &str,
        (phases, work): (&[Phase], f64),
        (traffic, spent): ([Traffic; 2], [Spent; 2]),
        peak: Option<u64>,
        on_network: Option<OnNetwork>,
    ) -> Self {
        let counted = || PHASES.iter().zip(&spent).filter(|(phase, _)| phases.contains(phase));
        let seconds = counted().map(|(_, spent)| spent.wall).sum();
        let cpu_seconds: f64 = counted().map(|(_, spent)| spent.cpu).sum();
        // The clock may not have moved during a tiny job.
        let rate = work / cpu_seconds.max(1e-9);
        let name = name.to_owned();
        Self { name, traffic, spent, seconds, cpu_seconds, rate, peak, hint: None, on_network }
    }

    pub fn json(&self, job: &str, params: &Value) -> Value {
        let mut params = params.clone();
        if let Some(on_network) = &self.on_network {
            params["network"] = on_network.json();
        }
        if let Some(hint) = self.hint {
            params["hint_bytes"] = json!(hint);
        }
        let [offline, online] = self.traffic;
        let phase = |spent: &Spent| {
            let [server, client] = spent.waited;
            json!({
                "seconds": spent.wall,
                "cpu_seconds": spent.cpu,
                "waiting": { "server": server, "client": client },
            })
        };
        json!({
            "job": job,
            "variant": self.name,
            "params": params,
            "bytes": { "offline": offline.bytes(), "online": online.bytes() },
            "rounds": { "offline": offline.rounds, "online": online.rounds },
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "per_cpu_second": self.rate,
            "phases": { "offline": phase(&self.spent[0]), "online": phase(&self.spent[1]) },
            "peak_memory": self.peak,
        })
    }
}

/// How long a variant takes on a network, computing not counted: offline, online.
pub struct OnNetwork {
    name: String,
    predicted: [f64; 2],
    simulated: [f64; 2],
}

impl OnNetwork {
    /// Predicts from the plan, and runs the plan on a simulated link.
    ///
    /// # Errors
    /// Where a party fails.
    pub fn new(model: &Model, network: &NetworkProfile) -> Result<Self> {
        let predicted = [network.offline_latency(&model.plan), network.online_latency(&model.plan)];
        let simulated = measure::simulate(model, network)?;
        Ok(Self { name: network.name().to_owned(), predicted, simulated })
    }

    fn json(&self) -> Value {
        let phases = |seconds: [f64; 2]| json!({ "offline": seconds[0], "online": seconds[1] });
        json!({
            "name": self.name,
            "predicted_seconds": phases(self.predicted),
            "simulated_seconds": phases(self.simulated),
        })
    }
}

/// All variants, each beside the first.
pub fn table(unit: &str, rows: &[Row]) -> Table {
    let header = [
        "variant",
        "offline",
        "online",
        "all / first",
        "rounds",
        "CPU offline",
        "CPU online",
        "wall",
        "waiting offline",
        "waiting online",
        &format!("{unit} / CPU s"),
        "peak memory",
    ];
    let baseline = rows.first().map_or(1.0, |row| bytes(row) as f64).max(1.0);
    let cells = rows.iter().map(|row| {
        let [offline, online] = row.traffic;
        vec![
            row.name.clone(),
            format::mebibytes(offline.bytes()),
            format::mebibytes(online.bytes()),
            format!("{:.3}", bytes(row) as f64 / baseline),
            format!("{} + {}", offline.rounds, online.rounds),
            format!("{:.3} s", row.spent[0].cpu),
            format!("{:.3} s", row.spent[1].cpu),
            format!("{:.3} s", row.seconds),
            waiting(&row.spent[0]),
            waiting(&row.spent[1]),
            rate(row.rate),
            row.peak.map_or_else(|| "-".into(), format::mebibytes),
        ]
    });
    format::table(header.map(str::to_owned).to_vec(), cells, 1..12)
}

/// How long the server's and the client's talking threads stood still.
pub fn waiting(spent: &Spent) -> String {
    let [server, client] = spent.waited;
    format!("{server:.3}, {client:.3} s")
}

/// Of small things millions.
fn rate(rate: f64) -> String {
    if rate < 1e4 { format!("{rate:.2}") } else { format!("{:.3} M", rate / 1e6) }
}

fn bytes(row: &Row) -> u64 {
    row.traffic.iter().map(Traffic::bytes).sum()
}

/// The offline phase of each variant beside a bare copy of as many bytes over the same kind of connection.
///
/// # Errors
/// Where the copy fails.
pub fn copies(rows: &[Row]) -> Result<Table> {
    let mut cells = Vec::new();
    for row in rows {
        let bytes = row.traffic[0].bytes();
        let copy = copy_seconds(bytes)?;
        let rate = |seconds: f64| format!("{:.0} MB/s", bytes as f64 / 1e6 / seconds.max(1e-9));
        let share = format::percent(copy / row.spent[0].wall.max(1e-9));
        cells.push(vec![row.name.clone(), rate(row.spent[0].wall), rate(copy), share]);
    }
    let header = ["variant", "offline", "bare copy", "of the copy"];
    Ok(format::table(header.map(str::to_owned).to_vec(), cells, 1..4))
}

/// Predicted and simulated latency.
pub fn network_table(rows: &[Row]) -> Table {
    let cells = rows.iter().filter_map(|row| {
        let OnNetwork { predicted, simulated, .. } = row.on_network.as_ref()?;
        let mut cells = vec![row.name.clone()];
        for (predicted, simulated) in predicted.iter().zip(simulated) {
            cells.push(format!("{predicted:.3} s"));
            cells.push(format!("{simulated:.3} s"));
            cells.push(format!("{:.3}", predicted / simulated.max(1e-9)));
        }
        Some(cells)
    });
    let header = [
        "variant",
        "offline predicted",
        "simulated",
        "ratio",
        "online predicted",
        "simulated",
        "ratio",
    ];
    format::table(header.map(str::to_owned).to_vec(), cells, 1..7)
}
