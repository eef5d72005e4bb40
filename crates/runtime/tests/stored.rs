//! Inferences that wait in both parties' stores: what they cost, and that none is ever used twice.

mod plans;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{CommTable, OtKind, Party, Phase, StepId, cost};
use copriv_runtime::session::{Kept, MAX_PREPARED};
use copriv_runtime::store::{Store, StoreError};
use copriv_runtime::{
    Channel, ClientSession, Inference, Refusal, RuntimeError, ServerSession, TcpTransport,
};
use plans::{Model, classifier, downsampling, every_step, image, nothing, with_replies};
use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// The folders of both parties' stores.
struct Folders(TempDir);

impl Folders {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn of(&self, party: Party) -> PathBuf {
        self.0.path().join(party.to_string())
    }

    fn store(&self, party: Party) -> Arc<Store> {
        Arc::new(Store::open(&self.of(party), party).expect("opens"))
    }

    fn count(&self, party: Party) -> usize {
        self.store(party).records().expect("lists").len()
    }

    /// Puts a copy of a store aside.
    fn copy(&self, party: Party, name: &str) {
        copy(&self.of(party), &self.0.path().join(name));
    }

    /// Sets a store back to a copy.
    fn restore(&self, party: Party, name: &str) {
        fs::remove_dir_all(self.of(party)).expect("is there");
        copy(&self.0.path().join(name), &self.of(party));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes a folder");
    for entry in fs::read_dir(from).expect("is there") {
        let path = entry.expect("reads").path();
        fs::copy(&path, to.join(path.file_name().expect("has a name"))).expect("copies");
    }
}

/// A session between both stores; what the server counted and what `act` gave.
fn session<T: Send>(
    model: &Model,
    folders: &Folders,
    act: impl FnOnce(&mut ClientSession) -> Result<T, RuntimeError> + Send,
) -> Result<(usize, T), RuntimeError> {
    let (server, client) = Channel::pair()?;
    let stores = [Party::Server, Party::Client].map(|party| folders.store(party));
    let [ours, theirs] = stores;
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let plan = Arc::clone(&model.plan);
            ServerSession::accept(server, plan, &model.weights)?.with_store(ours).serve()
        });
        let result = ClientSession::connect_stored(client, Arc::clone(&model.plan), theirs)
            .and_then(|mut session| {
                let result = act(&mut session)?;
                session.goodbye()?;
                Ok(result)
            });
        let served = server.join().expect("no panic");
        result.and_then(|result| Ok((served?, result)))
    })
}

fn prepare(model: &Model, folders: &Folders, count: usize) -> Vec<Kept> {
    let prepare = |session: &mut ClientSession| {
        (0..count).map(|_| session.prepare_stored(&mut |_, _, _| ())).collect()
    };
    session::<Result<Vec<_>, _>>(model, folders, |session| Ok(prepare(session)))
        .expect("both are content")
        .1
        .expect("prepares")
}

fn infer(model: &Model, folders: &Folders, seed: u64) -> Result<Inference, RuntimeError> {
    let image = image(&model.plan, seed);
    session(model, folders, |session| session.infer_stored(&image, &mut |_, _, _| ()))
        .map(|(_, inference)| inference)
}

fn in_the_clear(model: &Model, seed: u64) -> Vec<i64> {
    let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights");
    evaluator.run(&image(&model.plan, seed))
}

/// The predicted traffic of some phases, with this as setup.
fn predicted(model: &Model, setup: copriv_ir::Traffic, phase: Phase) -> CommTable {
    let mut table = CommTable::new();
    table.book(StepId(0), Phase::Setup, setup);
    let whole = cost::plan(&model.plan);
    let entries = whole.entries().filter(|&(_, entry, _)| entry == phase);
    entries.for_each(|(step, phase, traffic)| table.book(step, phase, traffic));
    table
}

#[test]
fn what_waited_on_disk_gives_the_evaluators_logits_for_online_traffic_alone() {
    assert_waits(&every_step([Party::Server, Party::Client], 4, 1));
    // Steps that share a mask, by transfers and by lattices.
    assert_waits(&downsampling(26, false, 1));
    assert_waits(&with_replies(&downsampling(26, true, 1), 2));
}

