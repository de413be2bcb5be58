//! Times and memory, measured from outside.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::machine::connect;
use crate::leftovers::{Leftovers, Process};
use crate::screen::time;

/// Runs for the start-up times.
const RUNS: usize = 21;
const PATIENCE: Duration = Duration::from_secs(20);

/// One time, measured again and again.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, sample: Duration) {
        let at = self.0.partition_point(|other| *other < sample);
        self.0.insert(at, sample);
    }

    /// The one in the middle.
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// How many, the smallest and the largest.
    pub fn spread(&self) -> String {
        let [first, last] = [self.0.first(), self.0.last()].map(|s| s.copied().unwrap_or_default());
        format!(
            "median of {} runs; {} to {}",
            self.0.len(),
            time(first),
            time(last)
        )
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fastest = self.0.first().copied().unwrap_or_default();
        write!(f, "{}, fastest {}", time(self.median()), time(fastest))
    }
}

/// Start and end of a monitor whose kernel prints a byte with its first instructions, then resets.
#[derive(Default)]
pub struct StartUp {
    /// Process start to an accepted connection.
    pub to_socket: Samples,
    /// `InstanceStart` to the guest's first byte.
    pub start_to_byte: Samples,
    /// Process start to the guest's first byte, described by a configuration file.
    pub to_byte: Samples,
    /// Process start to its end, the same way.
    pub to_exit: Samples,
}

impl StartUp {
    /// Starts the kernel again and again, both ways.
    pub fn measure(monitor: &Path, kernel: &Path, leftovers: &Leftovers) -> Result<Self> {
        let boot = json!({"kernel_image_path": kernel});
        let config = leftovers.path("first_byte.json");
        let body = json!({"boot-source": boot, "drives": []});
        fs::write(&config, body.to_string())?;
        let mut times = Self::default();
        for _ in 0..RUNS {
            times.by_config_file(monitor, &config, leftovers)?;
            times.by_socket(monitor, &boot, leftovers)?;
        }
        Ok(times)
    }

    fn by_config_file(
        &mut self,
        monitor: &Path,
        config: &Path,
        leftovers: &Leftovers,
    ) -> Result<()> {
        let mut command = quiet(monitor, leftovers);
        command.args(["--no-api", "--config-file"]).arg(config);
        let begin = Instant::now();
        let mut process = leftovers.spawn(&mut command)?;
        self.to_byte.add(first_byte(&mut process, begin)?);
        end(&mut process)?;
        self.to_exit.add(begin.elapsed());
        Ok(())
    }

    fn by_socket(&mut self, monitor: &Path, boot: &Value, leftovers: &Leftovers) -> Result<()> {
        let socket = leftovers.path("first_byte.sock");
        let mut command = quiet(monitor, leftovers);
        command.arg("--api-sock").arg(&socket);
        let begin = Instant::now();
        let mut process = leftovers.spawn(&mut command)?;
        let mut client = connect(&mut process, &socket, begin)?;
        self.to_socket.add(begin.elapsed());
        let answer = client.put("/boot-source", Some(boot))?;
        ensure!(answer.is_success(), "the boot source was refused");
        let begin = Instant::now();
        // A guest this short may end the process before the answer is read.
        let _ = client.put("/actions", Some(&json!({"action_type": "InstanceStart"})));
        self.start_to_byte.add(first_byte(&mut process, begin)?);
        end(&mut process)
    }
}

/// A monitor that reads and logs nothing here.
fn quiet(monitor: &Path, leftovers: &Leftovers) -> Command {
    let mut command = Command::new(monitor);
    command.arg("--log-path").arg(leftovers.path("log"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Time until the guest's byte came.
fn first_byte(process: &mut Process, begin: Instant) -> Result<Duration> {
    let mut output = process
        .child()
        .stdout
        .take()
        .context("the monitor was started without a pipe")?;
    let mut byte = [0];
    output
        .read_exact(&mut byte)
        .context("the guest printed nothing")?;
    ensure!(byte == *b"!", "the guest printed {byte:?} first");
    Ok(begin.elapsed())
}

fn end(process: &mut Process) -> Result<()> {
    let status = process.wait(PATIENCE)?;
    ensure!(status.success(), "the monitor ended with {status}");
    Ok(())
}

/// Memory of a monitor without the guest's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Mapped by this process alone at the moment.
    pub private_kib: u64,
    /// Of that, what no file holds. The rest is the program itself, which monitors share.
    pub own_kib: u64,
}

impl Memory {
    /// Reads the process's map. The guest's memory is told by its size.
    pub fn beyond_guest(pid: u32, guest_mib: u64) -> Result<Self> {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))
            .context("cannot read the monitor's memory map")?;
        Ok(Self::sum(&smaps, guest_mib << 10))
    }

    fn sum(smaps: &str, guest_kib: u64) -> Self {
        let mut memory = Self::default();
        let mut is_guest = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(Ok(kib))) = (words.next(), words.next().map(str::parse::<u64>))
            else {
                continue;
            };
            match key {
                "Size:" => is_guest = kib >= guest_kib,
                "Private_Clean:" | "Private_Dirty:" if !is_guest => memory.private_kib += kib,
                "Anonymous:" if !is_guest => memory.own_kib += kib,
                _ => {}
            }
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let mut samples = Samples::default();
        for ms in [9, 1, 2] {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!(samples.median(), Duration::from_millis(2));
        assert_eq!(samples.spread(), "median of 3 runs; 1.00 ms to 9.00 ms");
    }

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "5581-5582 r--p 0 00:00 12 /x\nSize: 4 kB\nPrivate_Clean: 1 kB\nAnonymous: 0 kB\n\
            7000-8000 rw-p 0 00:00 0\nSize: 131072 kB\nPrivate_Dirty: 100 kB\nAnonymous: 100 kB\n\
            9000-9100 rw-p 0 00:00 0\nSize: 8 kB\nPrivate_Dirty: 8 kB\nAnonymous: 8 kB\n";
        let expected = Memory {
            private_kib: 9,
            own_kib: 8,
        };
        assert_eq!(Memory::sum(smaps, 131_072), expected);
    }
}
