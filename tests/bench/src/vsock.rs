//! A stream between a guest and a Unix socket of the host: what it costs the monitor.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use crate::Monitor;
use crate::guest::{Guest, Run};
use crate::statistics::Table;

/// Runs of each monitor and workload.
const RUNS: usize = 15;
/// Bytes of a run.
const COUNT: u64 = 128 << 20;
/// The host's port that the guest connects to.
const PORT: u32 = 52;
/// What the host's process reads and writes at once.
const PIECE: usize = 64 << 10;

/// Name, and what the guest is told.
const WORKLOADS: [(&str, Way); 2] = [
    ("vsock, guest to host", Way::Send),
    ("vsock, host to guest", Way::Receive),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Send,
    Receive,
}

const FIGURES: [(&str, &str); 5] = [
    ("CPU of device threads per 64 KiB", "us"),
    ("CPU of the process per 64 KiB", "us"),
    ("throughput", "MiB/s"),
    ("kicks per 64 KiB", ""),
    ("interrupts per 64 KiB", ""),
];

/// Measures a stream both ways.
pub fn measure(monitors: &[Monitor], table: &mut Table) -> Result<()> {
    for (name, way) in WORKLOADS {
        let runs = crate::in_turn(monitors, RUNS, |monitor| run(monitor, way));
        table.add_group(name, &FIGURES, runs);
    }
    Ok(())
}

fn run(monitor: &Monitor, way: Way) -> Result<Vec<f64>> {
    let directory = TempDir::new()?;
    let socket = directory.path().join("v.sock");
    let listener = UnixListener::bind(directory.path().join(format!("v.sock_{PORT}")))?;
    // Ends with the connection, and that with the monitor.
    thread::spawn(move || match listener.accept() {
        Ok((stream, _)) if way == Way::Send => read_all(stream),
        Ok((stream, _)) => write_on(stream),
        Err(_) => {}
    });
    let more = if way == Way::Send { "" } else { " receive" };
    let words = format!("count={COUNT} port={PORT}{more}");
    let devices = json!({ "vsock": { "guest_cid": 3, "uds_path": socket } });
    figures(&Guest::start(monitor, "bench_vsock", &words, &devices)?.run()?)
}

fn read_all(mut stream: UnixStream) {
    let mut piece = vec![0; PIECE];
    while stream.read(&mut piece).is_ok_and(|len| len > 0) {}
}

/// Writes from the guest's first byte on.
fn write_on(mut stream: UnixStream) {
    let piece = vec![0; PIECE];
    if stream.read_exact(&mut [0]).is_ok() {
        while stream.write_all(&piece).is_ok() {}
    }
}

fn figures(run: &Run) -> Result<Vec<f64>> {
    let wall = u64::try_from(run.wall.as_nanos())?;
    let each_64_kib = |amount: u64| Ok::<_, anyhow::Error>(run.per(amount, "bytes")? * 65536.0);
    Ok(vec![
        each_64_kib(run.spent.devices)? / 1e3,
        each_64_kib(run.spent.process)? / 1e3,
        1e9 / run.per(wall, "bytes")? / f64::from(1 << 20),
        each_64_kib(run.count("kicks")?)?,
        each_64_kib(run.count("interrupts")?)?,
    ])
}
