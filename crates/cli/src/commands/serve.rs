//! `copriv serve`: private inference for whoever connects.

use crate::args::Serve;
use crate::artefact::read_plan_folder;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use copriv_ir::{Party, Phase, Plan, ServerWeights};
use copriv_runtime::{Channel, RuntimeError, ServerSession, TcpTransport};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a peer may be silent before its session is given up.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub fn run(args: &Serve, terminal: &Terminal) -> Result<()> {
    ensure!(args.sessions != Some(0), "--sessions must be at least 1");
    let (plan, weights) = read_plan_folder(&args.plan)?;
    let listener = TcpListener::bind(&args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    terminal.say(&plan);
    terminal.data(format_args!("listening on {}", listener.local_addr()?))?;
    let failed = serve(&listener, &Arc::new(plan), &Arc::new(weights), args.sessions, terminal)?;
    ensure!(failed == 0, "{failed} sessions failed");
    Ok(())
}

/// Serves each connection on a thread of its own, `sessions` of them or for ever; how many failed.
///
/// A session that fails ends alone: the others and the server go on.
fn serve(
    listener: &TcpListener,
    plan: &Arc<Plan>,
    weights: &Arc<ServerWeights>,
    sessions: Option<usize>,
    terminal: &Terminal,
) -> Result<usize> {
    let mut running: Vec<JoinHandle<bool>> = Vec::new();
    let mut failed = 0;
    for connection in listener.incoming().take(sessions.unwrap_or(usize::MAX)) {
        let stream = match connection {
            Ok(stream) => stream,
            Err(error) => {
                terminal.warn(format_args!("a connection failed before it began: {error}"));
                continue;
            }
        };
        let (plan, weights, terminal) = (Arc::clone(plan), Arc::clone(weights), terminal.clone());
        let session = move || talk(stream, plan, &weights, &terminal);
        running.push(std::thread::Builder::new().name("session".into()).spawn(session)?);
        let (done, rest) = running.into_iter().partition(JoinHandle::is_finished);
        failed += count_failures(done);
        running = rest;
    }
    Ok(failed + count_failures(running))
}

fn count_failures(sessions: Vec<JoinHandle<bool>>) -> usize {
    sessions.into_iter().filter_map(|session| session.join().ok()).filter(|&fine| !fine).count()
}

/// One session from handshake to goodbye; whether it went well.
fn talk(stream: TcpStream, plan: Arc<Plan>, weights: &ServerWeights, terminal: &Terminal) -> bool {
    let peer = stream.peer_addr().map_or_else(|_| "a client".into(), |address| address.to_string());
    match session(stream, plan, weights) {
        Ok((inferences, bytes)) => {
            let bytes = crate::format::bytes(bytes);
            terminal.say(format_args!("{peer}: {inferences} inferences, {bytes}"));
            true
        }
        Err(error) => {
            let error = anyhow::Error::from(error).context(format!("session with {peer}"));
            terminal.error(&error);
            false
        }
    }
}

/// Number of inferences and bytes of both directions.
fn session(
    stream: TcpStream,
    plan: Arc<Plan>,
    weights: &ServerWeights,
) -> Result<(usize, u64), RuntimeError> {
    let channel = Channel::new(TcpTransport::new(stream, PATIENCE)?, Party::Server)?;
    let mut session =
        ServerSession::accept(channel, plan, weights)?.with_threads(rayon::current_num_threads())?;
    let inferences = session.serve()?;
    let comm = session.comm();
    Ok((inferences, Phase::ALL.into_iter().map(|phase| comm.total(phase).bytes()).sum()))
}