fn assert_waits(model: &Model) {
    let folders = Folders::new();
    let kept = prepare(model, &folders, 2);
    let setup = cost::plan(&model.plan).total(Phase::Setup);
    let expected = predicted(model, setup, Phase::Offline);
    assert_eq!(kept[0].comm.first_difference(&expected), None);
    let expected = predicted(model, Default::default(), Phase::Offline);
    assert_eq!(kept[1].comm.first_difference(&expected), None);

    let records = [Party::Server, Party::Client].map(|party| {
        let records = folders.store(party).records().expect("lists");
        let bytes = cost::stored::record(&model.plan, party);
        for record in &records {
            assert_eq!(record.payload, bytes, "{party}");
            let file = folders.of(party).join(format!("{}.record", record.id));
            let len = fs::metadata(file).expect("is there").len();
            assert_eq!(len, bytes + cost::stored::RECORD_HEADER);
        }
        records.iter().map(|record| (record.id, record.binding)).collect::<Vec<_>>()
    });
    assert_eq!(records[0], records[1], "both halves have the same names and digests");
    assert_eq!(records[0].len(), 2);

    for seed in [1, 2] {
        let inference = infer(model, &folders, seed).expect("one is left");
        assert_eq!(inference.fixed_point(), in_the_clear(model, seed));
        let expected = predicted(model, cost::handshake(), Phase::Online);
        assert_eq!(inference.comm().first_difference(&expected), None);
        assert_eq!(inference.comm().total(Phase::Offline).bytes(), 0);
    }
    let error = infer(model, &folders, 3).expect_err("none is left");
    let RuntimeError::NothingPrepared { held, unreadable, refused, last } = error else {
        panic!("{error}")
    };
    assert_eq!((held, unreadable, refused, last), (0, 0, 0, None));
    assert_eq!(folders.count(Party::Server) + folders.count(Party::Client), 0);
}

#[test]
fn a_class_waits_on_disk_like_logits() {
    let model = classifier((OtKind::SoftSpoken4, false), 10, 1);
    let folders = Folders::new();
    prepare(&model, &folders, 1);
    for party in [Party::Server, Party::Client] {
        let records = folders.store(party).records().expect("lists");
        assert_eq!(records[0].payload, cost::stored::record(&model.plan, party));
    }
    let inference = infer(&model, &folders, 2).expect("one is there");
    let evaluator = PlanEvaluator::new(&model.plan, &model.weights).expect("its own weights");
    assert_eq!(inference.class(), evaluator.class(&image(&model.plan, 2)));
    let expected = predicted(&model, cost::handshake(), Phase::Online);
    assert_eq!(inference.comm().first_difference(&expected), None);
}

#[test]
fn stores_hold_more_than_a_server_keeps_in_memory() {
    let model = nothing(1);
    let folders = Folders::new();
    let kept = prepare(&model, &folders, MAX_PREPARED + 2);
    let numbers: Vec<u64> = kept.iter().map(|kept| kept.info.number).collect();
    assert_eq!(numbers, (0..MAX_PREPARED as u64 + 2).collect::<Vec<_>>());
    assert_eq!(folders.count(Party::Server), MAX_PREPARED + 2);
    assert_eq!(
        infer(&model, &folders, 1).expect("one is there").fixed_point(),
        in_the_clear(&model, 1)
    );
}

#[test]
fn a_store_set_back_to_a_copy_is_refused_by_the_other_party() {
    let model = nothing(2);
    for party in [Party::Client, Party::Server] {
        let folders = Folders::new();
        prepare(&model, &folders, 2);
        folders.copy(party, "copy");
        infer(&model, &folders, 1).expect("two are there");
        folders.restore(party, "copy");
        assert_eq!(folders.count(party), 2);
        assert_eq!(folders.count(party.peer()), 1);
        // The client passes over what the server refuses; the server is not asked for what the client has used.
        infer(&model, &folders, 2).expect("the second was not used");
        let error = infer(&model, &folders, 3).expect_err("the first was");
        assert!(matches!(error, RuntimeError::NothingPrepared { .. }), "{error}");
        // What is prepared from now on is good.
        prepare(&model, &folders, 1);
        infer(&model, &folders, 4).expect("it was never used");
    }
}

#[test]
fn a_client_hears_why_all_its_records_are_refused() {
    let model = nothing(3);
    let folders = Folders::new();
    prepare(&model, &folders, 2);
    folders.copy(Party::Client, "copy");
    infer(&model, &folders, 1).expect("two are there");
    infer(&model, &folders, 2).expect("one is there");
    folders.restore(Party::Client, "copy");
    let error = infer(&model, &folders, 3).expect_err("both were used");
    let last = Some(Refusal::Unknown);
    assert!(
        matches!(error, RuntimeError::NothingPrepared { held: 0, refused: 2, last: l, .. } if l == last),
        "{error}"
    );
    assert!(error.to_string().contains("copriv prepare"), "{error}");
}

