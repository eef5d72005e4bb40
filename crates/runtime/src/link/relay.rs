//! A slow link between two processes.

use super::{LinkWriter, Pace};
use copriv_ir::{Direction, NetworkProfile};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;

/// Carries everything between a client's connection and a server's as slowly as the network would, until both
/// directions have ended: bytes from client to server, and from server to client. It knows nothing of
/// what it carries. A direction in which either end breaks ends at both.
///
/// # Errors
/// Where a connection cannot be shared between threads or no thread started.
pub fn relay(
    client: &TcpStream,
    server: &TcpStream,
    profile: &NetworkProfile,
) -> io::Result<[u64; 2]> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let [up, down] = [Direction::ClientToServer, Direction::ServerToClient]
        .map(|direction| Pace::new(profile, direction));
    thread::scope(|scope| {
        let up = thread::Builder::new().spawn_scoped(scope, || carry(client, server, up))?;
        let down = carry(server, client, down);
        let up = up.join().map_err(|_| io::Error::other("the relay's thread panicked"))?;
        Ok([up?, down?])
    })
}

/// Carries one direction to its end; how many bytes.
fn carry(mut from: &TcpStream, to: &TcpStream, pace: Pace) -> io::Result<u64> {
    let mut output = Counted { inner: LinkWriter::spawn(to.try_clone()?, pace)?, bytes: 0 };
    // Whichever end broke, there is nothing more to carry in this direction, and both must learn it.
    let _ = io::copy(&mut from, &mut output);
    let bytes = output.bytes;
    drop(output);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
    Ok(bytes)
}

struct Counted {
    inner: LinkWriter,
    bytes: u64,
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        (near, listener.accept().expect("somebody connects").0)
    }

    #[test]
    fn both_directions_come_through_and_end() {
        let (mut client, from_client) = connection();
        let (to_server, mut server) = connection();
        let lan = NetworkProfile::lan();
        let relay = thread::spawn(move || relay(&from_client, &to_server, &lan));
        let sent = vec![7; 100_000];
        client.write_all(&sent).expect("sends");
        let mut received = vec![0; sent.len()];
        server.read_exact(&mut received).expect("arrives");
        assert_eq!(received, sent);
        server.write_all(b"enough").expect("sends");
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("ends in good order");
        assert_eq!(rest, b"enough");
        drop(client);
        assert_eq!(relay.join().expect("no panic").expect("carries"), [100_000, 6]);
    }
}
