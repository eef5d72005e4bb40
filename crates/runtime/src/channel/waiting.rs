//! How long a party waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The time in which a channel's owner stood still: for something to arrive, copying it out of the transport included, or for
/// room to send. Goes on counting wherever the channel is moved.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    nanoseconds: Arc<AtomicU64>,
}

impl Waiting {
    /// Seconds so far, without a wait that has not ended yet.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// Counts how long `f` takes.
    pub(super) fn during<T>(&self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        let passed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(passed, Ordering::Relaxed);
        result
    }
}
