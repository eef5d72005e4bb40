//! What carries the bytes: TCP, or memory for two parties in one process.

use crate::RuntimeError;
use std::io::{self, IoSlice, Read, Write};
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

    /// A way to write from the sender's own thread what goes without waiting, if there is one. The rest is left to the channel's
    /// thread.
    ///
    /// # Errors
    /// What the operating system says.
    fn shortcut(&self) -> io::Result<Option<Box<dyn Shortcut>>> {
        Ok(None)
    }

    /// Takes it apart.
    ///
    /// # Errors
    /// What the operating system says.
    fn split(self) -> io::Result<(Self::Reader, Self::Writer)>;
}

/// Writes without ever waiting.
pub trait Shortcut: Send {
    /// Writes as much of the parts, one after the other, as there is room for now; how many bytes that was, which may be none.
    ///
    /// # Errors
    /// What the operating system says.
    fn write_now(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
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

    #[cfg(target_os = "linux")]
    fn shortcut(&self) -> io::Result<Option<Box<dyn Shortcut>>> {
        Ok(Some(Box::new(TcpShortcut(self.stream.try_clone()?))))
    }

    fn split(self) -> io::Result<(TcpStream, TcpStream)> {
        Ok((self.stream.try_clone()?, self.stream))
    }
}

/// A connection that takes what fits its buffer in the kernel.
#[cfg(target_os = "linux")]
struct TcpShortcut(TcpStream);

#[cfg(target_os = "linux")]
impl Shortcut for TcpShortcut {
    fn write_now(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        use rustix::io::Errno;
        use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.0, parts, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                // On Linux WOULDBLOCK is the same.
                Err(Errno::AGAIN) => return Ok(0),
                other => return Ok(other?),
            }
        }
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
