//! A link on which nobody waits and clocks run instead.

use super::Pace;
use crate::Transport;
use copriv_ir::{NetworkProfile, Party};
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One end of a connection within the process that keeps its own time.
///
/// Writing takes no time; reading a message sets this party's clock to its arrival, if that is later. As each
/// direction has one sender and keeps its order, the clocks do not depend on which thread runs when, only
/// on what waits for what. What is on the way is held in memory, however much it is.
#[derive(Debug)]
pub struct SimulatedTransport {
    reader: SimulatedReader,
    writer: SimulatedWriter,
}

/// A party's time on a simulated link.
#[derive(Clone, Debug, Default)]
pub struct SimulatedClock(Arc<Mutex<Times>>);

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    now: Duration,
    /// When the last byte that this party sent is there.
    delivered: Duration,
}

impl SimulatedTransport {
    /// Both ends of the network's link, server first.
    #[must_use]
    pub fn pair(profile: &NetworkProfile) -> (Self, Self) {
        let (to_client, from_server) = channel();
        let (to_server, from_client) = channel();
        let end = |party: Party, sender, receiver| {
            let clock = SimulatedClock::default();
            let pace = Pace::new(profile, party.sends());
            Self {
                reader: SimulatedReader {
                    clock: clock.clone(),
                    receiver,
                    block: Vec::new(),
                    taken: 0,
                },
                writer: SimulatedWriter { clock, pace, sender },
            }
        };
        let server = end(Party::Server, to_client, from_client);
        (server, end(Party::Client, to_server, from_server))
    }

    /// This end's clock; it goes on running with the channel that is made of this.
    #[must_use]
    pub fn clock(&self) -> SimulatedClock {
        self.writer.clock.clone()
    }
}

impl Transport for SimulatedTransport {
    type Reader = SimulatedReader;
    type Writer = SimulatedWriter;

    /// A write must see the clock as it stands when the party sends.
    const WRITES_AT_ONCE: bool = true;

    fn split(self) -> io::Result<(SimulatedReader, SimulatedWriter)> {
        Ok((self.reader, self.writer))
    }
}

impl SimulatedClock {
    /// Time since the link began: when all that this party received and sent so far has arrived.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.with(|times| times.now.max(times.delivered))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Times) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A frame and when it arrives.
type Timed = (Duration, Vec<u8>);

/// The reading half of a [`SimulatedTransport`].
#[derive(Debug)]
pub struct SimulatedReader {
    clock: SimulatedClock,
    receiver: Receiver<Timed>,
    block: Vec<u8>,
    taken: usize,
}

impl Read for SimulatedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.block.len() {
            let Ok((arrives, block)) = self.receiver.recv() else { return Ok(0) };
            self.clock.with(|times| times.now = times.now.max(arrives));
            (self.block, self.taken) = (block, 0);
        }
        let read = (&self.block[self.taken..]).read(out)?;
        self.taken += read;
        Ok(read)
    }
}

/// The writing half of a [`SimulatedTransport`].
#[derive(Debug)]
pub struct SimulatedWriter {
    clock: SimulatedClock,
    pace: Pace,
    sender: Sender<Timed>,
}

impl Write for SimulatedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            let pace = &mut self.pace;
            let arrives = self.clock.with(|times| {
                times.delivered = pace.send(times.now, bytes.len()).arrives;
                times.delivered
            });
            self.sender
                .send((arrives, bytes.to_vec()))
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Channel;
    use std::thread;

    #[test]
    fn clocks_follow_messages_and_nothing_else() {
        let (server, client) = SimulatedTransport::pair(&NetworkProfile::mobile());
        let clocks = [server.clock(), client.clock()];
        let mut server = Channel::new(server, Party::Server).expect("no thread is needed");
        let mut client = Channel::new(client, Party::Client).expect("no thread is needed");
        // 12,491 bytes and a header of 9 leave in 10 ms and arrive 30 ms later; 62,500 come back in 10 ms.
        let (ask, answer) = (vec![1; 12_491], vec![2; 62_491]);
        thread::scope(|scope| {
            scope.spawn(|| {
                server.recv(ask.len()).expect("arrives");
                server.send(&answer).expect("sends");
                server.flush().expect("flushes");
            });
            client.send(&ask).expect("sends");
            client.recv(answer.len()).expect("arrives");
        });
        let elapsed = clocks.map(|clock| clock.elapsed());
        assert_eq!(elapsed, [Duration::from_millis(80); 2]);
    }
}