#[test]
fn a_damaged_record_disables_neither_store() {
    for party in [Party::Client, Party::Server] {
        let (model, folders) = (nothing(4), Folders::new());
        prepare(&model, &folders, 3);
        let first = folders.store(party).records().expect("lists")[0].id;
        fs::write(folders.of(party).join(format!("{first}.record")), "no record").expect("writes");
        assert_eq!(folders.count(party), 2);
        for seed in [1, 2] {
            infer(&model, &folders, seed).expect("the other two are good");
        }
        let error = infer(&model, &folders, 3).expect_err("none is left");
        let damaged = usize::from(party == Party::Client);
        assert!(
            matches!(error, RuntimeError::NothingPrepared { unreadable, .. } if unreadable == damaged),
            "{error}"
        );
        prepare(&model, &folders, 1);
        infer(&model, &folders, 4).expect("one is there again");
    }
}

#[test]
fn a_server_whose_store_fails_says_so_and_costs_one_record() {
    type Spoil = fn(&Path);
    let unreadable: Spoil = |ledger| {
        fs::remove_file(ledger).expect("is there");
        fs::create_dir(ledger).expect("makes a folder");
    };
    let damaged: Spoil = |ledger| fs::write(ledger, "no ledger").expect("writes");
    for (spoil, is_io) in [(unreadable, true), (damaged, false)] {
        let (model, folders) = (nothing(5), Folders::new());
        prepare(&model, &folders, 3);
        let [ours, theirs] = [Party::Server, Party::Client].map(|party| folders.store(party));
        let (server, client) = Channel::pair().expect("threads start");
        let (served, inferred) = thread::scope(|scope| {
            let server = scope.spawn(|| {
                let plan = Arc::clone(&model.plan);
                let session = ServerSession::accept(server, plan, &model.weights)?;
                session.with_store(ours).serve()
            });
            let plan = Arc::clone(&model.plan);
            let mut session =
                ClientSession::connect_stored(client, plan, theirs).expect("both have stores");
            spoil(&folders.of(Party::Server).join("ledger"));
            let inferred = session.infer_stored(&image(&model.plan, 1), &mut |_, _, _| ());
            (server.join().expect("no panic"), inferred)
        });
        let served = served.expect_err("its store fails");
        match &served {
            RuntimeError::Store(StoreError::Io { .. }) => assert!(is_io),
            RuntimeError::Store(StoreError::DamagedLedger { .. }) => assert!(!is_io),
            other => panic!("{other}"),
        }
        let inferred = inferred.expect_err("the server is gone");
        assert!(
            matches!(inferred, RuntimeError::PeerAborted { peer: Party::Server }),
            "{inferred}"
        );
        assert_eq!(folders.count(Party::Client), 2);
    }
}

#[test]
fn other_plans_and_other_servers_records_stay_where_they_are() {
    let (model, other) = (nothing(1), nothing(2));
    let (folders, elsewhere) = (Folders::new(), Folders::new());
    prepare(&model, &folders, 1);
    let error = infer(&other, &folders, 1).expect_err("for another plan");
    assert!(matches!(error, RuntimeError::NothingPrepared { held: 1, refused: 0, .. }), "{error}");
    // The same client at a server that keeps another store.
    elsewhere.store(Party::Client);
    fs::remove_dir_all(elsewhere.of(Party::Client)).expect("is there");
    copy(&folders.of(Party::Client), &elsewhere.of(Party::Client));
    let error = infer(&model, &elsewhere, 1).expect_err("another server");
    assert!(matches!(error, RuntimeError::NothingPrepared { held: 1, refused: 0, .. }), "{error}");
    infer(&model, &folders, 1).expect("it is still there");
}

#[test]
fn a_server_without_a_store_says_so() {
    let (model, folders) = (nothing(1), Folders::new());
    let (server, client) = Channel::pair().expect("threads start");
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            ServerSession::accept(server, Arc::clone(&model.plan), &model.weights)?.serve()
        });
        let store = folders.store(Party::Client);
        let error = ClientSession::connect_stored(client, Arc::clone(&model.plan), store);
        let error = error.map(drop).expect_err("refused");
        assert!(matches!(error, RuntimeError::Refused { reason: Refusal::NoStore }), "{error}");
        assert_eq!(server.join().expect("no panic").expect("the client is content"), 0);
    });
    let error = Store::open(&folders.of(Party::Client), Party::Server).map(drop);
    assert!(error.is_ok(), "an empty store is anybody's");
    assert!(matches!(Store::list(Path::new(".")), Err(StoreError::NoStore { .. })));
}

