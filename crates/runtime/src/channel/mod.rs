//! The line between the two parties: ordered, buffered, counted.

mod frame;
mod meter;
mod transport;
mod waiting;
mod writer;

pub use frame::{Control, Refusal};
pub use transport::{
    MemoryReader, MemoryTransport, MemoryWriter, Shortcut, TcpTransport, Transport,
};

pub use waiting::Waiting;

use crate::RuntimeError;
use copriv_ir::{CommTable, Party, Phase, StepId};
use frame::{HEADER, Header, Kind, MAX_PAYLOAD, Tag};
use meter::{LaneClock, Meter};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::{Deref, DerefMut};
use writer::{Background, Writer};

/// Small messages wait for each other until so many bytes are there (or somebody receives or flushes).
const EAGER: usize = 64 << 10;

/// Bytes that may be read ahead: enough for headers and small messages, for large ones go straight to their place.
const READ_AHEAD: usize = 8 << 10;

/// One party's end of the line.
///
/// Messages are byte strings whose lengths both parties know beforehand: what one sends in one call the
/// other may receive in several. All payload bytes are booked under the current (step, phase), see
/// [`Channel::enter`], and rounds are counted as the longest chain of messages that wait for one another.
///
/// Sending never waits for the peer to receive, up to 32 MiB of data on the way. A party that streams more
/// than that while replies come back must take them in as it goes.
pub struct Channel {
    party: Party,
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Writer,
    /// A data frame being filled, room for the header in front.
    outgoing: Vec<u8>,
    /// The stamp of all bytes in `outgoing`.
    stamp: u32,
    /// Bytes left to read of the data frame that came last.
    incoming: usize,
    meter: Meter,
    waiting: Waiting,
}

impl Channel {
    /// `party`'s end of the line over a transport. Accounting starts with step 0 in the setup phase.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where the transport cannot be split or no thread started.
    pub fn new<T: Transport>(transport: T, party: Party) -> Result<Self, RuntimeError> {
        let split = |source| RuntimeError::Io { what: "split the connection", source };
        let shortcut = transport.shortcut().map_err(split)?;
        let (reader, writer) = transport.split().map_err(split)?;
        let waiting = Waiting::default();
        let writer = if T::WRITES_AT_ONCE {
            Writer::Direct { output: Box::new(writer), spare: Vec::new() }
        } else {
            let thread = Background::spawn(writer, shortcut, waiting.clone())
                .map_err(|source| RuntimeError::Io { what: "start a thread", source })?;
            Writer::Background(thread)
        };
        Ok(Self {
            party,
            reader: BufReader::with_capacity(READ_AHEAD, Box::new(reader)),
            writer,
            outgoing: vec![0; HEADER],
            stamp: 0,
            incoming: 0,
            meter: Meter::new(party),
            waiting,
        })
    }

    /// Both ends of a line within the process, server first.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where no thread can be started.
    pub fn pair() -> Result<(Self, Self), RuntimeError> {
        let (server, client) = MemoryTransport::pair();
        Ok((Self::new(server, Party::Server)?, Self::new(client, Party::Client)?))
    }

