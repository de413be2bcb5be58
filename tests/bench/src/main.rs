//! Measures the monitor from outside: whole processes, driven through the socket API.
//!
//! Each figure is the median of many runs, with the smallest and the 90th percentile beside it. A peer's
//! binary, given by `PEER_FIRECRACKER=/path`, runs the same steps in turn with ours, so that both see the
//! same machine; without one its columns stay empty. These are shared, noisy machines: quote ratios.

mod memory;
mod start;
mod statistics;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use statistics::Table;

/// A monitor to measure.
pub struct Monitor {
    name: &'static str,
    path: PathBuf,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let wants = |group: &str| only.is_empty() || only.split(',').any(|name| name == group);
    let monitors = monitors()?;
    let mut table = Table::new(&monitors);
    if wants("start") {
        start::measure(&monitors, &mut table)?;
    }
    if wants("memory") {
        memory::measure(&monitors, &mut table)?;
    }
    table.print();
    Ok(())
}

/// Ours, and the peer if one is named.
fn monitors() -> Result<Vec<Monitor>> {
    let ours = workspace().join("target/x86_64-unknown-linux-gnu/release/cloister-vmm");
    let mut monitors = vec![Monitor {
        name: "cloister",
        path: ours,
    }];
    if let Some(path) = std::env::var_os("PEER_FIRECRACKER") {
        monitors.push(Monitor {
            name: "firecracker",
            path: path.into(),
        });
    }
    for monitor in &monitors {
        ensure!(
            monitor.path.exists(),
            "{:?} does not exist; run `make build`",
            monitor.path
        );
    }
    Ok(monitors)
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where the test kernel `name` was built.
fn guest_kernel(name: &str) -> Result<PathBuf> {
    let path = workspace()
        .join("tests/guest/target/x86_64-unknown-linux-gnu/release")
        .join(name);
    path.canonicalize()
        .with_context(|| format!("no test kernel {name}; run `make guests`"))
}
