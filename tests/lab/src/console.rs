//! The guest's serial console: the monitor's stdin and stdout.
//!
//! The guest's driver script reads a command a line and answers `@@ N STATUS` when it has run
//! (tools/lab/images/guest-driver.sh). Every line is also printed, so that a test that hangs
//! has already told how far its guest came.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Starts the driver's answers.
const MARK: &str = "@@ ";

/// Both directions of the console.
pub struct Console {
    input: ChildStdin,
    lines: Receiver<String>,
    answered: u32,
}

impl Console {
    /// Reads from `output` from now on, and keeps all of it in `log`.
    pub fn new(input: ChildStdin, output: ChildStdout, log: &Path) -> Result<Self> {
        let mut log =
            File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length > 0)
            {
                // A full disk must not stop the guest.
                let _ = log.write_all(&line);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                println!("guest| {text}");
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            input,
            lines,
            answered: 0,
        })
    }

    /// Waits until the driver is ready for the first command.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let (_, status) = self
            .answer(Instant::now() + limit)
            .context("the guest did not boot")?;
        ensure!(
            status == 0,
            "the guest's driver started with status {status}"
        );
        Ok(())
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        let (output, status) = self.try_run(command, limit)?;
        ensure!(
            status == 0,
            "`{command}` ended with {status} in the guest: {output}"
        );
        Ok(output)
    }

    /// Runs a command; returns what it printed and its exit status.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> Result<(String, i32)> {
        println!("guest> {command}");
        self.send(command)?;
        self.answered += 1;
        self.answer(Instant::now() + limit)
            .with_context(|| format!("no answer to `{command}` from the guest"))
    }

    /// Sends a line and does not wait for an answer.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        Ok(self.input.flush()?)
    }

    /// The rest of what the guest prints until the monitor closes the console.
    pub fn until_closed(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut text = String::new();
        loop {
            match self.line(deadline) {
                Ok(line) => text += &(line + "\n"),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(text),
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the guest did not end in time"),
            }
        }
    }

    fn answer(&mut self, deadline: Instant) -> Result<(String, i32)> {
        let mut output = Vec::new();
        loop {
            let line = match self.line(deadline) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("timed out"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("the monitor closed the console")
                }
            };
            let Some(answer) = line.strip_prefix(MARK) else {
                output.push(line);
                continue;
            };
            let (number, status) = answer.split_once(' ').context("an answer without status")?;
            ensure!(
                number.parse() == Ok(self.answered),
                "the guest answered command {number}, not {}",
                self.answered
            );
            return Ok((output.join("\n"), status.parse()?));
        }
    }

    fn line(&self, deadline: Instant) -> Result<String, mpsc::RecvTimeoutError> {
        self.lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }
}
