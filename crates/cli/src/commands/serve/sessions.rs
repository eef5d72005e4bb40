//! Sessions side by side, each on a thread of its own.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, Scope};
use std::time::Duration;

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all, before the server ends; for ever where there is none.
    pub total: Option<usize>,
    /// Side by side, at least one. Further connections wait until one ends.
    pub at_once: usize,
}

/// Pause after a connection that could not begin: what it lacked, files or threads, takes a moment to come back.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `talk`, which says whether all went well, on each connection; how many sessions failed.
///
/// A session that fails or panics ends alone. A connection that fails before it has a thread is told to `warn`, and is
/// no session.
pub fn run<C: Send>(
    connections: impl IntoIterator<Item = io::Result<C>>,
    limits: Limits,
    talk: impl Fn(C) -> bool + Sync,
    mut warn: impl FnMut(io::Error),
) -> usize {
    let (report, reports) = channel();
    thread::scope(|scope| {
        let (mut begun, mut ended, mut failed) = (0, 0, 0);
        let mut end = |ended: &mut usize| {
            // We hold a sender, so that this waits for a session.
            failed += usize::from(!reports.recv().unwrap_or(false));
            *ended += 1;
        };
        let mut connections = connections.into_iter();
        while limits.total.is_none_or(|total| begun < total) {
            while begun - ended >= limits.at_once {
                end(&mut ended);
            }
            let Some(connection) = connections.next() else { break };
            match connection.and_then(|connection| begin(scope, connection, &talk, &report)) {
                Ok(()) => begun += 1,
                Err(error) => {
                    warn(error);
                    thread::sleep(PAUSE);
                }
            }
        }
        while ended < begun {
            end(&mut ended);
        }
        failed
    })
}

/// Starts a session, which reports whether it went well.
fn begin<'scope, C: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    connection: C,
    talk: &'scope (impl Fn(C) -> bool + Sync),
    report: &Sender<bool>,
) -> io::Result<()> {
    let report = report.clone();
    let session = move || {
        // Nothing that it leaves half done is shared: what sessions have in common does not change, or is on disk.
        let fine = catch_unwind(AssertUnwindSafe(|| talk(connection)));
        // Nobody listens only where the server itself has panicked.
        let _ = report.send(fine.unwrap_or(false));
    };
    thread::Builder::new().name("session".into()).spawn_scoped(scope, session)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn each_session_fails_alone_and_failed_connections_are_none() {
        let failed = || Err(io::ErrorKind::ConnectionAborted.into());
        let connections = [failed(), Ok("good"), failed(), Ok("panics"), Ok("bad"), Ok("too many")];
        let talk = |name| match name {
            "panics" => panic!("as it should"),
            "too many" => unreachable!("three are enough"),
            name => name == "good",
        };
        let mut warned = 0;
        let limits = Limits { total: Some(3), at_once: 9 };
        assert_eq!(run(connections, limits, talk, |_| warned += 1), 2);
        assert_eq!(warned, 2);
    }

    #[test]
    fn no_more_run_side_by_side_than_may() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let together = Barrier::new(3);
        let talk = |()| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            together.wait();
            running.fetch_sub(1, Ordering::SeqCst);
            true
        };
        let limits = Limits { total: None, at_once: 3 };
        assert_eq!(run((0..12).map(|_| Ok(())), limits, talk, |_| ()), 0);
        assert_eq!(most.into_inner(), 3);
    }
}
