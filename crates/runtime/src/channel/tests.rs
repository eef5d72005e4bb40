use super::*;
use copriv_ir::Traffic;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

/// Runs both parties, each on its own thread; what was measured, the same at both.
fn measured(
    server: impl FnOnce(&mut Channel) + Send,
    client: impl FnOnce(&mut Channel) + Send,
) -> Traffic {
    let (mut server_end, mut client_end) = Channel::pair().expect("threads start");
    let measure = |channel: &Channel| {
        let comm = channel.comm();
        assert!(comm.entries().count() <= 1, "one step and phase");
        comm.traffic(StepId(0), Phase::Setup)
    };
    let (at_server, at_client) = thread::scope(|scope| {
        let server = scope.spawn(move || {
            server(&mut server_end);
            server_end.flush().expect("flushes");
            measure(&server_end)
        });
        client(&mut client_end);
        client_end.flush().expect("flushes");
        (server.join().expect("no panic"), measure(&client_end))
    });
    assert_eq!(at_server, at_client);
    at_server
}

/// Fails where `f` takes longer than anything here may, for two that wait for each other never end.
fn in_time(f: impl FnOnce() + Send + 'static) {
    let (done, end) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        f();
        // Whoever waited in vain has failed already.
        let _ = done.send(());
    });
    match end.recv_timeout(LONG) {
        Err(RecvTimeoutError::Timeout) => panic!("somebody waits for ever"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => thread.join().expect("no panic"),
    }
}

fn traffic(server_to_client: u64, client_to_server: u64, rounds: u32) -> Traffic {
    Traffic { server_to_client, client_to_server, rounds }
}

#[test]
fn messages_that_cross_are_one_round() {
    let party = |channel: &mut Channel| {
        channel.send(&[1, 2, 3]).expect("sends");
        channel.send(&[4]).expect("sends");
        assert_eq!(channel.recv(4).expect("receives"), [1, 2, 3, 4]);
    };
    assert_eq!(measured(party, party), traffic(4, 4, 1));
    let party = |channel: &mut Channel| {
        let ours = vec![channel.party() as u8; 3 * MAX_PAYLOAD + 5];
        let mut theirs = vec![9; ours.len()];
        channel.exchange(&ours, &mut theirs).expect("exchanges");
        assert!(theirs.iter().all(|&byte| byte == channel.party().peer() as u8));
    };
    let bytes = 3 * MAX_PAYLOAD as u64 + 5;
    assert_eq!(measured(party, party), traffic(bytes, bytes, 1));
}

#[test]
fn exchanges_may_be_longer_on_one_side() {
    for (server, client) in [(5 * MAX_PAYLOAD, 1), (0, 7), (MAX_PAYLOAD, 3 * MAX_PAYLOAD + 1)] {
        let party = |channel: &mut Channel| {
            let lengths = match channel.party() {
                Party::Server => [server, client],
                Party::Client => [client, server],
            };
            let [ours, mut theirs] = lengths.map(|len| vec![7; len]);
            channel.exchange(&ours, &mut theirs).expect("exchanges");
        };
        assert_eq!(measured(party, party), traffic(server as u64, client as u64, 1));
    }
}

#[test]
fn ping_pong_is_a_round_each() {
    let measured = measured(
        |channel| {
            for _ in 0..3 {
                channel.send(&[0; 10]).expect("sends");
                channel.recv(2).expect("receives");
            }
        },
        |channel| {
            for _ in 0..3 {
                channel.recv(10).expect("receives");
                channel.send(&[0; 2]).expect("sends");
            }
        },
    );
    assert_eq!(measured, traffic(30, 6, 6));
}

#[test]
fn a_stream_with_replies_is_two_rounds() {
    let measured = measured(
        |channel| {
            for _ in 0..20 {
                channel.recv(100_000).expect("receives");
                channel.send(&[0; 30_000]).expect("sends");
            }
        },
        |channel| {
            let mut lane = channel.lane();
            for block in 0..20 {
                if block >= 4 {
                    lane.recv(30_000).expect("receives");
                }
                lane.send(&[0; 100_000]).expect("sends");
            }
            lane.recv(4 * 30_000).expect("receives");
        },
    );
    assert_eq!(measured, traffic(600_000, 2_000_000, 2));
}

