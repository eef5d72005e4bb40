//! What carries the bytes: TCP, or memory for two parties in one process.

use crate::RuntimeError;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// A byte stream in both directions whose halves two threads can use at once.
pub trait Transport {
    /// The half that reads; end of file when the peer is gone.
    type Reader: Read + Send + 'static;
    /// The half that writes.
    type Writer: Write + Send + 'static;

    /// Whether a write returns at once whatever the peer does. Otherwise a channel writes from a thread of its own.
    const WRITES_AT_ONCE: bool = false;

    /// Takes it apart.
    ///
    /// # Errors
    /// What the operating system says.
    fn split(self) -> io::Result<(Self::Reader, Self::Writer)>;
}

/// A TCP connection.
#[derive(Debug)]
pub struct TcpTransport {
    stream: TcpStream,
}

impl TcpTransport {
    /// Over `stream`; a peer that neither sends nor takes anything for as long as `patience` counts as lost.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where the socket cannot be configured or `patience` is zero.
    pub fn new(stream: TcpStream, patience: Duration) -> Result<Self, RuntimeError> {
        let configure = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))
        };
        configure()
            .map_err(|source| RuntimeError::Io { what: "configure the connection", source })?;
        Ok(Self { stream })
    }
}

impl Transport for TcpTransport {
    type Reader = TcpStream;
    type Writer = TcpStream;

    fn split(self) -> io::Result<(TcpStream, TcpStream)> {
        Ok((self.stream.try_clone()?, self.stream))
    }
}

/// One end of a connection within the process. It holds back a writer whose reader does not keep up, as a
/// socket does.
#[derive(Debug)]
pub struct MemoryTransport {
    reader: MemoryReader,
    writer: MemoryWriter,
}

impl MemoryTransport {
    /// Both ends.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (to_second, from_first) = pipe();
        let (to_first, from_second) = pipe();
        let first = Self { reader: from_second, writer: to_second };
        (first, Self { reader: from_first, writer: to_first })
    }
}

impl Transport for MemoryTransport {
    type Reader = MemoryReader;
    type Writer = MemoryWriter;

    fn split(self) -> io::Result<(MemoryReader, MemoryWriter)> {
        Ok((self.reader, self.writer))
    }
}

/// Writes that may wait in a pipe.
const PIPE_DEPTH: usize = 2;

fn pipe() -> (MemoryWriter, MemoryReader) {
    let (sender, receiver) = sync_channel(PIPE_DEPTH);
    (MemoryWriter { sender }, MemoryReader { receiver, block: Vec::new(), taken: 0 })
}

/// The reading half of a [`MemoryTransport`].
#[derive(Debug)]
pub struct MemoryReader {
    receiver: Receiver<Vec<u8>>,
    block: Vec<u8>,
    taken: usize,
}

impl Read for MemoryReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.block.len() {
            let Ok(block) = self.receiver.recv() else { return Ok(0) };
            (self.block, self.taken) = (block, 0);
        }
        let read = (&self.block[self.taken..]).read(out)?;
        self.taken += read;
        Ok(read)
    }
}

/// The writing half of a [`MemoryTransport`].
#[derive(Debug)]
pub struct MemoryWriter {
    sender: SyncSender<Vec<u8>>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            self.sender
                .send(bytes.to_vec())
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
