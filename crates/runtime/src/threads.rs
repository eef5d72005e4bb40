//! The threads on which a party computes.

use crate::RuntimeError;
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A number of threads of which the session's own is one. They compute and never wait for the peer: messages are the
/// session's thread's alone. Clones are the same threads.
#[derive(Clone)]
pub struct Threads {
    pool: Arc<ThreadPool>,
}

impl Threads {
    /// So many threads, at least one.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where they cannot be started.
    pub fn new(count: usize) -> Result<Self, RuntimeError> {
        let builder = ThreadPoolBuilder::new().num_threads(count.max(1));
        let pool = builder.thread_name(|number| format!("party-{number}")).build();
        let failed =
            |error| RuntimeError::Io { what: "start threads", source: io::Error::other(error) };
        Ok(Self { pool: Arc::new(pool.map_err(failed)?) })
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f`, whose parallel loops use these threads and no others, while the session's thread waits.
    pub(crate) fn install<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.install(f)
    }

    /// Runs `f` on the session's thread, and what it spawns on the others; waits for all.
    pub(crate) fn scope<'scope, T>(&self, f: impl FnOnce(&Scope<'scope>) -> T) -> T {
        self.pool.in_place_scope(f)
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Threads").field(&self.count()).finish()
    }
}
