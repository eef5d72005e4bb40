//! `copriv infer`: classify images privately with a server.

use super::inspect::phases_json;
use super::serve::PATIENCE;
use crate::args::Infer;
use crate::artefact::{read_hint, read_plan};
use crate::terminal::Terminal;
use crate::{format, picture};
use anyhow::{Context as _, Result};
use copriv_ir::{Party, Phase, Plan, StepId};
use copriv_runtime::store::Store;
use copriv_runtime::{Channel, ClientSession, Inference, TcpTransport};
use serde_json::{Map, Value, json};
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a host may take to answer at all.
const ANSWER: Duration = Duration::from_secs(10);

/// How many of the most likely classes are shown.
const TOP: usize = 5;

pub fn run(args: &Infer, terminal: &Terminal) -> Result<()> {
    let plan = Arc::new(read_plan(&args.plan)?);
    // All images are read first: a bad one must not cost a session.
    let images: Vec<Vec<f32>> =
        args.images.iter().map(|path| picture::read(path, plan.input())).collect::<Result<_>>()?;

    let store = args.store.as_deref().map(|folder| Store::open(folder, Party::Client));
    let store = store.transpose()?.map(Arc::new);
    // What was prepared ahead needs no hint.
    let hint = if store.is_none() { read_hint(&args.plan, &plan)? } else { None };

    let channel = connect(&args.connect)?;
    let mut session = match &store {
        Some(store) => ClientSession::connect_stored(channel, Arc::clone(&plan), Arc::clone(store)),
        None => ClientSession::connect(channel, Arc::clone(&plan)),
    }?
    .with_threads(rayon::current_num_threads())?;
    if let Some(hint) = hint {
        session.set_hint(Arc::new(hint))?;
    }
    for (path, image) in args.images.iter().zip(&images) {
        let inference = infer(&mut session, (&plan, store.is_some()), image, terminal)?;
        if args.json {
            terminal.data(answer_json(&plan, path, &inference))?;
        } else {
            print(&plan, path, &inference, terminal)?;
        }
    }
    session.goodbye()?;
    Ok(())
}

/// A line to the server at an address.
///
/// # Errors
/// Where nobody listens there, or nobody answers in time.
pub fn connect(address: &str) -> Result<Channel> {
    let stream = reach(address).with_context(|| format!("cannot connect to {address}"))?;
    Ok(Channel::new(TcpTransport::new(stream, PATIENCE)?, Party::Client)?)
}

/// A connection to the first of an address's hosts that answers.
fn reach(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no host of that name");
    for host in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&host, ANSWER) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One inference with a bar over its bytes: offline and online, or online alone where all else is `stored`.
fn infer(
    session: &mut ClientSession,
    (plan, stored): (&Plan, bool),
    image: &[f32],
    terminal: &Terminal,
) -> Result<Inference> {
    let predicted = plan.predicted_comm();
    let offline = if stored { 0 } else { predicted.total(Phase::Offline).bytes() };
    let bar = terminal.byte_bar("infer", offline + predicted.total(Phase::Online).bytes());
    let mut progress = |phase: Phase, step: StepId, bytes: u64| {
        bar.set_position(bytes);
        bar.set_message(format!("{phase} {}", plan.steps()[step.0].name));
    };
    let inference = if stored {
        session.infer_stored(image, &mut progress)?
    } else {
        let prepared = session.prepare(&mut progress)?;
        session.infer(prepared, image, &mut progress)?
    };
    bar.finish_and_clear();
    Ok(inference)
}

/// Classes by falling logit.
fn ranking(logits: &[f64]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    classes
}

/// One object: `top` has the likeliest classes with their logits, or the one class, without a logit, where the plan
/// keeps those from the client.
fn answer_json(plan: &Plan, path: &Path, inference: &Inference) -> Value {
    let logits = inference.logits();
    let label = |class: usize| plan.labels().get(class);
    let top: Vec<Value> = match inference.class() {
        Some(class) => vec![json!({ "class": class, "label": label(class) })],
        None => ranking(&logits)
            .into_iter()
            .take(TOP)
            .map(|class| json!({ "class": class, "label": label(class), "logit": logits[class] }))
            .collect(),
    };
    let seconds: Map<String, Value> = Phase::ALL
        .into_iter()
        .map(|phase| (phase.to_string(), json!(inference.seconds(phase))))
        .collect();
    json!({
        "image": path,
        "top": top,
        "logits": logits,
        "comm": phases_json(|phase| inference.comm().total(phase)),
        "seconds": seconds,
    })
}

fn print(plan: &Plan, path: &Path, inference: &Inference, terminal: &Terminal) -> Result<()> {
    let logits = inference.logits();
    terminal.data(path.display())?;
    let label = |class: usize| {
        plan.labels().get(class).map_or_else(|| format!("class {class}"), Clone::clone)
    };
    if let Some(class) = inference.class() {
        terminal.data(format_args!("  {}", label(class)))?;
    }
    for class in ranking(&logits).into_iter().take(TOP) {
        terminal.data(format_args!("  {:>9.4}  {}", logits[class], label(class)))?;
    }
    for phase in Phase::ALL {
        let traffic = inference.comm().total(phase);
        if traffic.bytes() > 0 {
            terminal.say(format_args!(
                "  {phase:>8}: {} in {} rounds, {}",
                format::bytes(traffic.bytes()),
                traffic.rounds,
                format::seconds(inference.seconds(phase))
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ranking;

    #[test]
    fn classes_come_by_falling_logit() {
        assert_eq!(ranking(&[0.5, 2.0, -1.0, 1.0]), [1, 3, 0, 2]);
    }
}
