//! One microVM under test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api_client::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::console::Console;

/// How long anything in a test may take before it is a failure. Far above what is expected: the machine may
/// be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A monitor's process and its API, with a directory for its files. All of it goes when this is dropped.
pub struct TestVm {
    directory: TempDir,
    monitor: Child,
    input: Option<ChildStdin>,
    console: Console,
    client: Client,
    boot_source: Value,
    exit: Option<ExitStatus>,
}

/// Runs one test with a fresh microVM; what `#[vm_test]` expands to.
pub fn run(name: &str, kernel: &str, arguments: &[&str], test: fn(&mut TestVm)) {
    let mut vm = TestVm::with_arguments(name, arguments);
    vm.boot_source = json!({ "kernel_image_path": guest_kernel(kernel) });
    test(&mut vm);
}

/// Where the test kernel `name` was built.
///
/// # Panics
/// When it was not.
pub fn guest_kernel(name: &str) -> PathBuf {
    let path = workspace()
        .join("tests/guest/target/x86_64-unknown-linux-gnu/release")
        .join(name);
    assert!(path.exists(), "{path:?} is missing; run `make guests`");
    path
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The monitor under test: `CLOISTER_VMM`, else the release build.
///
/// # Panics
/// When it was not built.
pub fn monitor() -> PathBuf {
    let path = std::env::var_os("CLOISTER_VMM").map_or_else(
        || workspace().join("target/x86_64-unknown-linux-gnu/release/cloister-vmm"),
        PathBuf::from,
    );
    assert!(path.exists(), "{path:?} is missing; run `make build`");
    path
}

impl TestVm {
    /// Starts a monitor with an API socket in a directory of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn new(name: &str) -> Self {
        Self::with_arguments(name, &[])
    }

    /// The same, with more on the command line.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_arguments(name: &str, arguments: &[&str]) -> Self {
        let mut program = Command::new(monitor());
        program.args(arguments);
        Self::with_program(name, program)
    }

    /// The same, with a program that becomes the monitor: it gets the monitor's arguments after its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_program(name: &str, mut program: Command) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cloister-test-")
            .tempdir()
            .expect("the host has a directory for temporary files");
        let socket = directory.path().join("api.sock");
        let id: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(64)
            .collect();
        let mut monitor = program
            .arg("--api-sock")
            .arg(&socket)
            .args(["--id", &id, "--log-path"])
            .arg(directory.path().join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the monitor starts");
        let console = Console::collect(monitor.stdout.take().expect("it is piped"));
        let mut client = Client::connect_within(&socket, PATIENCE).expect("the monitor listens");
        client
            .set_timeout(Some(PATIENCE))
            .expect("a minute is a time");
        Self {
            input: monitor.stdin.take(),
            directory,
            monitor,
            console,
            client,
            boot_source: Value::Null,
            exit: None,
        }
    }

    /// A path in this test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A FIFO in this test's directory; gives its path.
    ///
    /// # Panics
    /// When the host makes none.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "no FIFO {path:?}"
        );
        path
    }

    /// The monitor's process id.
    pub fn pid(&self) -> u32 {
        self.monitor.id()
    }

    /// Sends a request and gives the answer, whatever it is.
    ///
    /// # Panics
    /// When the monitor does not answer.
    pub fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let answer = match method {
            "GET" => self.client.get(path, body),
            "PUT" => self.client.put(path, body),
            "PATCH" => self.client.patch(path, body),
            "DELETE" => self.client.delete(path, body),
            other => panic!("no test uses {other}"),
        };
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.report()))
    }

    /// Sends a request that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn put(&mut self, path: &str, body: &Value) {
        let answer = self.request("PUT", path, Some(body));
        assert_eq!(answer.status, 204, "PUT {path}: {:?}", answer.body);
    }

    /// Removes something that must go.
    ///
    /// # Panics
    /// When it does not.
    pub fn delete(&mut self, path: &str) {
        let answer = self.request("DELETE", path, None);
        assert_eq!(
            answer.status,
            204,
            "DELETE {path}: {:?}\n{}",
            answer.body,
            self.report()
        );
    }

    /// Sends a request that must fail, and gives its `fault_message`.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&mut self, method: &str, path: &str, body: Option<&Value>) -> String {
        let answer = self.request(method, path, body);
        assert_eq!(answer.status, 400, "{method} {path}: {:?}", answer.body);
        let body = answer.body.expect("a refusal says why");
        let text = body["fault_message"].as_str();
        text.expect("a refusal says why in fault_message")
            .to_owned()
    }

    /// Sets one field of the boot source; it is sent at the start.
    pub fn boot(&mut self, field: &str, value: impl Into<Value>) {
        self.boot_source[field] = value.into();
    }

    /// Sets vCPUs and memory.
    pub fn machine(&mut self, vcpu_count: u8, mem_size_mib: u32) {
        let machine = json!({ "vcpu_count": vcpu_count, "mem_size_mib": mem_size_mib });
        self.put("/machine-config", &machine);
    }

    /// Adds a drive with the content `bytes`; gives its path.
    ///
    /// # Panics
    /// When the host or the monitor refuses.
    pub fn drive(&mut self, id: &str, bytes: &[u8], options: &Value) -> PathBuf {
        let path = self.path(id);
        fs::write(&path, bytes).expect("the test's directory takes a file");
        let mut drive = json!({ "drive_id": id, "path_on_host": path, "is_root_device": false });
        for (key, value) in options.as_object().into_iter().flatten() {
            drive[key] = value.clone();
        }
        self.put(&format!("/drives/{id}"), &drive);
        path
    }

    /// Sends the boot source and `InstanceStart`.
    pub fn start(&mut self) {
        let boot_source = self.boot_source.clone();
        self.put("/boot-source", &boot_source);
        self.put("/actions", &json!({ "action_type": "InstanceStart" }));
    }

    /// Pauses the machine.
    ///
    /// # Panics
    /// When it does not pause.
    pub fn pause(&mut self) {
        self.turn("Paused");
    }

    /// Lets a paused machine go on.
    ///
    /// # Panics
    /// When it does not.
    pub fn resume(&mut self) {
        self.turn("Resumed");
    }

    fn turn(&mut self, state: &str) {
        let answer = self.request("PATCH", "/vm", Some(&json!({ "state": state })));
        assert_eq!(answer.status, 204, "{state}: {:?}", answer.body);
    }

    /// Types on the guest's serial console.
    ///
    /// # Panics
    /// When the monitor closed it.
    pub fn type_text(&mut self, text: &str) {
        let input = self.input.as_mut().expect("input is open");
        input
            .write_all(text.as_bytes())
            .expect("the monitor takes input");
    }

    /// Waits for `text` on the console.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for(&mut self, text: &str) {
        let is_there = self.console.wait_until(PATIENCE, |all| all.contains(text));
        assert!(is_there, "no {text:?} on the console\n{}", self.report());
    }

    /// The console's output so far.
    pub fn output(&self) -> String {
        self.console.text()
    }

    /// The value after `key=` at the start of a console line.
    ///
    /// # Panics
    /// When there is none.
    pub fn value(&self, key: &str) -> String {
        let prefix = format!("{key}=");
        self.output()
            .lines()
            .find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
            .unwrap_or_else(|| panic!("no {prefix} on the console\n{}", self.report()))
    }

    /// The monitor's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for the monitor to end; gives its exit code.
    ///
    /// # Panics
    /// When it does not end, or a signal ended it.
    pub fn wait_exit(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.monitor.try_wait().expect("it is our child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running\n{}",
                self.report()
            );
            thread::sleep(Duration::from_millis(2));
        };
        self.exit = Some(status);
        self.console.wait_closed(PATIENCE);
        status
            .code()
            .unwrap_or_else(|| panic!("ended by {status}\n{}", self.report()))
    }

    /// Waits for the end of a monitor that was killed.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_killed(&mut self) {
        let status = self.monitor.wait().expect("it is our child");
        self.exit = Some(status);
        self.console.wait_closed(PATIENCE);
    }

    /// Waits for the end, and for the guest to have said that all is well.
    ///
    /// # Panics
    /// When it said otherwise.
    pub fn expect_pass(&mut self) {
        let code = self.wait_exit();
        let output = self.output();
        let passed = output.lines().any(|line| line.starts_with("PASS"));
        let failed = output.lines().any(|line| line.starts_with("FAIL"));
        assert!(
            passed && !failed && code == 0,
            "exit code {code}\n{}",
            self.report()
        );
    }

    /// What a failed test prints.
    fn report(&self) -> String {
        format!("--- console\n{}\n--- log\n{}", self.output(), self.log())
    }
}

impl Drop for TestVm {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // It may have ended by itself in this moment.
            let _ = self.monitor.kill();
            let _ = self.monitor.wait();
        }
    }
}
