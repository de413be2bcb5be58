//! What the outer machine's kernel says of the monitor's process.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How often something is looked at that takes time.
const LOOK: Duration = Duration::from_millis(100);

/// A process by its number.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// How many files it has open.
    pub fn open_files(self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0))?.count())
    }

    /// Memory of the machine that it occupies, in MiB (`Rss` in `/proc/PID/smaps_rollup`).
    pub fn resident_mib(self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"))
            .with_context(|| format!("no Rss in {path}"))?;
        Ok(kib.parse::<u64>()? / 1024)
    }

    /// Waits until it occupies at most this much.
    pub fn shrinks_to(self, mib: u64, limit: Duration) -> Result<()> {
        let mut now = 0;
        let is_small = wait_until(limit, || {
            now = self.resident_mib()?;
            Ok(now <= mib)
        })?;
        println!("the monitor occupies {now} MiB");
        ensure!(
            is_small,
            "the monitor still occupies {now} MiB, not {mib} MiB or less"
        );
        Ok(())
    }
}

/// Looks again and again until something is so. `false` if it is not so in time.
pub fn wait_until(limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while !is_so()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}
