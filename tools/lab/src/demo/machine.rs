//! The monitor: its process, its socket, and the guest's console. What goes over them is shown.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api_client::{Client, Response};
use serde_json::Value;

use super::console::{Console, Line};
use crate::leftovers::{Leftovers, Process};
use crate::screen::{Screen, time};

/// How long anything may take before it is a failure: far above what is expected, the host may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running monitor. Dropping it kills it.
pub struct Machine {
    process: Process,
    client: Client,
    console: Console,
    socket: PathBuf,
}

impl Machine {
    /// Starts a monitor.
    pub fn start(monitor: &Path, leftovers: &Leftovers, screen: &Screen) -> Result<Self> {
        let socket = leftovers.path("api.sock");
        let log = leftovers.path("log");
        let mut command = Command::new(monitor);
        command
            .arg("--api-sock")
            .arg(&socket)
            .args(["--id", "demo", "--log-path"])
            .arg(&log);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        screen.command(&format!(
            "{} --api-sock {} --id demo --log-path {}",
            monitor.file_name().unwrap_or_default().display(),
            socket.display(),
            log.display()
        ));
        let begin = Instant::now();
        let mut process = leftovers.spawn(&mut command)?;
        let mut client = connect(&mut process, &socket, begin)?;
        let took = begin.elapsed();
        client.set_timeout(Some(PATIENCE))?;
        let output = process.child().stdout.take();
        let console = Console::new(output.context("the monitor was started without a pipe")?);
        screen.done(&format!(
            "its socket took a connection {} after the process was started",
            time(took)
        ));
        Ok(Self {
            process,
            client,
            console,
            socket,
        })
    }

    /// The monitor's process id.
    pub fn pid(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request that must be done.
    pub fn put(&mut self, screen: &Screen, path: &str, body: &Value) -> Result<()> {
        self.exchange(screen, "PUT", path, Some(body)).map(drop)
    }

    /// See [`Machine::put`].
    pub fn patch(&mut self, screen: &Screen, path: &str, body: &Value) -> Result<()> {
        self.exchange(screen, "PATCH", path, Some(body)).map(drop)
    }

    /// Asks for something that must be there.
    pub fn get(&mut self, screen: &Screen, path: &str) -> Result<Value> {
        let answer = self.exchange(screen, "GET", path, None)?;
        answer
            .body
            .with_context(|| format!("GET {path} was answered without a body"))
    }

    /// Asks for the state, which must be `state`.
    pub fn expect_state(&mut self, screen: &Screen, state: &str) -> Result<()> {
        let found = &self.get(screen, "/")?["state"];
        ensure!(found == state, "the state is {found}, not {state}");
        Ok(())
    }

    /// Shows the guest's lines up to the first that contains `text`; returns that one.
    pub fn until_guest_says(&mut self, screen: &Screen, text: &str) -> Result<Line> {
        loop {
            let line = self.console.next(PATIENCE)?;
            screen.guest(&line.text);
            ensure!(!line.text.starts_with("FAIL"), "the guest failed");
            if line.text.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> Result<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    fn exchange(
        &mut self,
        screen: &Screen,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response> {
        screen.request(method, path, body);
        let asked = Instant::now();
        let answer = match method {
            "GET" => self.client.get(path, body),
            "PATCH" => self.client.patch(path, body),
            _ => self.client.put(path, body),
        };
        let answer = answer.with_context(|| format!("{method} {path} was not answered"))?;
        screen.answer(answer.status, answer.body.as_ref(), asked.elapsed());
        ensure!(
            answer.is_success(),
            "{method} {path} was refused: {}",
            answer.fault().unwrap_or("without a reason")
        );
        Ok(answer)
    }
}

/// Connects as soon as the monitor listens, without a pause that would show in the time.
pub fn connect(process: &mut Process, socket: &Path, begin: Instant) -> Result<Client> {
    loop {
        match Client::connect(socket) {
            Ok(client) => return Ok(client),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => thread::yield_now(),
        }
        if let Some(status) = process.child().try_wait()? {
            bail!("the monitor ended with {status} before its socket was there");
        }
    }
}
