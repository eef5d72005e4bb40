//! Peers and lines that fail: every end gets a typed error, nobody panics or waits for ever.

mod plans;

use copriv_ir::{Party, Phase, StepId, cost};
use copriv_runtime::ot::Prg;
use copriv_runtime::session::PROTOCOL_VERSION as OURS;
use copriv_runtime::{
    Channel, ClientSession, Control, MemoryTransport, RuntimeError, ServerSession, TcpTransport,
    Transport,
};
use plans::{Model, every_step, image, nothing, session};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Long enough for every exchange here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails where `f` takes longer than anything here may.
fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = thread::spawn(move || done.send(f()));
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("somebody waits for ever"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("the result was sent"),
        },
    }
}

/// A line that goes wrong on the way out, at one byte.
struct Faulty<T> {
    line: T,
    at: u64,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing more goes out.
    Cut,
    /// A byte changes.
    Flip(u8),
}

impl<T: Transport> Transport for Faulty<T> {
    type Reader = T::Reader;
    type Writer = FaultyWriter<T::Writer>;

    fn split(self) -> io::Result<(T::Reader, Self::Writer)> {
        let (reader, writer) = self.line.split()?;
        let writer = FaultyWriter { writer: Some(writer), left: self.at, fault: self.fault };
        Ok((reader, writer))
    }
}

struct FaultyWriter<W> {
    writer: Option<W>,
    /// Bytes before the fault.
    left: u64,
    fault: Fault,
}

impl<W: Write> Write for FaultyWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(writer) = &mut self.writer else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if self.left > 0 || bytes.is_empty() {
            let whole = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let written = writer.write(&bytes[..whole])?;
            self.left -= written as u64;
            return Ok(written);
        }
        match self.fault {
            Fault::Cut => {
                self.writer = None;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            Fault::Flip(mask) => {
                let written = writer.write(&[bytes[0] ^ mask])?;
                self.left = u64::MAX;
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Runs an inference; how many logits came of it.
fn infer_once(model: &Model, mut session: ClientSession) -> Result<usize, RuntimeError> {
    let prepared = session.prepare(&mut |_, _, _| ())?;
    let inference = session.infer(prepared, &image(&model.plan, 1), &mut |_, _, _| ())?;
    session.goodbye()?;
    Ok(inference.logits().len())
}

/// Payload bytes that each party sends in one inference; frames and control words add a little.
fn bytes_sent(model: &Model) -> [u64; 2] {
    let predicted = cost::plan(&model.plan);
    let total = Phase::ALL.map(|phase| predicted.total(phase));
    [
        total.iter().map(|traffic| traffic.server_to_client).sum(),
        total.iter().map(|traffic| traffic.client_to_server).sum(),
    ]
}

/// Positions in a stream of `len` bytes: the first ones of the handshake, then anywhere.
fn positions(len: u64, seed: u8) -> impl Iterator<Item = u64> {
    let mut random = Prg::from_seed(&[seed; 16]);
    let anywhere = std::iter::repeat_with(move || random.next_u64() % len);
    [0, 7, 20, 47, 48, 57].into_iter().chain(anywhere.take(10))
}

fn ends_the_session(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::ConnectionLost { .. } | RuntimeError::PeerAborted { .. })
}

#[test]
fn a_line_cut_anywhere_is_a_lost_connection_at_both_ends() {
    let model = Arc::new(every_step([Party::Server, Party::Client], 4, 1));
    let sent = bytes_sent(&model);
    for (cut, len) in [Party::Server, Party::Client].into_iter().zip(sent) {
        for at in positions(len, 1) {
            let model = Arc::clone(&model);
            let (served, inferred) = in_time(move || {
                let (server, client) = MemoryTransport::pair();
                let faulty = |line| Faulty { line, at, fault: Fault::Cut };
                let channels = match cut {
                    Party::Server => (
                        Channel::new(faulty(server), Party::Server).expect("threads start"),
                        Channel::new(client, Party::Client).expect("threads start"),
                    ),
                    Party::Client => (
                        Channel::new(server, Party::Server).expect("threads start"),
                        Channel::new(faulty(client), Party::Client).expect("threads start"),
                    ),
                };
                session(&model, channels, |session| infer_once(&model, session))
            });
            let served = served.expect_err("the server cannot have seen a goodbye");
            let inferred = inferred.expect_err("nor can the client have finished");
            assert!(ends_the_session(&served), "{cut} cut at {at}: server {served}");
            assert!(ends_the_session(&inferred), "{cut} cut at {at}: client {inferred}");
        }
    }
}

/// Both ends of a connection over loopback that gives up soon, server first.
fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("somebody listens");
    (listener.accept().expect("somebody connects").0, client)
}

#[test]
fn a_changed_byte_gives_wrong_logits_or_an_error() {
    let model = Arc::new(every_step([Party::Client, Party::Server], 4, 2));
    let sent = bytes_sent(&model);
    for (liar, len) in [Party::Server, Party::Client].into_iter().zip(sent) {
        for (case, at) in positions(len, 2).enumerate() {
            let model = Arc::clone(&model);
            let logits = model.plan.values().last().expect("a value").shape.elements();
            let (served, inferred) = in_time(move || {
                let (server, client) = loopback();
                // A length that became longer is only noticed by waiting in vain.
                let line = |stream| TcpTransport::new(stream, Duration::from_secs(2));
                let (server, client) = (line(server), line(client));
                let (server, client) = (server.expect("a socket"), client.expect("a socket"));
                let fault = Fault::Flip(1 << (case % 8));
                let faulty = |line| Faulty { line, at, fault };
                let channels = match liar {
                    Party::Server => (
                        Channel::new(faulty(server), Party::Server).expect("threads start"),
                        Channel::new(client, Party::Client).expect("threads start"),
                    ),
                    Party::Client => (
                        Channel::new(server, Party::Server).expect("threads start"),
                        Channel::new(faulty(client), Party::Client).expect("threads start"),
                    ),
                };
                session(&model, channels, |session| infer_once(&model, session))
            });
            // Which of these an end gets depends on the byte.
            match served {
                Ok(inferences) => assert!(inferences <= 1, "{liar} changed {at}"),
                Err(error) => assert!(is_of_the_line(&error), "{liar} changed {at}: {error}"),
            }
            match inferred {
                Ok(count) => assert_eq!(count, logits, "{liar} changed {at}"),
                Err(error) => assert!(is_of_the_line(&error), "{liar} changed {at}: {error}"),
            }
        }
    }
}

/// Whether an error says that what came was wrong, or that nothing more came.
fn is_of_the_line(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::NotCoPriv { .. }
            | RuntimeError::Version { .. }
            | RuntimeError::RoleClash { .. }
            | RuntimeError::PlanMismatch { .. }
            | RuntimeError::PeerMisbehaved { .. }
    ) || ends_the_session(error)
}

