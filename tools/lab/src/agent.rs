//! The other end of the lab's channel: runs as PID 1 of the outer machine, starts one test at a
//! time, and sends home what it printed and the logs it left.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::protocol::{self, Event, Request};

/// Where the outer machine has things.
const TESTS: &str = "/bin/lab-tests";
const MONITOR: &str = "/bin/cloister-vmm";
const IMAGES: &str = "/images";
const LOGS: &str = "/logs";
const SCRATCH: &str = "/tmp/test";

/// Of a log file, only this many last bytes are sent.
const MAX_LOG: u64 = 8 << 20;
/// How often a running test is looked at when it prints nothing.
const LOOK: Duration = Duration::from_millis(50);

/// Serves the host over `port` until it hangs up.
pub fn serve(port: &Path) -> Result<()> {
    let mut port = File::options()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| format!("cannot open the lab's channel {}", port.display()))?;
    let mut requests = port.try_clone()?;
    protocol::send(&mut port, &Event::Ready, b"")?;
    while let Some(frame) = protocol::receive(&mut requests)? {
        let Request::Run {
            arguments,
            timeout_s,
        } = frame.message;
        let failure = run(&arguments, Duration::from_secs(timeout_s), &mut port)
            .err()
            .map(|error| format!("{error:#}"));
        send_logs(&mut port)?;
        protocol::send(&mut port, &Event::Finished { failure }, b"")?;
    }
    Ok(())
}

/// Runs the test program in empty directories, and leaves no process behind.
fn run(arguments: &[String], timeout: Duration, port: &mut File) -> Result<()> {
    for directory in [SCRATCH, LOGS] {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
    }
    let (mut output, input) = io::pipe()?;
    let mut command = Command::new(TESTS);
    command
        .args(arguments)
        .args(["--monitor", MONITOR, "--images", IMAGES, "--logs", LOGS]);
    command.current_dir(SCRATCH).env("TMPDIR", SCRATCH);
    command
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {TESTS}"))?;
    // It holds the pipe's writing end.
    drop(command);

    let (chunks, received) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 16 << 10];
        while let Ok(length @ 1..) = output.read(&mut chunk) {
            if chunks.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let status = watch(&mut child, &received, timeout, port)?;
    let left = end_others()?;
    match status {
        None => bail!("timed out after {} s", timeout.as_secs()),
        Some(status) if !status.success() => bail!("{}", describe(status)),
        Some(_) if !left.is_empty() => bail!("left processes behind: {}", left.join(", ")),
        Some(_) => Ok(()),
    }
}

/// Forwards output until the program has ended and all is read, or `None` at the time limit.
fn watch(
    child: &mut Child,
    output: &Receiver<Vec<u8>>,
    timeout: Duration,
    port: &mut File,
) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        match output.recv_timeout(LOOK) {
            Ok(chunk) => protocol::send(port, &Event::Output, &chunk)?,
            // Nothing for a while: a process left behind may keep the pipe open for ever, so
            // the end of the program is enough.
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    return Ok(Some(status));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(LOOK);
                if let Some(status) = child.try_wait()? {
                    return Ok(Some(status));
                }
            }
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("ended by {status}"),
    }
}

/// Kills every process but this one, and tells their names. Kernel threads have no command line.
fn end_others() -> Result<Vec<String>> {
    let own = std::process::id().to_string();
    let mut ended = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        let command = fs::read_to_string(format!("/proc/{name}/cmdline")).unwrap_or_default();
        if name == own || command.is_empty() {
            continue;
        }
        // It may have ended in between, which is just as well.
        let _ = kill_process(pid, Signal::KILL);
        ended.push(command.replace('\0', " ").trim().to_owned());
    }
    Ok(ended)
}

fn send_logs(port: &mut File) -> Result<()> {
    for entry in fs::read_dir(LOGS)? {
        let entry = entry?;
        let mut log = File::open(entry.path())?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG)))?;
        let mut bytes = Vec::new();
        log.take(MAX_LOG).read_to_end(&mut bytes)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        protocol::send(port, &Event::File { name }, &bytes)?;
    }
    Ok(())
}
