//! The process from outside: its exit codes, its log, its socket, signals.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use api_client::Client;
use serde_json::json;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-vmm"));
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// The process with an API socket, in a folder of its own. Killed when dropped.
struct Running {
    child: Child,
    folder: TempDir,
    client: Client,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("api.sock");
        let log = fs::File::create(folder.path().join("stdout")).unwrap();
        let child = program()
            .arg("--api-sock")
            .arg(&socket)
            .args(arguments)
            .stdout(log)
            .spawn()
            .unwrap();
        let mut client = Client::connect_within(&socket, SOON).unwrap();
        client.set_timeout(Some(SOON)).unwrap();
        Self {
            child,
            folder,
            client,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap()
    }

    fn signal(&mut self, name: &str) -> std::process::ExitStatus {
        // An answer shows that the handlers are in place.
        self.client.get("/", None).unwrap();
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_arguments_end_with_their_code_and_last_line() {
    for (arguments, code) in [
        (&["--nonsense"][..], 153),
        (&["--id", "a_b"], 153),
        (&["--no-api"], 153),
        (&["--api-sock", ""], 153),
        (&["--start-time-us", "abc"], 153),
        (&["--snapshot-version"], 1),
        (&["--describe-snapshot", "/dev/null"], 1),
        (&["--boot-timer", "--boot-timer"], 153),
        (&["--boot-timer", "on"], 153),
        (&["--metadata", "/nonexistent"], 1),
        (&["--level", "loud"], 152),
        (&["--no-api", "--config-file", "/nonexistent"], 1),
        (&["--no-api", "--config-file", "/dev/null"], 1),
        (&["--log-path", "/nonexistent/log"], 1),
        (&["--api-sock", "/nonexistent/socket"], 1),
        (&["--api-sock", "/dev/null"], 1),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let last =
            format!("[anonymous-instance:main] Firecracker exiting with error. exit_code={code}\n");
        assert!(
            text(&output.stdout).ends_with(&last),
            "{arguments:?}: {}",
            text(&output.stdout)
        );
        assert!(text(&output.stderr).starts_with("Error: "), "{arguments:?}");
    }
}

#[test]
fn argument_mistakes_are_one_log_line() {
    let output = run(&["--id=x"]);
    assert!(text(&output.stdout).contains(
        "Arguments parsing error: Found argument 'id=x' which wasn't expected, or isn't valid in this \
         context. \\n\\nFor more information try --help.\n"
    ));
}

#[test]
fn version_and_help_are_printed_and_nothing_else() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(text(&version.stdout).starts_with("Firecracker v1.17.0-dev\nCloister v"));
    let help = run(&["--help", "--nonsense"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("\noptional arguments:\n  --api-sock <api-sock>"));
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let mut first = Running::start(&[]);
    let socket = first.path("api.sock");
    let output = run(&["--api-sock", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let message = format!(
        "Failed to open the API socket at: {}. Check that it is not already used.",
        socket.display()
    );
    assert!(text(&output.stdout).contains(&message));
    assert_eq!(first.client.get("/version", None).unwrap().status, 200);
}

#[test]
fn the_log_has_the_lines_that_are_looked_for() {
    let mut vm = Running::start(&["--id", "my-vm"]);
    let done = vm.client.put(
        "/machine-config",
        Some(&json!({"vcpu_count": 1, "mem_size_mib": 64})),
    );
    assert_eq!(done.unwrap().status, 204);
    assert_eq!(vm.client.get("/nowhere", None).unwrap().status, 400);
    let vsock = json!({"guest_cid": 3, "uds_path": vm.path("v.sock"), "vsock_id": "v"});
    for (path, body, status) in [
        ("/mmds", json!({"secret": 1}), 204),
        ("/vsock", vsock, 204),
        ("/actions", json!({"action_type": "SendCtrlAltDel"}), 400),
    ] {
        assert_eq!(vm.client.put(path, Some(&body)).unwrap().status, status);
    }
    raw(
        &vm.path("api.sock"),
        "PUT /vsock HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    );
    let log = vm.log();
    assert!(!log.contains("secret"), "{log}");
    let listening = format!(
        "[my-vm:main] Listening on API socket ({:?}).\n",
        vm.path("api.sock")
    );
    for line in [
        "[my-vm:main] Running Firecracker v1.17.0-dev\n",
        &listening,
        "[my-vm:api] API server started.\n",
        "[my-vm:api] The API server received a Put request on \"/machine-config\" with body \
         \"{\\\"vcpu_count\\\":1,\\\"mem_size_mib\\\":64}\".\n",
        "[my-vm:api] The request was executed successfully. Status code: 204 No Content.\n",
        "[my-vm:api] The API server received a Get request on \"/nowhere\".\n",
        "[my-vm:api] InvalidPathMethod(\"nowhere\", Get)\n",
        "[my-vm:api] SerdeJson(Error(\"expected value\", line: 1, column: 1))\n",
        "[my-vm:api] Received Error. Status code: 400 Bad Request. Message: The requested operation is not \
         supported before starting the microVM.\n",
        "[my-vm:api] The API server received a Put request on \"/mmds\".\n",
        "[my-vm:api] PUT /vsock: vsock_id field is deprecated.\n",
    ] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
}

#[test]
fn the_logger_can_be_turned_to_a_file_and_back_up() {
    let mut vm = Running::start(&["--level", "error"]);
    let file = vm.path("log");
    fs::write(&file, "0123456789").unwrap();
    let config = json!({"log_path": file, "show_level": true, "show_log_origin": true});
    assert_eq!(vm.client.put("/logger", Some(&config)).unwrap().status, 204);
    vm.client.get("/nowhere", None).unwrap();
    let log = fs::read_to_string(&file).unwrap();
    assert_eq!(vm.log(), "", "only errors went to standard output");
    assert!(!log.starts_with("0123"), "a file is written from its start");
    assert!(log.contains(":api:INFO:api-server/src/router.rs:"), "{log}");
    assert!(log.contains(":api:ERROR:"), "{log}");

    let refused = vm
        .client
        .put("/logger", Some(&json!({"log_path": "/nonexistent/log"})))
        .unwrap();
    assert_eq!(
        refused.fault(),
        Some("Logger error: Failed to open target file: No such file or directory (os error 2)")
    );
}

#[test]
fn only_chosen_modules_are_logged() {
    let mut vm = Running::start(&["--module", "cloister_vmm::server"]);
    vm.client.get("/", None).unwrap();
    let log = vm.log();
    assert!(
        log.contains("API server started.") && !log.contains("The API server received"),
        "{log}"
    );
}

/// One request as it is; gives the answer's beginning.
fn raw(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    text(&answer)
}

#[test]
fn a_path_from_outside_makes_no_line_of_its_own() {
    let vm = Running::start(&["--module", "cloister_vmm::"]);
    let answer = raw(&vm.path("api.sock"), "GET /a\u{9b}b HTTP/1.1\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 400");
    let body = "a\r\n2026-01-01T00:00:00 [x:api] forged\u{1b}[2J";
    let request = format!(
        "PUT /vsock HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(raw(&vm.path("api.sock"), &request), "HTTP/1.1 400");
    let log = vm.log();
    assert!(
        log.lines()
            .all(|line| line.contains(" [anonymous-instance:")),
        "{log}"
    );
    assert!(!log.contains(['\r', '\u{1b}', '\u{9b}']), "{log:?}");
}

/// Processor time that process `pid` has used, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn processor_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let times = fields.skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_process_without_descriptors_waits_for_one_and_goes_on() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("api.sock");
    let log = folder.path().join("log");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 14; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_cloister-vmm"))
        .args(["--api-sock", path(&socket), "--log-path", path(&log)])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = Client::connect_within(&socket, SOON).unwrap();
    // The event loop has its descriptors once it answers.
    let machine = json!({"vcpu_count": 1, "mem_size_mib": 64});
    assert_eq!(
        first.put("/machine-config", Some(&machine)).unwrap().status,
        204
    );
    let others: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let has_failed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let log = fs::read_to_string(&log).unwrap();
        log.contains("cannot accept a connection: Too many open files")
    });
    assert!(has_failed, "20 connections fit 14 descriptors");
    let before = processor_time(child.id());
    std::thread::sleep(Duration::from_millis(500));
    let used = processor_time(child.id()) - before;
    assert!(used < 5, "{used} ticks of 10 ms while nothing can be done");
    assert_eq!(first.get("/version", None).unwrap().status, 200);
    drop(others);
    let mut late = Client::connect(&socket).unwrap();
    late.set_timeout(Some(SOON)).unwrap();
    let answered = (0..100).any(|_| {
        late.get("/version", None)
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(answered);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.matches("cannot accept").count() <= 2, "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_full_fifo_holds_up_nobody() {
    let mut vm = Running::start(&[]);
    let fifo = vm.path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        vm.client
            .put("/logger", Some(&json!({"log_path": fifo})))
            .unwrap()
            .status,
        204
    );
    let long = json!({"kernel_image_path": "x".repeat(10_000)});
    for _ in 0..20 {
        assert_eq!(
            vm.client.put("/boot-source", Some(&long)).unwrap().status,
            400
        );
    }
}

#[test]
fn a_user_can_end_it_and_nothing_is_left() {
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let mut vm = Running::start(&[]);
        assert_eq!(vm.signal(name).signal(), Some(number));
        assert!(!vm.path("api.sock").exists());
    }
}

#[test]
fn fatal_signals_have_their_exit_codes() {
    for (name, number, code) in [
        ("SYS", 31, 148),
        ("BUS", 7, 149),
        ("SEGV", 11, 150),
        ("XFSZ", 25, 151),
        ("XCPU", 24, 154),
        ("HUP", 1, 156),
        ("ILL", 4, 157),
    ] {
        let mut vm = Running::start(&[]);
        assert_eq!(vm.signal(name).code(), Some(code), "{name}");
        let log = vm.log();
        assert!(
            log.contains(&format!(
                "Shutting down VM after intercepting signal {number}, code 0.\n"
            )),
            "{log}"
        );
        assert!(
            log.ends_with(&format!(
                "Firecracker exiting with error. exit_code={code}\n"
            )),
            "{log}"
        );
        assert!(!vm.path("api.sock").exists());
    }
}

#[test]
fn a_configuration_that_cannot_boot_is_told_and_ends_it() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("vm.json");
    for (config, message) in [
        (
            r#"{"drives":[]}"#,
            "Invalid JSON: missing field `boot-source`",
        ),
        (
            r#"{"drives":[],"boot-source":{"kernel_image_path":"/nonexistent"}}"#,
            "Boot source error: The kernel file cannot be opened",
        ),
        (
            r#"{"drives":[],"boot-source":{"kernel_image_path":"k"},"cpu-config":"/nonexistent"}"#,
            "Configure CPU error: cannot read the CPU template \"/nonexistent\"",
        ),
    ] {
        fs::write(&file, config).unwrap();
        let socket = folder.path().join("api.sock");
        let output = program()
            .args(["--api-sock", path(&socket), "--config-file", path(&file)])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{config}");
        let log = text(&output.stdout);
        assert!(
            log.contains(&format!("Failed to build MicroVM from Json: {message}")),
            "{log}"
        );
        assert!(!socket.exists());
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn standard_output_may_go_away() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("api.sock");
    let mut child = program()
        .args(["--api-sock", path(&socket)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = Client::connect_within(&socket, SOON).unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    for _ in 0..3 {
        assert_eq!(client.get("/version", None).unwrap().status, 200);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The lines of the metrics file so far.
fn metrics(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn a_signal_is_counted_in_a_last_line() {
    for (name, key, code) in [
        ("SEGV", "sigsegv", 150),
        ("BUS", "sigbus", 149),
        ("XFSZ", "sigxfsz", 151),
        ("XCPU", "sigxcpu", 154),
        ("HUP", "sighup", 156),
        ("ILL", "sigill", 157),
    ] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("metrics");
        let mut running = Running::start(&["--metrics-path", path.to_str().unwrap()]);
        assert_eq!(running.signal(name).code(), Some(code));
        let lines = metrics(&path);
        assert_eq!(lines.len(), 1, "{name}");
        for (other, count) in lines[0]["signals"].as_object().unwrap() {
            assert_eq!(*count, u64::from(other == key), "{other} after {name}");
        }
    }
}

#[test]
fn a_filtered_system_call_and_a_request_to_end_leave_a_last_line() {
    for (name, faults) in [("SYS", 1), ("TERM", 0), ("INT", 0)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("metrics");
        let mut running = Running::start(&["--metrics-path", path.to_str().unwrap()]);
        running.signal(name);
        let lines = metrics(&path);
        assert_eq!(lines.len(), 1, "{name}");
        assert_eq!(lines[0]["seccomp"]["num_faults"], faults, "{name}");
        assert_eq!(lines[0]["get_api_requests"]["instance_info_count"], 1);
    }
}

#[test]
fn a_broken_pipe_is_counted_and_the_process_goes_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics");
    let mut running = Running::start(&["--metrics-path", path.to_str().unwrap()]);
    let pid = running.child.id().to_string();
    running.client.get("/", None).unwrap();
    let kill = |name: &str| Command::new("kill").args(["-s", name, &pid]).status();
    for _ in 0..3 {
        assert!(kill("PIPE").unwrap().success());
        std::thread::sleep(Duration::from_millis(20));
    }
    running.client.get("/", None).unwrap();
    assert!(running.log().contains("Received signal 13"));
    running.signal("TERM");
    assert_eq!(metrics(&path)[0]["signals"]["sigpipe"], 3);
}

#[test]
fn an_output_that_nobody_reads_any_more_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("api.sock");
    let mut command = program();
    command.arg("--api-sock").arg(&socket);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut client = Client::connect_within(&socket, SOON).unwrap();
    client.set_timeout(Some(SOON)).unwrap();
    client.get("/", None).unwrap();
    drop(child.stdout.take());
    // Each line of the log is a signal, and what the handler logs is one more.
    for _ in 0..5 {
        assert_eq!(client.get("/", None).unwrap().status, 200);
    }
    let text = client.get("/metrics", None).unwrap().body.unwrap();
    assert!(
        !text
            .as_str()
            .unwrap()
            .contains("cloister_signals_sigpipe_total 0\n")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_time_since_the_jailer_began_is_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_us = u64::try_from(now.tv_sec).unwrap() * 1_000_000;
    let mut running = Running::start(&[
        "--metrics-path",
        path.to_str().unwrap(),
        "--start-time-us",
        &(now_us - 5_000_000).to_string(),
        "--start-time-cpu-us",
        "0",
        "--parent-cpu-time-us",
        "7000000",
    ]);
    running.signal("TERM");
    let start = &metrics(&path)[0]["api_server"];
    let took = |key| start[key].as_u64().unwrap();
    assert!(
        (5_000_000..65_000_000).contains(&took("process_startup_time_us")),
        "{start}"
    );
    assert!(
        (7_000_000..17_000_000).contains(&took("process_startup_time_cpu_us")),
        "{start}"
    );
}

#[test]
fn metrics_of_the_flag_are_configured_once_and_unusable_ones_end_the_process() {
    let output = run(&["--metrics-path", "/nonexistent/metrics"]);
    assert_eq!(output.status.code(), Some(1));
    let lead = "Metrics error: Cannot initialize the metrics system due to bad user input: ";
    assert!(
        text(&output.stdout).contains(lead),
        "{}",
        text(&output.stdout)
    );
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics");
    let mut running = Running::start(&["--metrics-path", path.to_str().unwrap()]);
    let body = json!({ "metrics_path": path });
    let answer = running.client.put("/metrics", Some(&body)).unwrap();
    let again = format!("{lead}Reinitialization of metrics not allowed.");
    assert_eq!(answer.fault(), Some(again.as_str()));
}
