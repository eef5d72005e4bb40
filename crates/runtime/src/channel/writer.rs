//! Writing so that whoever sends does not wait for the network.

use super::Waiting;
use super::transport::Shortcut;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Bytes that may wait to be written. Two parties that stream to each other can be this far apart.
const QUEUE_LIMIT: usize = 32 << 20;

/// Written frames that are kept for their room.
const SPARE_FRAMES: usize = 8;

/// Writes frames in order.
pub(super) enum Writer {
    /// From the caller's thread: the transport never makes it wait.
    Direct {
        /// Where to.
        output: Box<dyn Write + Send>,
        /// Room of the last frame.
        spare: Vec<u8>,
    },
    /// In the background.
    Background(Background),
}

impl Writer {
    /// Hands over a frame; waits while too much is waiting already.
    ///
    /// # Errors
    /// What the transport said when it failed, now or earlier.
    pub(super) fn push(&mut self, frame: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Direct { output, spare } => {
                let written = output.write_all(&frame).and_then(|()| output.flush());
                *spare = frame;
                written
            }
            Self::Background(thread) => thread.push(frame),
        }
    }

    /// Writes a frame from where its payload is. Does nothing and returns `false` where that would mean to wait; then it
    /// has to be [pushed](Self::push).
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn write_now(&mut self, header: &[u8], payload: &[u8]) -> io::Result<bool> {
        match self {
            Self::Direct { .. } => Ok(false),
            Self::Background(thread) => thread.write_now(header, payload),
        }
    }

    /// An empty frame, in the room of one that has been written where there is one.
    pub(super) fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self {
            Self::Direct { spare, .. } => std::mem::take(spare),
            Self::Background(thread) => thread.queue.lock().spare.pop().unwrap_or_default(),
        };
        frame.clear();
        frame
    }
}

/// A thread that writes; dropping it writes out the rest.
///
/// While it has nothing to do the caller's thread takes the shortcut, if there is one: waking another thread costs more than
/// writing.
pub(super) struct Background {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
    shortcut: Option<Box<dyn Shortcut>>,
    waiting: Waiting,
}

impl Background {
    pub(super) fn spawn(
        output: impl Write + Send + 'static,
        shortcut: Option<Box<dyn Shortcut>>,
        waiting: Waiting,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name("channel-writer".into())
            .spawn(move || shared.write_all_to(output))?;
        Ok(Self { queue, thread: Some(thread), shortcut, waiting })
    }

    fn push(&mut self, mut frame: Vec<u8>) -> io::Result<()> {
        if let Some(written) = self.take_shortcut(&[IoSlice::new(&frame)])? {
            if written == frame.len() {
                self.queue.lock().keep(frame);
                return Ok(());
            }
            frame.drain(..written);
        }
        self.enqueue(frame)
    }

    fn write_now(&mut self, header: &[u8], payload: &[u8]) -> io::Result<bool> {
        let parts = [IoSlice::new(header), IoSlice::new(payload)];
        let Some(written) = self.take_shortcut(&parts)? else { return Ok(false) };
        if written < header.len() + payload.len() {
            let mut rest = header[written.min(header.len())..].to_vec();
            rest.extend_from_slice(&payload[written.saturating_sub(header.len())..]);
            self.enqueue(rest)?;
        }
        Ok(true)
    }

    /// How many bytes of the parts went out at once; `None` where the thread has something to write first.
    fn take_shortcut(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match &mut self.shortcut {
            // Nobody but us gives it work, so it stays idle.
            Some(shortcut) if self.queue.lock().is_idle() => shortcut.write_now(parts).map(Some),
            _ => Ok(None),
        }
    }

    fn enqueue(&self, frame: Vec<u8>) -> io::Result<()> {
        let mut state = self.queue.lock();
        while state.failed.is_none() && state.bytes > 0 && state.bytes + frame.len() > QUEUE_LIMIT {
            state = self.waiting.during(|| self.queue.wait(state));
        }
        if let Some((kind, message)) = &state.failed {
            return Err(io::Error::new(*kind, message.clone()));
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        self.queue.changed.notify_all();
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked inside the transport; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Vec<u8>>,
    /// Written frames, whose room is used again.
    spare: Vec<Vec<u8>>,
    /// Of all frames not yet written, the one in the writer's hands included.
    bytes: usize,
    closed: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl State {
    /// Whether everything is written.
    fn is_idle(&self) -> bool {
        self.bytes == 0 && self.failed.is_none()
    }

    /// Keeps the room of a written frame.
    fn keep(&mut self, frame: Vec<u8>) {
        if self.spare.len() < SPARE_FRAMES {
            self.spare.push(frame);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's life: until the queue is closed and empty, or the transport fails.
    fn write_all_to(&self, mut output: impl Write) {
        while let Some(frame) = self.next() {
            let written = output.write_all(&frame).and_then(|()| output.flush());
            let mut state = self.lock();
            state.bytes -= frame.len();
            state.keep(frame);
            if let Err(error) = written {
                state.failed = Some((error.kind(), error.to_string()));
                state.frames.clear();
                state.bytes = 0;
            }
            self.changed.notify_all();
            if state.failed.is_some() {
                break;
            }
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        while state.frames.is_empty() && !state.closed {
            state = self.wait(state);
        }
        state.frames.pop_front()
    }
}
