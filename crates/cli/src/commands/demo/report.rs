//! The demo's tables.

use super::private::PrivateRun;
use crate::format::{bytes, percent, seconds, table};
use copriv_ir::{CommTable, Phase, Traffic};
use copriv_trainer::train::Accuracy;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Everything that the demo found out.
#[derive(Default, Serialize)]
pub struct Report {
    pub stages: Vec<StageRow>,
    pub forms: Vec<Form>,
    pub plans: Vec<PlanRow>,
    pub seconds: f64,
}

#[derive(Serialize)]
pub struct StageRow {
    pub stage: String,
    pub result: String,
    pub seconds: f64,
    pub command: String,
}

/// A form of the network and its accuracy in floating point.
#[derive(Serialize)]
pub struct Form {
    pub name: String,
    pub accuracy: Accuracy,
}

/// One plan: what it costs and how it did.
#[derive(Serialize)]
pub struct PlanRow {
    pub name: String,
    pub setup: Traffic,
    pub offline: Traffic,
    pub online: Traffic,
    pub offline_seconds: f64,
    pub online_seconds: f64,
    /// Images classified privately, all with the clear-text plan's logits: bit for bit, or within what random rounding does.
    pub private: usize,
    /// How many of them got their label.
    pub right: usize,
    /// Accuracy of the plan in the clear.
    pub clear: Accuracy,
    /// What compiles it, serves it and classifies with it.
    pub commands: Vec<String>,
}

impl PlanRow {
    pub fn new(
        name: &str,
        comm: &CommTable,
        (run, pictures): (&PrivateRun, &[PathBuf]),
        clear: Accuracy,
        commands: Vec<String>,
    ) -> Self {
        Self {
            name: name.into(),
            setup: comm.total(Phase::Setup),
            offline: comm.total(Phase::Offline),
            online: comm.total(Phase::Online),
            offline_seconds: run.seconds(Phase::Offline),
            online_seconds: run.seconds(Phase::Online),
            private: run.answers.len(),
            right: run.right(pictures),
            clear,
            commands,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let stages = self
            .stages
            .iter()
            .map(|row| vec![row.stage.clone(), row.result.clone(), seconds(row.seconds)]);
        writeln!(f, "{}", table(text(&["stage", "result", "time"]), stages, [2]))?;

        let plans = self.plans.iter().map(PlanRow::cells);
        let header = text(&[
            "plan",
            "offline",
            "online",
            "rounds",
            "offline time",
            "online time",
            "private = clear",
            "right",
            "plan top-1",
        ]);
        writeln!(f, "{}", table(header, plans, 1..9))?;
        writeln!(f, "rounds: offline + online; times: per image, both parties on this machine")?;
        writeln!(
            f,
            "private = clear: bit for bit; `fast` rounds at random, and is within what chance does in the clear"
        )?;
        writeln!(f, "plan top-1: in the clear, on {} test images\n", self.evaluated())?;

        writeln!(f, "to repeat a step:")?;
        for command in self.stages.iter().map(|row| &row.command) {
            writeln!(f, "  {command}")?;
        }
        for command in self.plans.iter().filter_map(|row| row.commands.first()) {
            writeln!(f, "  {command}")?;
        }
        for command in self.plans.last().iter().flat_map(|row| row.commands.iter().skip(1)) {
            writeln!(f, "  {command}")?;
        }
        write!(f, "the whole demo took {}", seconds(self.seconds))
    }
}

impl Report {
    fn evaluated(&self) -> usize {
        self.plans.first().map_or(0, |row| row.clear.count)
    }
}

impl PlanRow {
    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            bytes(self.offline.bytes()),
            bytes(self.online.bytes()),
            format!("{} + {}", self.offline.rounds, self.online.rounds),
            seconds(self.offline_seconds),
            seconds(self.online_seconds),
            format!("{} of {}", self.private, self.private),
            format!("{} of {}", self.right, self.private),
            percent(self.clear.top1),
        ]
    }
}
