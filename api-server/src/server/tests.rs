//! The interface as clients see it: bytes sent to the real server, bytes received, a fake microVM behind it.

use std::any::Any;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Stream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use vmm::control::{Command, CommandError, GetLifecycle, VmConfig};
use vmm::{EventLog, Lifecycle, VmState};

use super::*;
use crate::router::Vmm;

mod checks;
mod events;
mod patience;
mod transport;

/// A microVM that is always in one state and answers every command that is allowed there.
struct FakeVmm(Lifecycle);

/// Of those who have none of their own.
static NO_EVENTS: LazyLock<EventLog> = LazyLock::new(EventLog::default);

impl Vmm for FakeVmm {
    fn submit<C: Command>(
        &self,
        command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        if C::ALLOWED.contains(&self.0) {
            let answer = self.answer(&command);
            return reply(Ok(*answer.downcast::<C::Reply>().unwrap()));
        }
        reply(Err(match self.0 {
            Lifecycle::NotStarted => CommandError::BeforeStart,
            Lifecycle::Running | Lifecycle::Paused => CommandError::AfterStart,
        }));
    }

    fn state(&self) -> Arc<VmState> {
        Arc::new(VmState::new(self.0, VmConfig::default()))
    }

    fn events(&self) -> &EventLog {
        &NO_EVENTS
    }
}

impl FakeVmm {
    fn answer(&self, command: &dyn Any) -> Box<dyn Any> {
        if command.is::<GetLifecycle>() {
            Box::new(self.0)
        } else {
            Box::new(())
        }
    }
}

/// Those of a server that clients cannot tire.
fn settings() -> Settings {
    Settings {
        max_payload: 51200,
        patience: Patience::default(),
        opening: Opening::Now,
    }
}

/// A server of its own for one test.
struct TestServer {
    socket: PathBuf,
    thread: Option<ApiThread>,
    _folder: TempDir,
}

impl TestServer {
    fn in_state(state: Lifecycle) -> Self {
        Self::with(FakeVmm(state))
    }

    fn with(vmm: impl Vmm + Send) -> Self {
        Self::with_settings(vmm, settings())
    }

    fn with_settings(vmm: impl Vmm + Send, settings: Settings) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("api.sock");
        let listener = StdListener::bind(&socket).unwrap();
        let api = Api::new(vmm, "test-1".parse().unwrap());
        let thread = Some(start(listener, api, settings).unwrap());
        Self {
            socket,
            thread,
            _folder: folder,
        }
    }

    /// A connection; reading from it fails after a while instead of waiting for ever.
    fn connect(&self) -> Stream {
        let stream = Stream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }

    /// One request on a connection of its own: status, headers, body.
    fn ask(&self, request: &str) -> (u16, String, Option<Value>) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        read_answer(&mut stream)
    }

    /// One request with `body`, which is left out when it is empty: status and `fault_message`.
    fn fault(&self, verb: &str, path: &str, body: &str) -> (u16, String) {
        let len = body.len();
        let length = if len == 0 {
            String::new()
        } else {
            format!("Content-Length: {len}\r\n")
        };
        let (status, _, answer) =
            self.ask(&format!("{verb} {path} HTTP/1.1\r\n{length}\r\n{body}"));
        let fault = answer.map(|answer| answer["fault_message"].as_str().unwrap_or("").to_owned());
        (status, fault.unwrap_or_default())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.finish();
        }
    }
}

/// Reads exactly one answer.
fn read_answer(stream: &mut Stream) -> (u16, String, Option<Value>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let body = length.map(|length| {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    });
    (status, head, body)
}

/// Whether the server has closed `stream`.
fn is_closed(stream: &mut Stream) -> bool {
    stream.read(&mut [0]).unwrap() == 0
}