/// What a server makes of a peer that writes `bytes` and hangs up.
fn answer_to(bytes: Vec<u8>) -> RuntimeError {
    in_time(move || {
        let model = nothing(1);
        let (server, peer) = MemoryTransport::pair();
        let (mut reader, mut writer) = peer.split().expect("memory splits");
        let writing = thread::spawn(move || writer.write_all(&bytes));
        let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        let channel = Channel::new(server, Party::Server).expect("threads start");
        let error = ServerSession::accept(channel, Arc::clone(&model.plan), &model.weights)
            .and_then(|mut session| session.serve())
            .expect_err("that is no session");
        // The server may have stopped listening before all was written.
        let _ = writing.join().expect("no panic");
        reading.join().expect("no panic").expect("memory reads");
        error
    })
}

/// A client's first message.
fn hello(role: u32, version: u32, plan: &[u8; 32]) -> Vec<u8> {
    [b"CoPriv\r\n".as_slice(), &role.to_le_bytes(), &version.to_le_bytes(), plan].concat()
}

#[test]
fn each_fault_of_a_handshake_has_its_error() {
    let digest = nothing(1).plan.digest();
    let plan = digest.bytes();
    let http = answer_to(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(matches!(&http, RuntimeError::NotCoPriv { found } if found == b"GET / HT"), "{http}");
    for version in [OURS - 1, OURS + 1] {
        let other = answer_to(hello(1, version, plan));
        let is_named =
            matches!(other, RuntimeError::Version { ours: OURS, theirs } if theirs == version);
        assert!(is_named, "{other}");
    }
    let server = answer_to(hello(0, OURS, plan));
    assert!(matches!(server, RuntimeError::RoleClash { role: Party::Server }), "{server}");
    let nobody = answer_to(hello(7, OURS, plan));
    assert!(matches!(nobody, RuntimeError::PeerMisbehaved { peer: Party::Client, .. }), "{nobody}");
    let silent = answer_to(hello(1, OURS, plan)[..40].to_vec());
    assert!(matches!(silent, RuntimeError::ConnectionLost { peer: Party::Client, .. }), "{silent}");
}

#[test]
fn garbage_is_an_error_wherever_it_begins() {
    let digest = nothing(1).plan.digest();
    let mut random = Prg::from_seed(b"noisy neighbours");
    for case in 0..40 {
        let mut garbage = vec![0; (random.next_u64() % 3000) as usize];
        random.fill(&mut garbage);
        let bytes = if case % 2 == 0 {
            garbage
        } else {
            [hello(1, OURS, digest.bytes()), garbage].concat()
        };
        let error = answer_to(bytes);
        assert!(is_of_the_line(&error), "{error}");
    }
}

#[test]
fn parties_with_different_plans_or_equal_roles_both_hear_of_it() {
    let (ours, theirs) = (nothing(1), nothing(2));
    let (server, client) = Channel::pair().expect("threads start");
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            ServerSession::accept(server, Arc::clone(&ours.plan), &ours.weights).map(drop)
        });
        let client = ClientSession::connect(client, Arc::clone(&theirs.plan)).map(drop);
        let expected = (ours.plan.digest(), theirs.plan.digest());
        match (server.join().expect("no panic"), client) {
            (
                Err(RuntimeError::PlanMismatch { ours: server, theirs: heard }),
                Err(RuntimeError::PlanMismatch { ours: client, theirs: told }),
            ) => assert_eq!(((server, heard), (told, client)), (expected, expected)),
            other => panic!("{other:?}"),
        }
    });
    let (first, second) = MemoryTransport::pair();
    let connect = |end| {
        let channel = Channel::new(end, Party::Client).expect("threads start");
        ClientSession::connect(channel, Arc::clone(&ours.plan)).map(drop)
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| connect(first));
        for result in [connect(second), first.join().expect("no panic")] {
            assert!(matches!(result, Err(RuntimeError::RoleClash { role: Party::Client })));
        }
    });
}

