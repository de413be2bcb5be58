//! Memory of a running monitor beyond the guest's.
//!
//! Two monitors of a kind run, so that what they share (the program's pages) shows as shared, as it is on any
//! machine that this is made for.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api_client::Client;
use serde_json::json;
use tempfile::TempDir;

use crate::statistics::{Samples, Table};
use crate::{Monitor, guest_kernel};

/// Runs of each monitor.
const RUNS: usize = 5;

/// Guest memory, MiB: large enough to tell its mapping from the monitor's own.
const GUEST_MIB: u64 = 128;

/// Measures the memory of an idle microVM.
pub fn measure(monitors: &[Monitor], table: &mut Table) -> Result<()> {
    let mut figures: Vec<[Samples; 3]> = monitors.iter().map(|_| Default::default()).collect();
    for _ in 0..RUNS {
        for (monitor, samples) in monitors.iter().zip(&mut figures) {
            for (sample, kib) in samples.iter_mut().zip(idle_memory(monitor)?) {
                #[expect(clippy::cast_precision_loss, reason = "a few thousand KiB")]
                sample.add(kib as f64);
            }
        }
    }
    let names = [
        "resident beyond guest memory (RSS)",
        "proportional beyond guest memory (PSS)",
        "private beyond guest memory",
    ];
    let mut columns: Vec<_> = figures.into_iter().map(IntoIterator::into_iter).collect();
    for name in names {
        let row = columns.iter_mut().filter_map(Iterator::next).collect();
        table.add(name, "KiB", row);
    }
    Ok(())
}

/// RSS, PSS and private KiB of a monitor whose guest sleeps, without the guest's memory.
fn idle_memory(monitor: &Monitor) -> Result<[u64; 3]> {
    let measured = Running::start(monitor)?;
    let _beside = Running::start(monitor)?;
    thread::sleep(Duration::from_millis(300));
    let pid = measured.child.id();
    beyond_guest(&fs::read_to_string(format!("/proc/{pid}/smaps"))?)
}

/// A monitor whose guest sleeps; ended when dropped.
struct Running {
    child: Child,
    _directory: TempDir,
}

impl Running {
    fn start(monitor: &Monitor) -> Result<Self> {
        let directory = TempDir::new()?;
        let socket = directory.path().join("api.sock");
        let child = Command::new(&monitor.path)
            .arg("--api-sock")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Self {
            child,
            _directory: directory,
        };
        start_guest(&socket)?;
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_guest(socket: &Path) -> Result<()> {
    let mut client = Client::connect_within(socket, Duration::from_secs(5))?;
    let boot_source = json!({ "kernel_image_path": guest_kernel("halt")? });
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": GUEST_MIB });
    let action = json!({ "action_type": "InstanceStart" });
    for (path, body) in [
        ("/machine-config", machine),
        ("/boot-source", boot_source),
        ("/actions", action),
    ] {
        ensure!(client.put(path, Some(&body))?.status == 204, "PUT {path}");
    }
    Ok(())
}

/// Sums smaps over the mappings that are not guest memory.
fn beyond_guest(smaps: &str) -> Result<[u64; 3]> {
    let mut totals = [0; 3];
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().context("smaps has no empty line")?;
        let Ok(kib) = words.next().unwrap_or_default().parse::<u64>() else {
            continue;
        };
        match key {
            "Size:" => is_guest = kib >= GUEST_MIB << 10,
            "Rss:" if !is_guest => totals[0] += kib,
            "Pss:" if !is_guest => totals[1] += kib,
            "Private_Clean:" | "Private_Dirty:" if !is_guest => totals[2] += kib,
            _ => {}
        }
    }
    Ok(totals)
}
