//! Frames between a guest and a tap: what they cost the host.
//!
//! ```text
//!  sent:      guest --> tap --> the host, which drops them: they are for nobody
//!  received:  another guest, of our monitor --> tap --> bridge --> tap --> guest
//! ```

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Monitor;
use crate::guest::{Guest, Run};
use crate::statistics::Table;

/// Runs of each monitor and workload.
const RUNS: usize = 15;

struct Workload {
    name: &'static str,
    way: Way,
    count: u64,
    len: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Send,
    Receive,
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "frames of 64 bytes, sent",
        way: Way::Send,
        count: 100_000,
        len: 64,
    },
    Workload {
        name: "frames of 64 bytes, received",
        way: Way::Receive,
        count: 50_000,
        len: 64,
    },
    Workload {
        name: "TCP segments of 64 KiB to be cut, sent",
        way: Way::Send,
        count: 8_000,
        len: 65_214,
    },
    Workload {
        name: "TCP segments of 64 KiB to be cut, received",
        way: Way::Receive,
        count: 4_000,
        len: 65_214,
    },
];

const FIGURES: [(&str, &str); 6] = [
    ("CPU of device threads per 64 KiB", "us"),
    ("CPU of the process per 64 KiB", "us"),
    ("frames per second of device threads' CPU", "1000/s"),
    ("frames per second", "1000/s"),
    ("kicks per frame", ""),
    ("interrupts per frame", ""),
];

/// Measures frames both ways.
pub fn measure(monitors: &[Monitor], table: &mut Table) -> Result<()> {
    let bridge = Bridge::new()?;
    let ours = monitors.first().context("there is always ours")?;
    for workload in &WORKLOADS {
        let runs = crate::in_turn(monitors, RUNS, |monitor| match workload.way {
            Way::Send => send(monitor, workload),
            Way::Receive => receive(monitor, ours, workload, &bridge),
        });
        table.add_group(workload.name, &FIGURES, runs);
    }
    Ok(())
}

fn send(monitor: &Monitor, workload: &Workload) -> Result<Vec<f64>> {
    let tap = name("s");
    let guest = guest(monitor, &tap, &words(workload, workload.count, ""))?;
    ip(&["link", "set", &tap, "up"])?;
    figures(&guest.run()?)
}

fn receive(
    monitor: &Monitor,
    sender: &Monitor,
    workload: &Workload,
    bridge: &Bridge,
) -> Result<Vec<f64>> {
    let (from, to) = (name("f"), name("t"));
    let mut sending = guest(sender, &from, &words(workload, u64::from(u32::MAX), ""))?;
    let receiving = guest(monitor, &to, &words(workload, workload.count, " receive"))?;
    for tap in [&from, &to] {
        ip(&["link", "set", tap, "master", &bridge.name])?;
        ip(&["link", "set", tap, "up"])?;
    }
    sending.begin()?;
    figures(&receiving.run()?)
}

fn words(workload: &Workload, count: u64, more: &str) -> String {
    format!("count={count} len={}{more}", workload.len)
}

fn guest(monitor: &Monitor, tap: &str, words: &str) -> Result<Guest> {
    Guest::start(monitor, "bench_net", words, &interface(tap))
}

fn interface(tap: &str) -> Value {
    json!({ "network-interfaces": [{ "iface_id": "net", "host_dev_name": tap }] })
}

fn figures(run: &Run) -> Result<Vec<f64>> {
    let frames_per_us = 1.0 / (run.per(run.spent.devices, "frames")? / 1e3);
    let wall = u64::try_from(run.wall.as_nanos())?;
    Ok(vec![
        run.per(run.spent.devices, "bytes")? * 65.536,
        run.per(run.spent.process, "bytes")? * 65.536,
        frames_per_us * 1e3,
        1e6 / run.per(wall, "frames")?,
        run.per(run.count("kicks")?, "frames")?,
        run.per(run.count("interrupts")?, "frames")?,
    ])
}

/// A network device name that no other process has.
fn name(kind: &str) -> String {
    format!("cb{kind}{:x}", std::process::id())
}

/// A bridge of one's own; gone when dropped.
struct Bridge {
    name: String,
}

impl Bridge {
    fn new() -> Result<Self> {
        let name = name("b");
        ip(&["link", "add", &name, "type", "bridge"])?;
        let bridge = Self { name };
        ip(&["link", "set", &bridge.name, "up"])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = ip(&["link", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`; install the package iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {said}",
        arguments.join(" ")
    );
    Ok(())
}
