//! `copriv serve`: private inference for whoever connects.

use crate::args::Serve;
use crate::artefact::read_plan_folder;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use copriv_ir::cost::stored::RECORD_HEADER;
use copriv_ir::{Party, Phase, Plan, ServerWeights};
use copriv_runtime::store::{Contents, Store};
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
    let store = args.store.as_deref().map(|folder| Store::open(folder, Party::Server));
    let store = store.transpose()?.map(Arc::new);
    terminal.say(&plan);
    if let Some(store) = &store {
        let contents = Store::list(store.folder())?;
        terminal.say(holdings(store, &contents, &plan));
        for error in &contents.unreadable {
            terminal.warn(error);
        }
    }
    terminal.data(format_args!("listening on {}", listener.local_addr()?))?;
    let served = Served { plan: Arc::new(plan), weights: Arc::new(weights), store };
    let failed = serve(&listener, &Arc::new(served), args.sessions, terminal)?;
    ensure!(failed == 0, "{failed} sessions failed");
    Ok(())
}

/// What every session works with.
struct Served {
    plan: Arc<Plan>,
    weights: Arc<ServerWeights>,
    store: Option<Arc<Store>>,
}

/// What a store holds, in words.
fn holdings(store: &Store, Contents { records, .. }: &Contents, plan: &Plan) -> String {
    let digest = plan.digest();
    let fit = records.iter().filter(|record| record.plan == digest).count();
    let bytes: u64 = records.iter().map(|record| RECORD_HEADER + record.payload).sum();
    format!(
        "store       {}: {fit} prepared inferences, {} for other plans, {}",
        store.folder().display(),
        records.len() - fit,
        crate::format::bytes(bytes)
    )
}

/// Serves each connection on a thread of its own, `sessions` of them or for ever; how many failed.
///
/// A session that fails ends alone: the others and the server go on.
fn serve(
    listener: &TcpListener,
    served: &Arc<Served>,
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
        let (served, terminal) = (Arc::clone(served), terminal.clone());
        let session = move || talk(stream, &served, &terminal);
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
fn talk(stream: TcpStream, served: &Served, terminal: &Terminal) -> bool {
    let peer = stream.peer_addr().map_or_else(|_| "a client".into(), |address| address.to_string());
    match session(stream, served) {
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
fn session(stream: TcpStream, served: &Served) -> Result<(usize, u64), RuntimeError> {
    let channel = Channel::new(TcpTransport::new(stream, PATIENCE)?, Party::Server)?;
    let plan = Arc::clone(&served.plan);
    let session = ServerSession::accept(channel, plan, &served.weights)?;
    let mut session = session.with_threads(rayon::current_num_threads())?;
    if let Some(store) = &served.store {
        session = session.with_store(Arc::clone(store));
    }
    let inferences = session.serve()?;
    let comm = session.comm();
    Ok((inferences, Phase::ALL.into_iter().map(|phase| comm.total(phase).bytes()).sum()))
}