#[test]
fn what_follows_a_lane_waits_for_what_it_received() {
    let measured = measured(
        |channel| {
            channel.recv(1).expect("receives");
            channel.send(&[0]).expect("sends");
            channel.recv(2).expect("receives");
        },
        |channel| {
            let mut lane = channel.lane();
            lane.lane().send(&[0]).expect("sends");
            lane.recv(1).expect("receives");
            lane.send(&[0]).expect("sends: still round 1");
            drop(lane);
            channel.send(&[0]).expect("sends: round 3");
        },
    );
    assert_eq!(measured, traffic(1, 3, 3));
}

#[test]
fn messages_may_be_received_in_other_pieces() {
    let message: Vec<u8> = (0..2 * MAX_PAYLOAD + 77).map(|index| index as u8).collect();
    let measured = measured(
        |channel| message.chunks(12_345).for_each(|part| channel.send(part).expect("sends")),
        |channel| {
            for part in message.chunks(777_777) {
                assert_eq!(channel.recv(part.len()).expect("receives"), part);
            }
            assert!(channel.recv(0).expect("nothing").is_empty());
        },
    );
    assert_eq!(measured, traffic(message.len() as u64, 0, 1));
}

#[test]
fn both_may_send_much_before_they_receive() {
    let party = |channel: &mut Channel| {
        channel.send(&vec![3; 20 << 20]).expect("sends");
        channel.flush().expect("flushes");
        channel.recv(20 << 20).expect("receives");
    };
    in_time(move || assert_eq!(measured(party, party), traffic(20 << 20, 20 << 20, 1)));
}

#[test]
fn each_step_and_phase_is_booked_on_its_own() {
    let (mut server, mut client) = Channel::pair().expect("threads start");
    let (offline, online) = (Phase::Offline, Phase::Online);
    let books = [(1, offline), (2, offline), (1, online), (2, online), (1, online)];
    let books = books.map(|(step, phase)| (StepId(step), phase));
    thread::scope(|scope| {
        scope.spawn(|| {
            for (step, phase) in books {
                server.enter(step, phase).expect("nothing is left");
                server.send(&[0; 3]).expect("sends");
            }
            server.flush().expect("flushes");
        });
        for (step, phase) in books {
            client.enter(step, phase).expect("nothing is left");
            client.recv(3).expect("receives");
        }
    });
    for channel in [&server, &client] {
        let comm = channel.comm();
        assert_eq!(comm.entries().count(), 4);
        for step in [1, 2].map(StepId) {
            assert_eq!(comm.traffic(step, offline), traffic(3, 0, 1));
        }
        // The second message waits for none, but the third is another inference's.
        assert_eq!(comm.traffic(StepId(1), online), traffic(6, 0, 2));
        assert_eq!(comm.traffic(StepId(2), online), traffic(3, 0, 0));
    }
}

#[test]
fn bytes_left_at_the_end_of_a_step_are_the_peers_fault() {
    let (mut server, mut client) = Channel::pair().expect("threads start");
    server.send(&[0; 3]).expect("sends");
    server.flush().expect("flushes");
    client.recv(2).expect("receives");
    let error = client.enter(StepId(1), Phase::Online).expect_err("a byte is left");
    assert!(matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Server, .. }));
}

#[test]
fn control_words_end_what_they_interrupt() {
    let (mut server, mut client) = Channel::pair().expect("threads start");
    client.send_control(Control::Prepare).expect("sends");
    assert_eq!(server.recv_control().expect("receives"), Control::Prepare);
    client.send_control(Control::Infer(5)).expect("sends");
    assert_eq!(server.recv_control().expect("receives"), Control::Infer(5));
    client.send_control(Control::Prepare).expect("sends");
    assert!(matches!(server.recv(1), Err(RuntimeError::PeerMisbehaved { .. })));
    for control in [Control::Goodbye, Control::Abort] {
        client.send_control(control).expect("sends");
        let error = server.recv(1).expect_err("no data");
        assert!(matches!(error, RuntimeError::PeerAborted { peer: Party::Client }));
    }
    client.send_control(Control::Abort).expect("sends");
    assert!(matches!(server.recv_control(), Err(RuntimeError::PeerAborted { .. })));
    client.send(&[0]).expect("sends");
    client.flush().expect("flushes");
    assert!(matches!(server.recv_control(), Err(RuntimeError::PeerMisbehaved { .. })));
    assert_eq!(server.comm().entries().count(), 0, "control is not counted");
}

#[test]
fn raw_bytes_are_the_first_round() {
    let party = |channel: &mut Channel| {
        channel.send_raw(&[channel.party() as u8; 48]).expect("sends");
        let mut theirs = [0; 48];
        channel.recv_raw(&mut theirs[..8]).expect("receives");
        channel.recv_raw(&mut theirs[8..]).expect("receives");
        assert_eq!(theirs, [channel.party().peer() as u8; 48]);
        channel.exchange(&[1; 32], &mut theirs[..32]).expect("exchanges");
    };
    assert_eq!(measured(party, party), traffic(80, 80, 2));
}

