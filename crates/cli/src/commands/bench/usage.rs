//! What this process has used: CPU time and memory.

use cpu_time::ProcessTime;
use std::fs;
use std::time::Instant;

/// A moment in the life of this process.
#[derive(Clone, Copy)]
pub struct Moment {
    wall: Instant,
    cpu: ProcessTime,
}

/// What passed between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of all threads of the process, in the kernel too.
    pub cpu: f64,
}

impl Moment {
    pub fn now() -> Self {
        Self { wall: Instant::now(), cpu: ProcessTime::now() }
    }

    pub fn since(self, earlier: Self) -> Spent {
        Spent {
            wall: self.wall.duration_since(earlier.wall).as_secs_f64(),
            cpu: self.cpu.duration_since(earlier.cpu).as_secs_f64(),
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
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
