//! Lattice secrets and uploads are used once, with a hint and with a reply: what is played again is refused, and a client that
//! is killed at any point never sends anything a second time.

mod plans;

use copriv_ir::lattice::{Hint, UPLOAD_TAG};
use copriv_ir::{ConvGeometry, Lowering, Party, Phase, Shape, StepId, cost};
use copriv_runtime::store::Store;
use copriv_runtime::{Channel, ClientSession, RuntimeError, ServerSession, TcpTransport};
use plans::{Builder, Model, image, with_lattice, with_replies};
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Both kinds of lattice correlation.
const KINDS: [&str; 2] = ["hint", "reply"];

/// One convolution with a lattice correlation.
fn small(kind: &str) -> (Model, Option<Arc<Hint>>) {
    let mut plan = Builder::new(Shape::new(3, 6, 6), 26, 8, 5);
    plan.linear(ConvGeometry::same(3, 4, 3, 1), Lowering::Direct, Party::Client, (6, 26));
    if kind == "reply" {
        return (with_replies(&plan.reveal(), 9), None);
    }
    let (model, hint) = with_lattice(&plan.reveal(), 9);
    (model, Some(Arc::new(hint)))
}

/// Both ends of a connection over loopback.
fn pipe() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
    (listener.accept().expect("connects").0, client)
}

fn channel(line: TcpStream, party: Party) -> Channel {
    let line = TcpTransport::new(line, PATIENCE).expect("a socket");
    Channel::new(line, party).expect("threads start")
}

fn serve(model: &Model, line: TcpStream, store: Option<Arc<Store>>) -> Result<usize, RuntimeError> {
    let plan = Arc::clone(&model.plan);
    let session = ServerSession::accept(channel(line, Party::Server), plan, &model.weights)?;
    match store {
        Some(store) => session.with_store(store).serve(),
        None => { session }.serve(),
    }
}

