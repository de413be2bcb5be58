//! The console as a terminal, and as a pipe that nobody reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api_client::Client;
use integration::{guest_kernel, monitor};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A short pipe. The kernel calls it full once its last page is begun.
const PIPE_BYTES: usize = 2 * PAGE;
const PAGE: usize = 4096;

/// A monitor whose standard streams the test holds. Killed when dropped.
struct Monitor {
    folder: TempDir,
    child: Child,
    client: Client,
    output: ChildStdout,
}

impl Monitor {
    fn start(mut program: Command, input: impl Into<Stdio>) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("api.sock");
        let mut child = program
            .arg("--api-sock")
            .arg(&socket)
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut client = Client::connect_within(&socket, PATIENCE).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        Self {
            output: child.stdout.take().unwrap(),
            folder,
            child,
            client,
        }
    }

    fn put(&mut self, path: &str, body: &Value) -> u16 {
        self.client.put(path, Some(body)).unwrap().status
    }

    fn boot(&mut self, kernel: PathBuf, boot_args: &str) -> u16 {
        let source = json!({ "kernel_image_path": kernel, "boot_args": boot_args });
        assert_eq!(self.put("/boot-source", &source), 204);
        self.put("/actions", &json!({ "action_type": "InstanceStart" }))
    }

    /// Reads output up to and including `text`.
    fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(text.as_bytes()) {
            let count = self.output.read(&mut byte).unwrap();
            let so_far = String::from_utf8_lossy(&read);
            assert_eq!(count, 1, "no {text:?} in {so_far}");
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pseudo-terminal: the test types at one end, the monitor has the other.
struct Terminal {
    keyboard: File,
    device: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let keyboard =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let device = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        Self {
            keyboard: keyboard.into(),
            device: device.into(),
        }
    }

    /// The settings, as text to compare.
    fn settings(&self) -> String {
        format!("{:?}", tcgetattr(&self.device).unwrap())
    }

    fn start(&self) -> Monitor {
        let mut program = Command::new(monitor());
        program.args(["--level", "error"]);
        Monitor::start(program, self.device.try_clone().unwrap())
    }
}

#[test]
fn keys_reach_the_guest_one_by_one_and_a_reset_restores_the_terminal() {
    let mut terminal = Terminal::open();
    let before = terminal.settings();
    let mut vm = terminal.start();
    assert_eq!(terminal.settings(), before, "raw before there is a guest");
    assert_eq!(vm.boot(guest_kernel("serial_echo"), ""), 204);
    vm.read_until("ready\n");
    assert_ne!(terminal.settings(), before);
    // Each comes back before the next is typed: none waits for the end of a line. The second is Ctrl-C.
    for key in ["a", "\u{3}", "\u{4}", "\u{1a}", "z", "\n"] {
        terminal.keyboard.write_all(key.as_bytes()).unwrap();
        assert_eq!(vm.read_until(key), key);
    }
    terminal.keyboard.write_all(b"quit\n").unwrap();
    vm.read_until("PASS");
    assert_eq!(vm.child.wait().unwrap().code(), Some(0));
    assert_eq!(terminal.settings(), before);
}

#[test]
fn a_signal_restores_the_terminal() {
    for name in ["TERM", "INT", "HUP"] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut vm = terminal.start();
        assert_eq!(vm.boot(guest_kernel("halt"), ""), 204);
        vm.read_until("sleeping\n");
        assert_ne!(terminal.settings(), before, "{name}");
        vm.signal(name);
        vm.child.wait().unwrap();
        assert_eq!(terminal.settings(), before, "{name}");
    }
}

#[test]
fn a_guest_that_fails_restores_the_terminal() {
    for kernel in ["triple_fault", "internal_error"] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut vm = terminal.start();
        assert_eq!(vm.boot(guest_kernel(kernel), ""), 204);
        assert_eq!(vm.child.wait().unwrap().code(), Some(1), "{kernel}");
        assert_eq!(terminal.settings(), before, "{kernel}");
    }
}

#[test]
fn a_failed_start_leaves_the_terminal_as_it_was() {
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut vm = terminal.start();
    let text = vm.folder.path().join("notes.txt");
    fs::write(&text, "no kernel").unwrap();
    assert_eq!(vm.boot(text.clone(), ""), 400);
    assert_eq!(terminal.settings(), before);

    let config = json!({ "boot-source": { "kernel_image_path": text }, "drives": [] });
    let file = vm.folder.path().join("vm.json");
    fs::write(&file, config.to_string()).unwrap();
    let status = Command::new(monitor())
        .args(["--no-api", "--config-file"])
        .arg(file)
        .stdin(terminal.device.try_clone().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(terminal.settings(), before);
}

/// As after `cloister-vmm &` in a shell: the terminal belongs to the shell.
#[test]
fn a_monitor_in_the_background_boots_and_leaves_the_terminal_alone() {
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut program = Command::new("setsid");
    // It ends with the shell, which ends with the test.
    let script = "set -m; setpriv --pdeathsig KILL \"$0\" --level error \"$@\" & wait";
    program.args(["--ctty", "sh", "-c", script]).arg(monitor());
    let mut vm = Monitor::start(program, terminal.device.try_clone().unwrap());
    assert_eq!(vm.boot(guest_kernel("halt"), ""), 204);
    vm.read_until("sleeping\n");
    assert_eq!(terminal.settings(), before);
    assert_eq!(vm.client.get("/", None).unwrap().status, 200);
}

/// A monitor whose log and console go to a pipe that nobody reads, and that is soon full.
fn unread() -> Monitor {
    let vm = Monitor::start(Command::new(monitor()), Stdio::null());
    fcntl_setpipe_size(&vm.output, PIPE_BYTES).unwrap();
    vm
}

#[test]
fn a_guest_that_prints_to_a_full_pipe_holds_up_nobody() {
    let mut vm = unread();
    assert_eq!(vm.boot(guest_kernel("serial_flood"), ""), 204);
    wait_for(|| ioctl_fionread(&vm.output).unwrap() > PAGE as u64);
    let resident = resident_kib(vm.child.id());
    for _ in 0..50 {
        for state in ["Paused", "Resumed"] {
            let answer = vm.client.patch("/vm", Some(&json!({ "state": state })));
            assert_eq!(answer.unwrap().status, 204);
        }
        assert_eq!(vm.client.get("/vm/config", None).unwrap().status, 200);
    }
    let grown = resident_kib(vm.child.id()).saturating_sub(resident);
    assert!(grown < 1 << 10, "{grown} KiB more");
    // The guest still runs: what it prints arrives once somebody reads.
    vm.output.read_exact(&mut [0; 3 * PIPE_BYTES]).unwrap();
}

#[test]
fn a_guest_that_prints_to_a_full_pipe_comes_to_its_end() {
    let mut vm = unread();
    assert_eq!(vm.boot(guest_kernel("serial_flood"), "kib=12"), 204);
    wait_for(|| vm.child.try_wait().unwrap().is_some());
    assert_eq!(vm.child.wait().unwrap().code(), Some(0));
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "nothing happens");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Memory of the process that is no file's: what a leak would add to.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}
