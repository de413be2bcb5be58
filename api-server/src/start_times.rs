//! How long the process took to start, counted from the start of whoever started it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vmm::metrics::PROCESS;

/// What the jailer says of its start, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartTimes {
    /// `CLOCK_MONOTONIC` when it started.
    pub(crate) monotonic_us: Option<u64>,
    /// Its CPU time when it started.
    pub(crate) cpu_us: Option<u64>,
    /// CPU time that it spent in another process.
    pub(crate) parent_cpu_us: Option<u64>,
}

impl StartTimes {
    /// Counts what was told; the process has started now.
    pub(crate) fn count(self) {
        let metrics = &PROCESS.api_server;
        if let Some(start_us) = self.monotonic_us {
            let took_us = now_us(ClockId::Monotonic).saturating_sub(start_us);
            metrics.process_startup_time_us.set(took_us);
        }
        if let Some(start_us) = self.cpu_us {
            let own_us = now_us(ClockId::ProcessCPUTime).saturating_sub(start_us);
            let parent_us = self.parent_cpu_us.unwrap_or_default();
            let took_us = own_us.saturating_add(parent_us);
            metrics.process_startup_time_cpu_us.set(took_us);
        }
    }
}

fn now_us(clock: ClockId) -> u64 {
    // Neither clock is ever negative.
    let now = Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