/// Carries what comes from `near` to `far` until there were `most` bytes, with a bit of byte `flip` changed, and all that
/// comes back; the former.
fn relay(mut near: TcpStream, mut far: TcpStream, most: usize, flip: Option<usize>) -> Vec<u8> {
    let (mut back, mut forth) =
        (far.try_clone().expect("clones"), near.try_clone().expect("clones"));
    let answers = thread::spawn(move || std::io::copy(&mut back, &mut forth));
    let (mut sent, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = near.read(&mut buffer) {
        if let Some(at) = flip.and_then(|at| at.checked_sub(sent.len())).filter(|at| *at < read) {
            buffer[at] ^= 4;
        }
        sent.extend_from_slice(&buffer[..read]);
        if sent.len() >= most || far.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // What is left over there comes to an end by itself where the client has said goodbye.
    let _ = far.shutdown(Shutdown::Write);
    if sent.len() >= most {
        let _ = far.shutdown(Shutdown::Both);
    }
    let _ = answers.join();
    sent
}

/// A whole session in which a bit of one byte that the client sends is changed: what the client sent, and what came of it
/// at the server.
fn run(kind: &str, flip: Option<usize>) -> (Vec<u8>, Result<usize, RuntimeError>) {
    let (model, hint) = small(kind);
    let (client, near) = pipe();
    let (server, far) = pipe();
    thread::scope(|scope| {
        let served = scope.spawn(|| serve(&model, server, None));
        let sent = scope.spawn(|| relay(near, far, usize::MAX, flip));
        let plan = Arc::clone(&model.plan);
        let infer = || {
            let mut session = ClientSession::connect(channel(client, Party::Client), plan)?;
            hint.map_or(Ok(()), |hint| session.set_hint(hint))?;
            let watch = &mut |_, _, _| ();
            let prepared = session.prepare(watch)?;
            session.infer(prepared, &image(&model.plan, 1), watch)?;
            session.goodbye()
        };
        let inferred = infer();
        let served = served.join().expect("no panic");
        assert_eq!(inferred.is_ok(), served.is_ok());
        (sent.join().expect("no panic"), served)
    })
}

fn is_refused_at_first_upload(served: &Result<usize, RuntimeError>) -> bool {
    matches!(served, Err(RuntimeError::ForeignUpload { step: CONVOLUTION, .. }))
}

/// The step of the convolution, and bytes of its upload.
const CONVOLUTION: StepId = StepId(1);

fn upload_bytes(model: &Model) -> usize {
    cost::plan(&model.plan).traffic(CONVOLUTION, Phase::Offline).client_to_server as usize
}

#[test]
fn uploads_that_are_played_again_or_damaged_are_refused() {
    for kind in KINDS {
        let (sent, served) = run(kind, None);
        assert_eq!(served.expect("content"), 1);
        let (model, _) = small(kind);
        let (server, mut far) = pipe();
        let mut answers = far.try_clone().expect("clones");
        let replayed = thread::scope(|scope| {
            scope.spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
            let all = sent.clone();
            scope.spawn(move || far.write_all(&all));
            serve(&model, server, None)
        });
        assert!(is_refused_at_first_upload(&replayed), "{kind}: {replayed:?}");
        // The upload's frame: its length, and a stamp and tag of data.
        let length = upload_bytes(&model);
        let header = (length as u32).to_le_bytes();
        let frame = sent.windows(4).rposition(|bytes| bytes == header).expect("it was sent");
        for place in [0, UPLOAD_TAG, length - 1] {
            let (_, served) = run(kind, Some(frame + 9 + place));
            assert!(is_refused_at_first_upload(&served), "{kind} {place}: {served:?}");
        }
    }
}

/// Where the child of the next test finds its store and its server.
const CHILD: &str = "COPRIV_TEST_LATTICE_CHILD";

/// Not a test by itself: a client that prepares and infers until it is killed.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (address, rest) = arguments.split_once(' ').expect("three arguments");
    let (kind, folder) = rest.split_once(' ').expect("three arguments");
    let (model, hint) = small(kind);
    let line = channel(TcpStream::connect(address).expect("somebody listens"), Party::Client);
    let store = Arc::new(Store::open(Path::new(folder), Party::Client).expect("opens"));
    let plan = Arc::clone(&model.plan);
    let mut session = ClientSession::connect_stored(line, plan, store).expect("a server");
    hint.map_or(Ok(()), |hint| session.set_hint(hint)).expect("its own");
    let image = image(&model.plan, 1);
    loop {
        // What an earlier life has prepared is used first.
        let watch = &mut |_, _, _| ();
        if session.infer_stored(&image, watch).is_err() {
            session.prepare_stored(watch).expect("prepares");
        }
    }
}

#[test]
fn a_client_killed_at_any_point_of_prepare_and_infer_sends_nothing_twice() {
    KINDS.into_iter().for_each(kill);
}

fn kill(kind: &str) {
    const ROUNDS: usize = 16;
    let (model, _) = small(kind);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [ours, theirs] = ["server", "client"].map(|party| folder.path().join(party));
    let store = Arc::new(Store::open(&ours, Party::Server).expect("opens"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let address = listener.local_addr().expect("bound");
    // The greeting and the store's name are the same in every session; setting up takes most of what follows.
    let (greeting, setup) = (48 + 9 + 16, 8_000);
    let upload = upload_bytes(&model);
    let (mut seen, mut sent_after_setup) = (HashSet::new(), 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("runs"))
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{address} {kind} {}", theirs.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let (near, _) = listener.accept().expect("the child connects");
        let (server, far) = pipe();
        let most = setup + round * 3 * upload / ROUNDS;
        let sent = thread::scope(|scope| {
            scope.spawn(|| serve(&model, server, Some(Arc::clone(&store))));
            let sent = relay(near, far, most, None);
            child.kill().expect("it is ours");
            child.wait().expect("it ends");
            sent
        });
        sent_after_setup += sent.len().saturating_sub(setup);
        let windows: Vec<[u8; 24]> = sent[greeting.min(sent.len())..]
            .windows(24)
            .filter_map(|w| w.try_into().ok())
            .collect();
        assert!(windows.iter().all(|window| !seen.contains(window)), "round {round}");
        seen.extend(windows);
    }
    assert!(sent_after_setup > 2 * upload, "some were killed late");
}
