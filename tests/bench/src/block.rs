//! Reads of a disk whose file is in the page cache: what a request costs the host.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::Monitor;
use crate::guest::{Guest, Run};
use crate::statistics::Table;

/// Runs of each monitor and workload.
const RUNS: usize = 15;

const DISK_MIB: usize = 64;

/// One way to read.
struct Workload {
    name: &'static str,
    /// What the guest is told.
    line: &'static str,
    engine: &'static str,
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "4 KiB at random, 32 in flight",
        line: "count=60000 depth=32 len=4096",
        engine: "Sync",
    },
    Workload {
        name: "4 KiB at random, 1 in flight",
        line: "count=3000 depth=1 len=4096",
        engine: "Sync",
    },
    Workload {
        name: "in order, up to 128 KiB a request",
        line: "count=120000 depth=32 len=131072 sequential",
        engine: "Sync",
    },
    Workload {
        name: "4 KiB at random, 32 in flight, engine Async",
        line: "count=60000 depth=32 len=4096",
        engine: "Async",
    },
];

const FIGURES: [(&str, &str); 5] = [
    ("CPU of device threads per 4 KiB", "ns"),
    ("CPU of the process per 4 KiB", "ns"),
    ("kicks per request", ""),
    ("interrupts per request", ""),
    ("GiB per second of device threads' CPU", "GiB/s"),
];

/// Measures reads.
pub fn measure(monitors: &[Monitor], table: &mut Table) -> Result<()> {
    let disk = disk()?;
    for workload in &WORKLOADS {
        let runs = crate::in_turn(monitors, RUNS, |monitor| {
            run(monitor, workload, disk.path())
        });
        table.add_group(workload.name, &FIGURES, runs);
    }
    Ok(())
}

fn run(monitor: &Monitor, workload: &Workload, disk: &Path) -> Result<Vec<f64>> {
    let devices = json!({ "drives": [drive(disk, workload.engine)] });
    let run = Guest::start(monitor, "bench_block", workload.line, &devices)?.run()?;
    figures(&run)
}

fn figures(run: &Run) -> Result<Vec<f64>> {
    let device_ns = run.per(run.spent.devices, "units")?;
    Ok(vec![
        device_ns,
        run.per(run.spent.process, "units")?,
        run.per(run.count("kicks")?, "requests")?,
        run.per(run.count("interrupts")?, "requests")?,
        4096.0 / f64::from(1 << 30) / (device_ns / 1e9),
    ])
}

fn drive(path: &Path, engine: &str) -> Value {
    json!({
        "drive_id": "disk",
        "path_on_host": path,
        "is_root_device": false,
        "is_read_only": false,
        "io_engine": engine,
    })
}

/// A disk that was just written, and so is in the page cache.
fn disk() -> Result<NamedTempFile> {
    let mut disk = NamedTempFile::new()?;
    let mebibyte: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
    for _ in 0..DISK_MIB {
        disk.write_all(&mebibyte)?;
    }
    disk.as_file().sync_all()?;
    Ok(disk)
}