    /// Whose end this is.
    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// How long this end waits, now and wherever the channel goes.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// Sends a message. It may wait in a buffer until [`Self::flush`] or the next receive.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`].
    pub fn send(&mut self, mut message: &[u8]) -> Result<(), RuntimeError> {
        if message.is_empty() {
            return Ok(());
        }
        let stamp = self.meter.send(message.len());
        if stamp != self.stamp {
            self.flush()?;
            self.stamp = stamp;
        }
        if message.len() >= EAGER {
            self.flush()?;
        }
        while !message.is_empty() {
            if self.outgoing.len() == HEADER && message.len() >= EAGER {
                let (now, later) = message.split_at(MAX_PAYLOAD.min(message.len()));
                let header = Header { payload: now.len(), stamp, kind: Kind::Data }.encode();
                let written = self.writer.write_now(&header, now);
                if written.map_err(|source| self.lost(source))? {
                    message = later;
                    continue;
                }
            }
            let room = HEADER + MAX_PAYLOAD - self.outgoing.len();
            let (now, later) = message.split_at(room.min(message.len()));
            self.outgoing.extend_from_slice(now);
            message = later;
            if self.outgoing.len() >= EAGER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Receives `len` bytes, `len` being what the protocol says.
    ///
    /// # Errors
    /// As [`Self::recv_into`].
    pub fn recv(&mut self, len: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut message = vec![0; len];
        self.recv_into(&mut message)?;
        Ok(message)
    }

    /// Receives as many bytes as `message` holds, after sending out what waits in the buffer.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`], [`RuntimeError::PeerAborted`] where the peer gave up,
    /// [`RuntimeError::PeerMisbehaved`] where it sent something else.
    pub fn recv_into(&mut self, mut message: &mut [u8]) -> Result<(), RuntimeError> {
        if message.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let len = message.len();
        while !message.is_empty() {
            if self.incoming == 0 {
                self.incoming = self.next_data()?;
            }
            let (now, later) = message.split_at_mut(self.incoming.min(message.len()));
            self.read(now)?;
            self.incoming -= now.len();
            message = later;
        }
        self.meter.receive(len);
        Ok(())
    }

    /// Sends `ours` while the peer sends `theirs`, in one round however long they are.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::recv_into`].
    pub fn exchange(&mut self, ours: &[u8], theirs: &mut [u8]) -> Result<(), RuntimeError> {
        let mut lane = self.lane();
        let mut parts = ours.chunks(MAX_PAYLOAD);
        for theirs in theirs.chunks_mut(MAX_PAYLOAD) {
            lane.send(parts.next().unwrap_or_default())?;
            lane.recv_into(theirs)?;
        }
        parts.try_for_each(|ours| lane.send(ours))
    }

    /// Sends out what waits in the buffer.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`].
    pub fn flush(&mut self) -> Result<(), RuntimeError> {
        let payload = self.outgoing.len() - HEADER;
        if payload == 0 {
            return Ok(());
        }
        let header = Header { payload, stamp: self.stamp, kind: Kind::Data };
        let mut next = self.writer.frame();
        next.resize(HEADER, 0);
        let mut frame = std::mem::replace(&mut self.outgoing, next);
        frame[..HEADER].copy_from_slice(&header.encode());
        self.push(frame)
    }

    /// From here on, books everything under another step and phase and restarts the logical clock, unless one online step
    /// follows another. Both parties enter the same ones in the same order.
    ///
    /// # Errors
    /// [`RuntimeError::PeerMisbehaved`] where the peer has sent more than was received.
    pub fn enter(&mut self, step: StepId, phase: Phase) -> Result<(), RuntimeError> {
        self.flush()?;
        self.nothing_left("end of a step")?;
        self.meter.enter(step, phase);
        Ok(())
    }

    /// Opens a lane: until it is dropped, all sends count as sent at this moment, whatever is received
    /// meanwhile. A stream of blocks whose replies come back while later blocks leave is two rounds.
    pub fn lane(&mut self) -> Lane<'_> {
        let outer = self.meter.open_lane();
        Lane { channel: self, outer }
    }

    /// Sends that answer what came last: until it is dropped, they count as sent now, even within a lane.
    pub fn answer(&mut self) -> Lane<'_> {
        let outer = self.meter.suspend_lane();
        Lane { channel: self, outer }
    }

    /// Lets all that follows count as later than all that was sent and received so far in this step and phase. Both
    /// parties call it between the same two messages, everything sent having been received.
    pub fn barrier(&mut self) {
        self.meter.barrier();
    }

    /// What was sent and received since the last [`Self::take_comm`].
    #[must_use]
    pub fn comm(&self) -> CommTable {
        self.meter.table()
    }

