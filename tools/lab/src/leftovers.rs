//! What a demonstration leaves on the machine while it runs, and how it goes when a signal ends it.
//!
//! Everything else of it is tied to a process: a tap goes with its monitor, QEMU with this program.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use tempfile::TempDir;

/// How often a process is looked at that should end.
const LOOK: Duration = Duration::from_micros(200);

/// A directory for files, and processes.
pub struct Leftovers {
    path: PathBuf,
    things: Arc<Mutex<Things>>,
}

#[derive(Default)]
struct Things {
    directory: Option<TempDir>,
    processes: Vec<Pid>,
}

/// A process with all that it starts. Dropping it ends them.
pub struct Process {
    child: Child,
    group: Pid,
    things: Arc<Mutex<Things>>,
}

impl Leftovers {
    /// Makes the directory. From here on a signal that ends this program removes it and ends the processes.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("cloister-demo-")
            .tempdir()
            .context("cannot create a directory for temporary files")?;
        let path = directory.path().to_owned();
        let things = Arc::new(Mutex::new(Things {
            directory: Some(directory),
            processes: Vec::new(),
        }));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let (mut wait, wake) = UnixStream::pair()?;
            pipe::register(signal, wake).context("cannot handle signals")?;
            let things = Arc::clone(&things);
            thread::spawn(move || {
                if wait.read(&mut [0]).is_ok_and(|count| count > 0) {
                    // Held to the end, so that nothing is started any more.
                    let mut things = lock(&things);
                    things.remove();
                    eprintln!("\nlab: interrupted; everything is cleaned up");
                    std::process::exit(128 + signal);
                }
            });
        }
        Ok(Self { path, things })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Starts a process whose temporary files lie in the directory.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let mut things = lock(&self.things);
        // A group of its own: whoever ends it also ends what it started.
        let child = command
            .env("TMPDIR", &self.path)
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}",
                    Path::new(command.get_program()).display()
                )
            })?;
        let group = Pid::from_child(&child);
        things.processes.push(group);
        Ok(Process {
            child,
            group,
            things: Arc::clone(&self.things),
        })
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        lock(&self.things).remove();
    }
}

impl Things {
    fn remove(&mut self) {
        for group in self.processes.drain(..) {
            // Errors mean that it has ended.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = waitpid(Some(group), WaitOptions::empty());
        }
        self.directory = None;
    }
}

impl Process {
    /// The process itself, for its pipes and its number.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the process {} did not end within {limit:?}", self.group);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut things = lock(&self.things);
        things.processes.retain(|process| *process != self.group);
        // What it started may outlive it. Errors mean that all have ended.
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn lock(things: &Mutex<Things>) -> MutexGuard<'_, Things> {
    things.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_processes_go_with_it() {
        let leftovers = Leftovers::new().unwrap();
        let file = leftovers.path("file");
        std::fs::write(&file, "text").unwrap();
        let process = leftovers.spawn(Command::new("sleep").arg("600")).unwrap();
        let running = PathBuf::from(format!("/proc/{}", process.group));
        assert!(running.exists());
        drop(process);
        assert!(!running.exists());
        drop(leftovers);
        assert!(!file.exists());
    }

    #[test]
    fn a_process_that_stays_is_told() {
        let leftovers = Leftovers::new().unwrap();
        let mut process = leftovers.spawn(Command::new("sleep").arg("600")).unwrap();
        assert!(process.wait(Duration::from_millis(5)).is_err());
        let mut short = leftovers.spawn(&mut Command::new("true")).unwrap();
        assert!(short.wait(Duration::from_secs(20)).unwrap().success());
    }
}
