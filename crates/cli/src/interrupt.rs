//! Signals that ask a run to stop in good order.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Exit status of a run that was told to stop and can be gone on with: `EX_TEMPFAIL` of sysexits.h.
const STOPPED: u8 = 75;

/// The exit status of a run that was stopped.
pub fn stopped() -> ExitCode {
    ExitCode::from(STOPPED)
}

/// Signals so close to the first are the same wish: schedulers signal a script and its children, and the script passes it on.
const TOGETHER: Duration = Duration::from_secs(1);

/// A flag that Ctrl-C sets, as do a termination and a hang-up; a later one of them ends the program at once. A hang-up is
/// ignored where it was before, as under `nohup`.
///
/// # Errors
/// Where the system takes no handler.
pub fn stop_flag() -> Result<Arc<AtomicBool>, ctrlc::Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let mut first: Option<Instant> = None;
    let handle = move || {
        flag.store(true, Ordering::SeqCst);
        if first.get_or_insert_with(Instant::now).elapsed() > TOGETHER {
            std::process::exit(1);
        }
    };
    keep_hang_up(|| ctrlc::set_handler(handle))?;
    Ok(stop)
}

/// Sets handlers, but has hang-ups ignored afterwards if they were.
#[cfg(unix)]
fn keep_hang_up<T>(set: impl FnOnce() -> T) -> T {
    // SAFETY: both dispositions are constants of the system; no handler is written here.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    let result = set();
    if before == libc::SIG_IGN {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    result
}

#[cfg(not(unix))]
fn keep_hang_up<T>(set: impl FnOnce() -> T) -> T {
    set()
}
