//! A guest that measures devices: told by a byte on its serial port to begin, it ends with a line of counts.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::processor::Spent;
use crate::{Monitor, guest_kernel};

/// A monitor whose guest is ready to begin; ended when dropped.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _directory: TempDir,
}

/// What it took.
#[derive(Debug)]
pub struct Run {
    /// From the byte to the line.
    pub wall: Duration,
    /// Processor time of the monitor.
    pub spent: Spent,
    counts: HashMap<String, u64>,
}

impl Guest {
    /// Starts `kernel` with the words `line` and with `devices`, sections of a configuration file, and waits until
    /// it is ready.
    pub fn start(monitor: &Monitor, kernel: &str, line: &str, devices: &Value) -> Result<Self> {
        let directory = TempDir::new()?;
        let mut config = json!({
            "boot-source": { "kernel_image_path": guest_kernel(kernel)?, "boot_args": line },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
            "drives": [],
        });
        if let (Some(config), Some(devices)) = (config.as_object_mut(), devices.as_object()) {
            config.extend(devices.clone());
        }
        let path = directory.path().join("vm.json");
        fs::write(&path, config.to_string())?;
        let log = directory.path().join("log");
        fs::write(&log, "")?;
        let mut child = Command::new(&monitor.path)
            .args(["--no-api", "--config-file"])
            .arg(&path)
            .arg("--log-path")
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take().context("input is piped")?;
        let output = child.stdout.take().context("output is piped")?;
        let mut guest = Self {
            child,
            input,
            output: BufReader::new(output),
            _directory: directory,
        };
        guest.wait_for("ready")?;
        Ok(guest)
    }

    /// Lets it begin.
    pub fn begin(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"\n")?)
    }

    /// Lets it begin, and waits for its end.
    pub fn run(mut self) -> Result<Run> {
        let before = Spent::of(self.child.id())?;
        let begin = Instant::now();
        self.begin()?;
        let line = self.wait_for("done ")?;
        let wall = begin.elapsed();
        let spent = Spent::of(self.child.id())?.since(before);
        let pair = |word: &str| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        let counts = line.split_whitespace().filter_map(pair).collect();
        Ok(Run {
            wall,
            spent,
            counts,
        })
    }

    /// The first line that starts with `prefix`.
    fn wait_for(&mut self, prefix: &str) -> Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            // The other monitor's log may share the line.
            if let Some(at) = line.find(prefix) {
                return Ok(line.split_off(at));
            }
            line.clear();
        }
        bail!("the guest ended before it said {prefix:?}")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    /// What the guest counted under `name`.
    pub fn count(&self, name: &str) -> Result<u64> {
        let count = self.counts.get(name).copied();
        count.with_context(|| format!("the guest did not count {name}"))
    }

    /// `amount` for each of what the guest counted under `name`.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn per(&self, amount: u64, name: &str) -> Result<f64> {
        Ok(amount as f64 / self.count(name)?.max(1) as f64)
    }
}