    /// What was sent and received since the last call, forgotten afterwards. Both parties call it between the
    /// same two messages, everything sent having been received.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn take_comm(&mut self) -> Result<CommTable, RuntimeError> {
        self.flush()?;
        self.nothing_left("end of an inference")?;
        Ok(self.meter.take())
    }

    /// Payload bytes of both directions, ever.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.meter.bytes()
    }

    /// Sends a control word at once. Not counted.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`].
    pub fn send_control(&mut self, control: Control) -> Result<(), RuntimeError> {
        self.flush()?;
        self.push(control.encode())
    }

    /// Waits for the peer's next control word.
    ///
    /// # Errors
    /// [`RuntimeError::PeerAborted`] on an `Abort`, [`RuntimeError::PeerMisbehaved`] on data,
    /// [`RuntimeError::ConnectionLost`].
    pub fn recv_control(&mut self) -> Result<Control, RuntimeError> {
        self.flush()?;
        self.nothing_left("control frame")?;
        let Header { payload, stamp, kind } = self.next_header()?;
        let Kind::Control(tag) = kind else {
            return Err(self.misbehaved("control frame", "a control word", "data"));
        };
        let mut body = vec![0; payload];
        self.read(&mut body)?;
        match Control::decode((tag, stamp), &body, self.peer())? {
            Control::Abort => Err(RuntimeError::PeerAborted { peer: self.peer() }),
            control => Ok(control),
        }
    }

    /// Sends bytes as they are, without a frame: the handshake, before anything else. They count as the
    /// first round.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`].
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.meter.send(bytes.len());
        self.push(bytes.to_vec())
    }

    /// Receives bytes that the peer sent by [`Self::send_raw`], or whatever a foreign peer says first.
    ///
    /// # Errors
    /// [`RuntimeError::ConnectionLost`].
    pub fn recv_raw(&mut self, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        self.read(bytes)?;
        self.meter.receive(bytes.len());
        self.meter.see(1);
        Ok(())
    }

    /// An error for a message of the peer that breaks the protocol.
    #[must_use]
    pub fn misbehaved(
        &self,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> RuntimeError {
        let (expected, found) = (expected.into(), found.into());
        RuntimeError::PeerMisbehaved { peer: self.peer(), what, expected, found }
    }

    fn peer(&self) -> Party {
        self.party.peer()
    }

    fn lost(&self, source: io::Error) -> RuntimeError {
        RuntimeError::ConnectionLost { peer: self.peer(), source }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        let Self { waiting, reader, .. } = self;
        waiting.during(|| reader.read_exact(bytes)).map_err(|source| self.lost(source))
    }

    fn push(&mut self, frame: Vec<u8>) -> Result<(), RuntimeError> {
        self.writer.push(frame).map_err(|source| self.lost(source))
    }

    /// Reads on to the next data frame; its length.
    fn next_data(&mut self) -> Result<usize, RuntimeError> {
        let header = self.next_header()?;
        match header.kind {
            Kind::Data if self.meter.is_possible(header.stamp) => {
                self.meter.see(header.stamp);
                Ok(header.payload)
            }
            Kind::Data => {
                let found = format!("round {}", header.stamp);
                Err(self.misbehaved("frame header", "the next round", found))
            }
            Kind::Control(Tag::Goodbye | Tag::Abort) => {
                Err(RuntimeError::PeerAborted { peer: self.peer() })
            }
            Kind::Control(tag) => Err(self.misbehaved("message", "data", format!("{tag:?}"))),
        }
    }

    fn next_header(&mut self) -> Result<Header, RuntimeError> {
        let mut header = [0; HEADER];
        self.read(&mut header)?;
        Header::decode(header, self.peer())
    }

    fn nothing_left(&self, what: &'static str) -> Result<(), RuntimeError> {
        if self.incoming == 0 {
            return Ok(());
        }
        Err(self.misbehaved(what, "no more bytes", format!("{} more", self.incoming)))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // What the caller did not care to flush may be lost with the connection.
        let _ = self.flush();
        // Reading ends before the writer is waited for: two parties that go at once, both with a full
        // queue, would otherwise wait for each other.
        self.reader = BufReader::with_capacity(0, Box::new(io::empty()));
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("party", &self.party).finish_non_exhaustive()
    }
}

/// A channel whose sends all count as sent when the lane was opened: see [`Channel::lane`].
#[derive(Debug)]
pub struct Lane<'a> {
    channel: &'a mut Channel,
    outer: Option<LaneClock>,
}

impl Deref for Lane<'_> {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        self.channel
    }
}

impl DerefMut for Lane<'_> {
    fn deref_mut(&mut self) -> &mut Channel {
        self.channel
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.channel.meter.close_lane(self.outer);
    }
}

#[cfg(test)]
mod tests;
