//! Measures the monitor from outside: whole processes, driven through the socket API.
//!
//! Each figure is the median of many runs, with the smallest and the 90th percentile beside it. A peer's
//! binary, given by `PEER_FIRECRACKER=/path`, runs the same steps in turn with ours, so that both see the
//! same machine; without one its columns stay empty. These are shared, noisy machines: quote ratios.

mod block;
mod guest;
mod memory;
mod net;
mod processor;
mod start;
mod statistics;
mod vsock;

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
    type Measure = fn(&[Monitor], &mut Table) -> Result<()>;
    let groups: [(&str, Measure); 5] = [
        ("start", start::measure),
        ("memory", memory::measure),
        ("block", block::measure),
        ("net", net::measure),
        ("vsock", vsock::measure),
    ];
    for (_, measure) in groups.into_iter().filter(|(name, _)| wants(name)) {
        measure(&monitors, &mut table)?;
    }
    table.print();
    Ok(())
}

/// The figures of `runs` runs of each monitor, one after the other in turn; a run that failed has none.
fn in_turn(
    monitors: &[Monitor],
    runs: usize,
    mut run: impl FnMut(&Monitor) -> Result<Vec<f64>>,
) -> Vec<Vec<Option<Vec<f64>>>> {
    let mut all: Vec<_> = monitors.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (monitor, figures) in monitors.iter().zip(&mut all) {
            let outcome = run(monitor);
            let outcome = outcome.inspect_err(|why| eprintln!("bench: {}: {why:#}", monitor.name));
            figures.push(outcome.ok());
        }
    }
    all
}

/// Ours, and the peer if one is named.
fn monitors() -> Result<Vec<Monitor>> {
    let ours = match std::env::var_os("CLOISTER_VMM") {
        Some(path) => path.into(),
        None => workspace().join("target/x86_64-unknown-linux-gnu/release/cloister-vmm"),
    };
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
