//! Start and end of a microVM, and the size of the program.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api_client::Client;
use serde_json::json;
use tempfile::TempDir;

use crate::statistics::{Samples, Table};
use crate::{Monitor, guest_kernel};

/// Runs of each monitor.
const RUNS: usize = 60;

/// Measures everything about starting.
pub fn measure(monitors: &[Monitor], table: &mut Table) -> Result<()> {
    let mut figures: Vec<[Samples; 5]> = monitors.iter().map(|_| Default::default()).collect();
    for _ in 0..RUNS {
        for (monitor, samples) in monitors.iter().zip(&mut figures) {
            let [to_guest, to_end, to_socket, start, first_byte] = samples;
            match run_by_config_file(monitor) {
                Ok((byte, end)) => {
                    to_guest.add(milliseconds(byte));
                    to_end.add(milliseconds(end));
                }
                Err(_) => to_guest.failures += 1,
            }
            match run_by_api(monitor) {
                Ok(times) => {
                    to_socket.add(milliseconds(times[0]));
                    start.add(milliseconds(times[1]));
                    first_byte.add(milliseconds(times[2]));
                }
                Err(_) => start.failures += 1,
            }
        }
    }
    let names = [
        "exec to first guest byte (config file)",
        "exec to end of process (config file)",
        "exec to accepted connection",
        "InstanceStart, request to answer",
        "InstanceStart to first guest byte",
    ];
    let mut columns: Vec<_> = figures.into_iter().map(IntoIterator::into_iter).collect();
    for name in names {
        let row = columns.iter_mut().filter_map(Iterator::next).collect();
        table.add(name, "ms", row);
    }
    let sizes = monitors
        .iter()
        .map(size_of_program)
        .collect::<Result<_>>()?;
    table.add("size of the program", "KiB", sizes);
    Ok(())
}

/// Times from exec to the guest's first byte, and to the end of the process.
fn run_by_config_file(monitor: &Monitor) -> Result<(Duration, Duration)> {
    let directory = TempDir::new()?;
    let config = directory.path().join("vm.json");
    let body = json!({
        "boot-source": { "kernel_image_path": guest_kernel("first_byte")? },
        "drives": [],
    });
    fs::write(&config, body.to_string())?;
    let log = directory.path().join("log");
    fs::write(&log, "")?;
    let begin = Instant::now();
    let mut child = Command::new(&monitor.path)
        .args(["--no-api", "--config-file"])
        .arg(&config)
        .arg("--log-path")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let byte = first_byte(&mut child, begin);
    child.wait()?;
    Ok((byte?, begin.elapsed()))
}

/// Times from exec to an accepted connection, of the start request, and from that request to the first byte.
fn run_by_api(monitor: &Monitor) -> Result<[Duration; 3]> {
    let directory = TempDir::new()?;
    let socket = directory.path().join("api.sock");
    let log = directory.path().join("log");
    fs::write(&log, "")?;
    let begin = Instant::now();
    let mut child = Command::new(&monitor.path)
        .arg("--api-sock")
        .arg(&socket)
        .arg("--log-path")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let connected = wait_for_socket(&socket, begin)?;
    let mut client = Client::connect(&socket)?;
    let boot_source = json!({ "kernel_image_path": guest_kernel("first_byte")? });
    ensure!(client.put("/boot-source", Some(&boot_source))?.status == 204);
    let start = Instant::now();
    let action = json!({ "action_type": "InstanceStart" });
    // A guest this short may end the process before the answer is read.
    let answer = client.put("/actions", Some(&action));
    let answered = start.elapsed();
    let byte = first_byte(&mut child, start);
    child.wait()?;
    drop(answer);
    Ok([connected, answered, byte?])
}

/// Time from `begin` to the first byte on the child's output that is the guest's.
fn first_byte(child: &mut Child, begin: Instant) -> Result<Duration> {
    let mut output = child.stdout.take().context("output is piped")?;
    let mut byte = [0];
    while output.read(&mut byte)? == 1 {
        if byte[0] == b'!' {
            return Ok(begin.elapsed());
        }
    }
    anyhow::bail!("the guest printed nothing")
}

fn wait_for_socket(socket: &Path, begin: Instant) -> Result<Duration> {
    while begin.elapsed() < Duration::from_secs(5) {
        if UnixStream::connect(socket).is_ok() {
            return Ok(begin.elapsed());
        }
        std::hint::spin_loop();
    }
    anyhow::bail!("no socket after 5 s")
}

fn size_of_program(monitor: &Monitor) -> Result<Samples> {
    let mut samples = Samples::default();
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    samples.add(fs::metadata(&monitor.path)?.len() as f64 / 1024.0);
    Ok(samples)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
