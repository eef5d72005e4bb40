//! A link simulated in real time.

use super::Pace;
use crate::Transport;
use copriv_ir::{NetworkProfile, Party};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that go on their way together: small enough that a stream arrives evenly.
const PIECE: usize = 16 << 10;

/// How far a writer may be ahead of the link, as into a socket's buffer; so the link never idles while
/// the writer sleeps.
const AHEAD: Duration = Duration::from_millis(5);

/// Pieces that may wait for delivery besides those that the link itself holds.
const SLACK: usize = 256;

/// A transport on which everything that this end sends is held back as a slow link would. Both ends of a line need
/// one, each for its own direction.
#[derive(Debug)]
pub struct LinkTransport<T> {
    inner: T,
    pace: Pace,
}

impl<T: Transport> LinkTransport<T> {
    /// `party`'s end of a line over `inner`, as slow as the network.
    #[must_use]
    pub fn new(inner: T, party: Party, profile: &NetworkProfile) -> Self {
        Self { inner, pace: Pace::new(profile, party.sends()) }
    }
}

impl<T: Transport> Transport for LinkTransport<T> {
    type Reader = T::Reader;
    type Writer = LinkWriter;

    fn split(self) -> io::Result<(T::Reader, LinkWriter)> {
        let (reader, writer) = self.inner.split()?;
        Ok((reader, LinkWriter::spawn(writer, self.pace)?))
    }
}

/// Delivers what is written to it later, from a thread of its own. A write waits until the link has room for it,
/// but never for the delay. Dropping it waits until everything is delivered.
#[derive(Debug)]
pub struct LinkWriter {
    pace: Pace,
    start: Instant,
    pieces: Option<SyncSender<Piece>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Piece {
    arrives: Instant,
    bytes: Vec<u8>,
}

impl LinkWriter {
    /// Delivers to `output` at this pace.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(output: impl Write + Send + 'static, pace: Pace) -> io::Result<Self> {
        let (pieces, arrivals) = sync_channel(pace.in_flight() / PIECE + SLACK);
        let thread =
            thread::Builder::new().name("link".into()).spawn(move || deliver(&arrivals, output))?;
        Ok(Self { pace, start: Instant::now(), pieces: Some(pieces), thread: Some(thread) })
    }
}

impl Write for LinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE)];
        let passage = self.pace.send(self.start.elapsed(), bytes.len());
        let piece = Piece { arrives: self.start + passage.arrives, bytes: bytes.to_vec() };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let pieces = self.pieces.as_ref().ok_or_else(gone)?;
        pieces.send(piece).map_err(|_| gone())?;
        sleep_until(self.start + passage.left.saturating_sub(AHEAD));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LinkWriter {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // It can only have panicked inside the transport; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Hands each piece over when it arrives, until nobody sends or nobody takes any more.
fn deliver(arrivals: &Receiver<Piece>, mut output: impl Write) {
    for Piece { arrives, bytes } in arrivals {
        sleep_until(arrives);
        if output.write_all(&bytes).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, MemoryTransport, RuntimeError};

    #[test]
    fn bytes_come_through_whole_and_in_order() {
        let (server, client) = MemoryTransport::pair();
        let lan = NetworkProfile::lan();
        let end = |inner, party| Channel::new(LinkTransport::new(inner, party, &lan), party);
        let mut server = end(server, Party::Server).expect("threads start");
        let mut client = end(client, Party::Client).expect("threads start");
        let sent: Vec<u8> = (0..3 * PIECE + 7).map(|i| (i % 251) as u8).collect();
        client.send(&sent).expect("sends");
        client.flush().expect("flushes");
        assert_eq!(server.recv(sent.len()).expect("arrives"), sent);
        server.send(b"enough").expect("sends");
        drop(server);
        assert_eq!(client.recv(6).expect("what was sent before the end arrives"), b"enough");
        assert!(matches!(client.recv(1), Err(RuntimeError::ConnectionLost { .. })));
    }
}