#[test]
fn two_clients_at_one_server_each_use_their_own() {
    let model = nothing(1);
    let first = Folders::new();
    let second = Folders(tempfile::tempdir().expect("a temporary folder"));
    // Both talk to the same server's store.
    prepare(&model, &first, 1);
    fs::create_dir_all(second.0.path()).expect("is there");
    let (ours, theirs) = (first.store(Party::Server), second.store(Party::Client));
    let (server, client) = Channel::pair().expect("threads start");
    thread::scope(|scope| {
        scope.spawn(|| {
            let plan = Arc::clone(&model.plan);
            let session = ServerSession::accept(server, plan, &model.weights);
            session.expect("a client").with_store(ours).serve().expect("it is content")
        });
        let plan = Arc::clone(&model.plan);
        let mut session = ClientSession::connect_stored(client, plan, theirs).expect("a server");
        let watch = &mut |_, _, _| ();
        session.prepare_stored(watch).expect("prepares");
        let image = image(&model.plan, 5);
        session.infer_stored(&image, watch).expect("its own is there");
        let error = session.infer_stored(&image, watch).expect_err("the other is not its own");
        assert!(matches!(error, RuntimeError::NothingPrepared { held: 0, .. }), "{error}");
        session.goodbye().expect("the server is there");
    });
    infer(&model, &first, 1).expect("the first client's is still there");
}

/// Where the child of the next test finds its store and its server.
const CHILD: &str = "COPRIV_TEST_CHILD";

/// Not a test by itself: a client that runs whatever is in its store, to be killed at any moment.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (address, folder) = arguments.split_once(' ').expect("two arguments");
    let model = nothing(1);
    let stream = TcpStream::connect(address).expect("somebody listens");
    let line = TcpTransport::new(stream, Duration::from_secs(30)).expect("a socket");
    let channel = Channel::new(line, Party::Client).expect("threads start");
    let store = Arc::new(Store::open(Path::new(folder), Party::Client).expect("opens"));
    let plan = Arc::clone(&model.plan);
    let mut session = ClientSession::connect_stored(channel, plan, store).expect("a server");
    while session.infer_stored(&image(&model.plan, 1), &mut |_, _, _| ()).is_ok() {}
}

/// The records that a client named in what it sent: the greeting, then frames of 9 bytes and their payload.
fn claims(sent: &[u8]) -> Vec<[u8; 16]> {
    let mut rest = sent.get(48..).unwrap_or_default();
    let mut claims = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let payload = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if header[8] == 9
            && let Some(id) = after.first_chunk()
        {
            claims.push(*id);
        }
        rest = after.get(payload..).unwrap_or_default();
    }
    claims
}

#[test]
fn a_client_killed_at_any_moment_names_no_record_twice() {
    const RECORDS: usize = 24;
    let model = nothing(1);
    let folders = Folders::new();
    prepare(&model, &folders, RECORDS);
    let ours = folders.store(Party::Server);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let address = listener.local_addr().expect("bound");
    let (mut named, mut killed) = (Vec::new(), 0);
    for round in 0_u64..40 {
        let mut child = Command::new(std::env::current_exe().expect("runs"))
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{address} {}", folders.of(Party::Client).display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let (mut near, _) = listener.accept().expect("the child connects");
        let (server, mut far) = pipe();
        let sent = thread::scope(|scope| {
            scope.spawn(|| {
                let channel = Channel::new(
                    TcpTransport::new(server, Duration::from_secs(30)).expect("a socket"),
                    Party::Server,
                );
                let plan = Arc::clone(&model.plan);
                let session = ServerSession::accept(channel?, plan, &model.weights);
                session?.with_store(Arc::clone(&ours)).serve()
            });
            let (mut back, mut forth) =
                (far.try_clone().expect("clones"), near.try_clone().expect("clones"));
            scope.spawn(move || std::io::copy(&mut back, &mut forth));
            let kill = scope.spawn(move || {
                // The last rounds are left to end by themselves.
                if round < 30 {
                    thread::sleep(Duration::from_micros(700 * (round % 10)));
                    child.kill().expect("it is ours");
                }
                child.wait().expect("ends").success()
            });
            let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = near.read(&mut buffer) {
                sent.extend_from_slice(&buffer[..read]);
                if far.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = far.shutdown(std::net::Shutdown::Both);
            let _ = near.shutdown(std::net::Shutdown::Both);
            killed += usize::from(!kill.join().expect("no panic"));
            sent
        });
        named.extend(claims(&sent));
        if folders.count(Party::Client) == 0 {
            break;
        }
    }
    assert!(killed > 0, "somebody was killed");
    assert_eq!(folders.count(Party::Client), 0, "the last round used up the rest");
    assert!(!named.is_empty() && named.len() <= RECORDS, "{}", named.len());
    let distinct: HashSet<_> = named.iter().collect();
    assert_eq!(distinct.len(), named.len(), "a record was named twice");
}

/// Both ends of a connection over loopback.
fn pipe() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
    (listener.accept().expect("connects").0, client)
}
