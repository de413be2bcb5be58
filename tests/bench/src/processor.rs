//! Processor time of a monitor, thread by thread, from the scheduler's own count in nanoseconds
//! (Linux `Documentation/scheduler/sched-stats.rst`, `/proc/<pid>/task/<tid>/schedstat`).

use std::fs;
use std::io;

use anyhow::{Context, Result};

/// Nanoseconds on a processor since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Threads that run no vCPU.
    pub devices: u64,
    /// All threads.
    pub process: u64,
}

impl Spent {
    /// What the process `pid` spent up to now.
    pub fn of(pid: u32) -> Result<Self> {
        let mut spent = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let read = |name| fs::read_to_string(task.join(name));
            let (name, times) = match (read("comm"), read("schedstat")) {
                (Ok(name), Ok(times)) => (name, times),
                // It has ended since.
                (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
            let time: u64 = times
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .context("this kernel counts no time in schedstat (CONFIG_SCHED_INFO)")?;
            spent.process += time;
            if !name.contains("vcpu") {
                spent.devices += time;
            }
        }
        Ok(spent)
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            devices: self.devices.saturating_sub(earlier.devices),
            process: self.process.saturating_sub(earlier.process),
        }
    }
}
