//! How long a guest took to boot, for `--boot-timer`.

use std::time::{Duration, Instant};

use devices::legacy::BootTimer;
use rustix::time::{ClockId, clock_gettime};

/// Counts from when a client asked for the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootClock {
    asked: Instant,
    /// The process' CPU time then.
    cpu: Duration,
}

impl BootClock {
    /// Counts from now on.
    pub(crate) fn start() -> Self {
        Self {
            asked: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// A device that logs what this has counted when the guest says that it has booted.
    pub(crate) fn device(self) -> BootTimer {
        BootTimer::new(Box::new(move || {
            let wall = self.asked.elapsed();
            let cpu = cpu_time().saturating_sub(self.cpu);
            tracing::info!("{}", line(wall, cpu));
        }))
    }
}

/// The words that readers of logs look for.
fn line(wall: Duration, cpu: Duration) -> String {
    format!(
        "Guest-boot-time = {:>6} us {} ms, {:>6} CPU us {} CPU ms",
        wall.as_micros(),
        wall.as_millis(),
        cpu.as_micros(),
        cpu.as_millis()
    )
}

/// CPU time of all threads, those of vCPUs with the guest's work among them.
fn cpu_time() -> Duration {
    // The clock is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_both_units() {
        let told = line(Duration::from_nanos(45_678_999), Duration::from_micros(990));
        assert_eq!(
            told,
            "Guest-boot-time =  45678 us 45 ms,    990 CPU us 0 CPU ms"
        );
        let long = line(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(
            long,
            "Guest-boot-time = 2000000 us 2000 ms, 1000000 CPU us 1000 CPU ms"
        );
    }
}