/// A server's channel over TCP and the bare socket at its other end.
fn tcp(patience: Duration) -> (Channel, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binds");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (stream, _) = listener.accept().expect("accepts");
    let transport = TcpTransport::new(stream, patience).expect("configures");
    (Channel::new(transport, Party::Server).expect("threads start"), peer)
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_peer_that_hangs_up_is_a_lost_connection() {
    let frame = |payload: u32| [&payload.to_le_bytes()[..], &[1, 0, 0, 0, 0]].concat();
    for sent in [vec![], vec![5, 0], frame(10), [frame(10), vec![1; 9]].concat()] {
        let (mut server, mut peer) = tcp(LONG);
        peer.write_all(&sent).expect("sends");
        drop(peer);
        let error = server.recv(10).expect_err("hung up");
        assert!(
            matches!(error, RuntimeError::ConnectionLost { peer: Party::Client, .. }),
            "{error}"
        );
    }
}

#[test]
fn writing_to_a_peer_that_hung_up_fails_in_the_end() {
    let (server, client) = Channel::pair().expect("threads start");
    let mut server = server;
    drop(client);
    let outcome = (0..100).try_for_each(|_| server.send(&vec![0; 1 << 20]));
    assert!(matches!(outcome, Err(RuntimeError::ConnectionLost { .. })));
}

#[test]
fn a_silent_peer_is_a_lost_connection() {
    let (mut server, peer) = tcp(Duration::from_millis(50));
    let error = server.recv(1).expect_err("silent");
    assert!(matches!(error, RuntimeError::ConnectionLost { .. }), "{error}");
    drop(peer);
}

#[test]
fn garbage_is_the_peers_fault() {
    let oversized = [0, 0, 0, 0x40, 1, 0, 0, 0, 0];
    let late = [1, 0, 0, 0, 2, 0, 0, 0, 0];
    let never = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    let end_of_time = [1, 0, 0, 0, 255, 255, 255, 255, 0];
    for header in [*b"GET / HTT", [0xff; 9], [0; 9], oversized, late, never, end_of_time] {
        let (mut server, mut peer) = tcp(LONG);
        peer.write_all(&header).expect("sends");
        peer.write_all(&[0; 16]).expect("sends");
        let error = server.recv(1).expect_err("garbage");
        assert!(
            matches!(error, RuntimeError::PeerMisbehaved { peer: Party::Client, .. }),
            "{error}"
        );
    }
}

#[test]
fn two_that_go_at_once_do_not_wait_for_each_other() {
    let (mut server, mut client) = Channel::pair().expect("threads start");
    for channel in [&mut server, &mut client] {
        channel.send(&vec![0; 20 << 20]).expect("sends");
        channel.flush().expect("flushes");
    }
    in_time(move || {
        thread::scope(|scope| {
            scope.spawn(move || drop(server));
            scope.spawn(move || drop(client));
        });
    });
}

#[test]
fn waiting_is_counted_at_the_party_that_waits() {
    let (mut server, mut client) = Channel::pair().expect("threads start");
    let (ours, theirs) = (server.waiting(), client.waiting());
    client.send(&[1; 10]).expect("sends");
    client.flush().expect("sends");
    assert_eq!([ours.seconds(), theirs.seconds()], [0.0; 2]);
    server.recv(10).expect("arrives");
    assert!(ours.seconds() > 0.0);
    assert_eq!(theirs.seconds(), 0.0);
}

#[test]
fn what_the_socket_does_not_take_at_once_comes_later_and_in_order() {
    let (mut server, peer) = tcp(LONG);
    let transport = TcpTransport::new(peer, LONG).expect("configures");
    let mut client = Channel::new(transport, Party::Client).expect("a thread starts");
    // Small and large ones, more than sockets hold and less than may be on the way; nobody reads so far.
    let message = |number: usize| -> Vec<u8> {
        let len = [3, 1 << 20, 70_000, (1 << 20) + 5][number % 4];
        (0..len).map(|at| (31 * number + at % 251) as u8).collect()
    };
    let count = 48;
    in_time(move || {
        (0..count).for_each(|number| server.send(&message(number)).expect("does not wait"));
        server.flush().expect("does not wait");
        for number in 0..count {
            let expected = message(number);
            assert!(client.recv(expected.len()).expect("arrives") == expected, "message {number}");
        }
    });
}