#[test]
fn weights_of_another_plan_are_refused_before_anything_is_sent() {
    let (ours, theirs) = (nothing(1), nothing(2));
    let (server, client) = Channel::pair().expect("threads start");
    let error = ServerSession::accept(server, Arc::clone(&ours.plan), &theirs.weights);
    let error = error.map(drop).expect_err("not its weights");
    let expected = (ours.plan.digest(), theirs.plan.digest());
    assert!(
        matches!(error, RuntimeError::ForeignWeights { plan, weights } if (plan, weights) == expected)
    );
    let error = ClientSession::connect(client, Arc::clone(&ours.plan)).map(drop);
    assert!(matches!(error, Err(RuntimeError::ConnectionLost { peer: Party::Server, .. })));
}

/// What a server makes of a client that sets up a session and then does as it likes.
fn answer_to_client(act: fn(&mut Channel) -> Result<(), RuntimeError>) -> RuntimeError {
    in_time(move || {
        let model = nothing(1);
        let (server, mut client) = Channel::pair().expect("threads start");
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                ServerSession::accept(server, Arc::clone(&model.plan), &model.weights)?.serve()
            });
            client
                .send_raw(&hello(1, OURS, model.plan.digest().bytes()))
                .expect("the server waits");
            client.recv_raw(&mut [0; 48]).expect("the server greets");
            client.send_control(Control::Setup).expect("the server waits");
            client.enter(StepId(0), Phase::Setup).expect("nothing is left");
            copriv_runtime::ot::Ots::setup(
                &mut client,
                Prg::from_seed(&[1; 16]),
                &Default::default(),
            )
            .expect("the server is honest");
            // The server may hang up on what follows.
            let _ = act(&mut client);
            drop(client);
            server.join().expect("no panic").expect_err("that is no order")
        })
    })
}

#[test]
fn requests_out_of_order_are_the_clients_fault() {
    let unprepared = answer_to_client(|client| client.send_control(Control::Infer(0)));
    let data = answer_to_client(|client| client.send(b"logits, please"));
    let twice = answer_to_client(|client| {
        client.send_control(Control::Prepare)?;
        client.send_control(Control::Infer(0))?;
        client.recv(24)?;
        client.send_control(Control::Infer(0))
    });
    let hoard =
        answer_to_client(|client| (0..100).try_for_each(|_| client.send_control(Control::Prepare)));
    for error in [unprepared, data, twice, hoard] {
        let at_fault = matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Client, .. });
        assert!(at_fault, "{error}");
    }
    let gone = answer_to_client(|_| Ok(()));
    assert!(matches!(gone, RuntimeError::ConnectionLost { peer: Party::Client, .. }), "{gone}");
    let abort = answer_to_client(|client| client.send_control(Control::Abort));
    assert!(matches!(abort, RuntimeError::PeerAborted { peer: Party::Client }), "{abort}");
}
