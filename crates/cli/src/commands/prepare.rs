//! `copriv prepare`: what inferences need but the image, made ahead.

use super::infer::connect;
use super::inspect::phases_json;
use crate::args::Prepare;
use crate::artefact::{read_hint, read_plan};
use crate::format;
use crate::terminal::Terminal;
use anyhow::{Result, ensure};
use copriv_ir::{Party, Phase, Plan, StepId, cost};
use copriv_runtime::ClientSession;
use copriv_runtime::session::Kept;
use copriv_runtime::store::Store;
use serde_json::{Value, json};
use std::sync::Arc;

pub fn run(args: &Prepare, terminal: &Terminal) -> Result<()> {
    ensure!(args.count > 0, "--count must be at least 1");
    let plan = Arc::new(read_plan(&args.plan)?);
    let store = Arc::new(Store::open(&args.store, Party::Client)?);
    let [server, client] = [Party::Server, Party::Client].map(|party| file_bytes(&plan, party));
    let count = args.count as u64;
    terminal.say(format_args!(
        "{count} inferences: {} here, {} at the server",
        format::bytes(count * client),
        format::bytes(count * server)
    ));

    let hint = read_hint(&args.plan, &plan)?;
    let channel = connect(&args.connect)?;
    let mut session =
        ClientSession::connect_stored(channel, Arc::clone(&plan), Arc::clone(&store))?
            .with_threads(rayon::current_num_threads())?;
    if let Some(hint) = hint {
        session.set_hint(Arc::new(hint))?;
    }
    let traffic = plan.predicted_comm().total(Phase::Offline).bytes();
    let bar = terminal.byte_bar("prepare", count * traffic);
    for number in 0..count {
        let mut progress = |_: Phase, step: StepId, bytes: u64| {
            bar.set_position(number * traffic + bytes);
            let name = plan.steps().get(step.0).map_or("", |step| step.name.as_str());
            bar.set_message(format!("{} of {count} {name}", number + 1));
        };
        let kept = session.prepare_stored(&mut progress)?;
        if args.json {
            terminal.data(kept_json(&plan, &kept))?;
        }
    }
    bar.finish_and_clear();
    session.goodbye()?;
    let held = store.records()?.len();
    terminal.say(format_args!(
        "{}: {held} prepared inferences; each can be used once",
        store.folder().display()
    ));
    Ok(())
}

/// Size of a party's file for one inference.
fn file_bytes(plan: &Plan, party: Party) -> u64 {
    cost::stored::RECORD_HEADER + cost::stored::record(plan, party)
}

fn kept_json(plan: &Plan, kept: &Kept) -> Value {
    json!({
        "record": kept.info.id.to_string(),
        "number": kept.info.number,
        "bytes": {
            "server": file_bytes(plan, Party::Server),
            "client": file_bytes(plan, Party::Client),
        },
        "comm": phases_json(|phase| kept.comm.total(phase)),
        "seconds": kept.seconds,
    })
}
