//! `copriv serve`: private inference for whoever connects.

mod sessions;

use crate::args::Serve;
use crate::artefact::read_plan_folder;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, ensure};
use copriv_ir::cost::stored::RECORD_HEADER;
use copriv_ir::{Party, Phase, Plan, ServerWeights};
use copriv_runtime::store::{Contents, Store};
use copriv_runtime::{Channel, ServerSession, TcpTransport, Threads};
use sessions::Limits;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long a peer may be silent before its session is given up.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The same until it has greeted: whoever connects and says nothing does not keep others waiting for long.
const GREETING: Duration = Duration::from_secs(10);

pub fn run(args: &Serve, terminal: &Terminal) -> Result<()> {
    ensure!(args.sessions != Some(0), "--sessions must be at least 1");
    ensure!(args.max_sessions > 0, "--max-sessions must be at least 1");
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
    let threads = Threads::new(rayon::current_num_threads())?;
    let served = Served { plan: Arc::new(plan), weights, store, threads };
    let failed = sessions::run(
        listener.incoming(),
        Limits { total: args.sessions, at_once: args.max_sessions },
        |stream| talk(stream, &served, terminal),
        |error| terminal.warn(format_args!("a connection failed before it began: {error}")),
    );
    ensure!(failed == 0, "{failed} sessions failed");
    Ok(())
}

/// What every session works with.
struct Served {
    plan: Arc<Plan>,
    weights: ServerWeights,
    store: Option<Arc<Store>>,
    threads: Threads,
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
            terminal.error(&error.context(format!("session with {peer}")));
            false
        }
    }
}

/// Number of inferences and bytes of both directions.
fn session(stream: TcpStream, served: &Served) -> Result<(usize, u64)> {
    let socket = stream.try_clone()?;
    let channel = Channel::new(TcpTransport::new(stream, GREETING)?, Party::Server)?;
    let plan = Arc::clone(&served.plan);
    let mut session =
        ServerSession::accept(channel, plan, &served.weights)?.sharing_threads(&served.threads);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if let Some(store) = &served.store {
        session = session.with_store(Arc::clone(store));
    }
    let inferences = session.serve()?;
    let comm = session.comm();
    Ok((inferences, Phase::ALL.into_iter().map(|phase| comm.total(phase).bytes()).sum()))
}
