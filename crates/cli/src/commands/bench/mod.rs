//! `copriv bench`: ours beside the published protocols, in one run.
//!
//! Both parties are threads of this process and speak over loopback TCP. CPU time is that of all threads of both parties,
//! in the kernel too; bytes are payload bytes, held to what the plan predicts; results are held to those
//! in the clear before anything is printed. The session's set-up is not counted. Of the time on the clock it is said how long each
//! party's talking thread waited for the other; the rest is computing, or waiting for a core.

mod link;
mod measure;
mod model;
mod plan;
mod profile;
mod report;
mod usage;
mod variant;

use crate::args::Bench;
use crate::args::bench::Common;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result};
use copriv_ir::NetworkProfile;
use report::{OnNetwork, Row};
use variant::Job;

/// Each party computes on so many threads.
pub fn run(args: &Bench, threads: usize, terminal: &Terminal) -> Result<()> {
    match args {
        Bench::Ot(args) => bench(variant::ot(args), &args.common, threads, terminal),
        Bench::Relu(args) => bench(variant::relu(args), &args.common, threads, terminal),
        Bench::Truncate(args) => {
            bench(variant::truncate(args), &args.elements.common, threads, terminal)
        }
        Bench::MaxPool(args) => bench(variant::max_pool(args), &args.common, threads, terminal),
        Bench::Argmax(args) => bench(variant::argmax(args), &args.common, threads, terminal),
        Bench::Conv(args) => bench(variant::conv(args), &args.common, threads, terminal),
        Bench::Plan(args) => plan::run(args, threads, terminal),
        Bench::Profile(args) => profile::run(args, terminal),
        Bench::Link(args) => link::run(args, terminal),
    }
}

/// Runs all variants of a job.
fn bench(job: Result<Job>, common: &Common, threads: usize, terminal: &Terminal) -> Result<()> {
    let job = job?;
    let network = common.network.as_deref().map(NetworkProfile::open).transpose()?;
    let mut rows = Vec::new();
    for variant in &job.variants {
        terminal.detail(&variant.name);
        let wrong = || format!("{}, {}", job.name, variant.name);
        let measured =
            measure::run(&variant.model, variant.tolerance, threads).with_context(wrong)?;
        let on_network =
            network.as_ref().map(|network| OnNetwork::new(&variant.model, network)).transpose()?;
        let row = Row::new(&job, variant, &measured, on_network);
        if common.json {
            terminal.data(row.json(job.name, &job.params))?;
        }
        rows.push(row);
    }
    if common.json {
        return Ok(());
    }
    terminal.data(report::table(job.unit, &rows))?;
    if matches!(job.name, "conv" | "ot") {
        terminal.data(report::copies(&rows)?)?;
    }
    if let Some(network) = &network {
        terminal.data(network)?;
        terminal.data(report::network_table(&rows))?;
    }
    Ok(())
}
