//! What this process has used: CPU time and memory.

use copriv_runtime::{Channel, Waiting};
use cpu_time::ProcessTime;
use std::fs;
use std::time::Instant;

/// A moment in the life of this process.
#[derive(Clone, Copy)]
pub struct Moment {
    wall: Instant,
    cpu: ProcessTime,
    waited: [f64; 2],
}

/// How long each party has waited: the server, the client.
#[derive(Clone, Default)]
pub struct Waits([Waiting; 2]);

impl Waits {
    pub fn of(server: &Channel, client: &Channel) -> Self {
        Self([server.waiting(), client.waiting()])
    }
}

/// What passed between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of all threads of the process, in the kernel too.
    pub cpu: f64,
    /// Of the seconds on the clock, those that the server's, the client's talking thread stood still.
    pub waited: [f64; 2],
}

impl Moment {
    pub fn now(waits: &Waits) -> Self {
        let waited = waits.0.each_ref().map(Waiting::seconds);
        Self { wall: Instant::now(), cpu: ProcessTime::now(), waited }
    }

    pub fn since(self, earlier: Self) -> Spent {
        Spent {
            wall: self.wall.duration_since(earlier.wall).as_secs_f64(),
            cpu: self.cpu.duration_since(earlier.cpu).as_secs_f64(),
            waited: [0, 1].map(|party| self.waited[party] - earlier.waited[party]),
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.waited.iter_mut().zip(other.waited).for_each(|(sum, waited)| *sum += waited);
    }
}

/// Makes [`peak_memory`] start from what is in use now, where the system can.
pub fn reset_peak_memory() {
    // A system that cannot reports the peak of the whole run, which is still an upper bound.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Most bytes that this process had in memory at once; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
