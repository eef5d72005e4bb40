//! `copriv infer`: classify images privately with a server.

use super::inspect::phases_json;
use super::serve::PATIENCE;
use crate::args::Infer;
use crate::artefact::{read_hint, read_plan};
use crate::terminal::Terminal;
use crate::{format, picture};
use anyhow::{Context as _, Result};
use copriv_ir::{Party, Phase, Plan, StepId};
use copriv_runtime::{Channel, ClientSession, Inference, TcpTransport};
use serde_json::{Map, Value, json};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// How many of the most likely classes are shown.
const TOP: usize = 5;

pub fn run(args: &Infer, terminal: &Terminal) -> Result<()> {
    let plan = Arc::new(read_plan(&args.plan)?);
    // All images are read first: a bad one must not cost a session.
    let images: Vec<Vec<f32>> =
        args.images.iter().map(|path| picture::read(path, plan.input())).collect::<Result<_>>()?;

    let hint = read_hint(&args.plan, &plan)?;

    let stream = TcpStream::connect(&args.connect)
        .with_context(|| format!("cannot connect to {}", args.connect))?;
    let channel = Channel::new(TcpTransport::new(stream, PATIENCE)?, Party::Client)?;
    let mut session = ClientSession::connect(channel, Arc::clone(&plan))?
        .with_threads(rayon::current_num_threads())?;
    if let Some(hint) = hint {
        session.set_hint(Arc::new(hint))?;
    }
    for (path, image) in args.images.iter().zip(&images) {
        let inference = infer(&mut session, &plan, image, terminal)?;
        if args.json {
            terminal.data(answer_json(&plan, path, &inference))?;
        } else {
            print(&plan, path, &inference, terminal)?;
        }
    }
    session.goodbye()?;
    Ok(())
}

/// One inference, offline and online, with a bar over its bytes.
fn infer(
    session: &mut ClientSession,
    plan: &Plan,
    image: &[f32],
    terminal: &Terminal,
) -> Result<Inference> {
    let predicted = plan.predicted_comm();
    let total = [Phase::Offline, Phase::Online].map(|phase| predicted.total(phase).bytes());
    let bar = terminal.byte_bar("infer", total.iter().sum());
    let mut progress = |phase: Phase, step: StepId, bytes: u64| {
        bar.set_position(bytes);
        bar.set_message(format!("{phase} {}", plan.steps()[step.0].name));
    };
    let prepared = session.prepare(&mut progress)?;
    let inference = session.infer(prepared, image, &mut progress)?;
    bar.finish_and_clear();
    Ok(inference)
}

/// Classes by falling logit.
fn ranking(logits: &[f64]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    classes
}

fn answer_json(plan: &Plan, path: &Path, inference: &Inference) -> Value {
    let logits = inference.logits();
    let top: Vec<Value> = ranking(&logits)
        .into_iter()
        .take(TOP)
        .map(|class| {
            json!({ "class": class, "label": plan.labels().get(class), "logit": logits[class] })
        })
        .collect();
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
    for class in ranking(&logits).into_iter().take(TOP) {
        let label = plan.labels().get(class).map_or_else(|| format!("class {class}"), Clone::clone);
        terminal.data(format_args!("  {:>9.4}  {label}", logits[class]))?;
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
