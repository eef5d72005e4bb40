//! Writing so that whoever sends does not wait for the network.

use std::collections::VecDeque;
use std::io::{self, Write};
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
#[derive(Debug)]
pub(super) struct Background {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn spawn(output: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name("channel-writer".into())
            .spawn(move || shared.write_all_to(output))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    fn push(&self, frame: Vec<u8>) -> io::Result<()> {
        let mut state = self.queue.lock();
        while state.failed.is_none() && state.bytes > 0 && state.bytes + frame.len() > QUEUE_LIMIT {
            state = self.queue.wait(state);
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
            if state.spare.len() < SPARE_FRAMES {
                state.spare.push(frame);
            }
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
