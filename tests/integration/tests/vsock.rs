//! Streams between the guest and processes of the host.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use api_client::Client;
use integration::{TestVm, vm_test};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn device(vm: &mut TestVm) {
    let body = json!({ "guest_cid": 42, "uds_path": vm.path("v.sock") });
    vm.put("/vsock", &body);
}

fn serve(vm: &mut TestVm) {
    device(vm);
    vm.start();
    vm.wait_for("ready");
    assert_eq!(vm.value("cid"), "42");
}

fn dial(vm: &TestVm) -> UnixStream {
    let stream = UnixStream::connect(vm.path("v.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection to `port` of the guest, and the port that the guest sees.
fn connect(vm: &TestVm, port: u32) -> (UnixStream, u32) {
    let mut stream = dial(vm);
    writeln!(stream, "CONNECT {port}").unwrap();
    // A byte at a time, so that nothing behind the line is taken.
    let mut line = String::new();
    BufReader::with_capacity(1, &stream)
        .read_line(&mut line)
        .unwrap();
    let host = line
        .strip_prefix("OK ")
        .unwrap_or_else(|| panic!("{line:?}"));
    let host = host.trim_end().parse().unwrap();
    (stream, host)
}

fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn quit(vm: &mut TestVm) {
    let mut stream = dial(vm);
    writeln!(stream, "CONNECT 99").unwrap();
    vm.expect_pass();
    assert!(!vm.path("v.sock").exists(), "the socket is left behind");
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends all of `bytes`, ends that direction, and gives what came back until the guest ended the other.
fn exchange(mut stream: UnixStream, bytes: Vec<u8>) -> Vec<u8> {
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all(&bytes).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let back = rest(&mut stream);
    sending.join().unwrap();
    back
}

fn open_files(vm: &TestVm) -> usize {
    fs::read_dir(format!("/proc/{}/fd", vm.pid()))
        .unwrap()
        .count()
}

fn resident_kib(vm: &TestVm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn a_mebibyte_comes_back_as_it_went(vm: &mut TestVm) {
    serve(vm);
    let (stream, port) = connect(vm, 7);
    assert_eq!(port, 1 << 30);
    let bytes = pattern(1 << 20);
    assert!(exchange(stream, bytes.clone()) == bytes, "the bytes differ");
    quit(vm);
    assert_eq!(vm.value("bytes"), (1 << 20).to_string());
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn it_works_with_an_event_index_too(vm: &mut TestVm) {
    vm.boot("boot_args", "event_idx");
    serve(vm);
    for _ in 0..3 {
        let (stream, _) = connect(vm, 7);
        let bytes = pattern(300_000);
        assert!(exchange(stream, bytes.clone()) == bytes, "the bytes differ");
    }
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn the_guest_connects_to_a_host_process(vm: &mut TestVm) {
    let service = UnixListener::bind(vm.path("v.sock_1234")).unwrap();
    vm.boot("boot_args", "connect=1234");
    serve(vm);
    let stream = service.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = pattern(100_000);
    assert!(exchange(stream, bytes.clone()) == bytes, "the bytes differ");
    vm.wait_for("connected");
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn where_nobody_listens_both_sides_are_refused(vm: &mut TestVm) {
    vm.boot("boot_args", "connect=1234");
    serve(vm);
    vm.wait_for("refused");
    let mut stream = dial(vm);
    writeln!(stream, "CONNECT 12345").unwrap();
    assert_eq!(rest(&mut stream), b"");
    let mut wrong = dial(vm);
    writeln!(wrong, "GET / HTTP/1.1").unwrap();
    assert_eq!(rest(&mut wrong), b"");
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn the_host_ends_first_and_gets_its_answer(vm: &mut TestVm) {
    serve(vm);
    let (stream, _) = connect(vm, 9);
    let back = exchange(stream, pattern(200_000));
    assert_eq!(back, 200_000u32.to_le_bytes());
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn the_guest_ends_first_and_still_receives(vm: &mut TestVm) {
    serve(vm);
    let (mut stream, _) = connect(vm, 8);
    assert_eq!(rest(&mut stream), b"over");
    stream.write_all(&pattern(150_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    vm.wait_for("received_after_end=150000");
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn connections_wait_for_the_driver_and_outlive_a_pause(vm: &mut TestVm) {
    device(vm);
    let mut early = dial(vm);
    writeln!(early, "CONNECT 7").unwrap();
    vm.start();
    let mut line = [0; 14];
    early.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK 1073741824\n");
    let state = |state| json!({ "state": state });
    assert_eq!(
        vm.request("PATCH", "/vm", Some(&state("Paused"))).status,
        204
    );
    early.write_all(b"meanwhile").unwrap();
    // Longer than anybody is waited for.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(
        vm.request("PATCH", "/vm", Some(&state("Resumed"))).status,
        204
    );
    early.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut early), b"meanwhile");
    quit(vm);
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn churn_leaves_nothing_behind(vm: &mut TestVm) {
    serve(vm);
    let round = |vm: &TestVm, round: usize| {
        let mut streams: Vec<UnixStream> = (0..200).map(|_| connect(vm, 7).0).collect();
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&[(index + round) as u8; 100]).unwrap();
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut back = [0; 100];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [(index + round) as u8; 100]);
            // Some end one direction first, some just go.
            if index % 3 == 0 {
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(rest(stream), b"");
            }
        }
    };
    let before = open_files(vm);
    let settle = |vm: &TestVm| {
        let deadline = Instant::now() + PATIENCE;
        while open_files(vm) > before {
            assert!(Instant::now() < deadline, "files are left open");
            thread::sleep(Duration::from_millis(5));
        }
    };
    round(vm, 0);
    settle(vm);
    let memory = resident_kib(vm);
    for number in 1..20 {
        round(vm, number);
        settle(vm);
    }
    let grown = resident_kib(vm).saturating_sub(memory);
    assert!(grown <= 256, "{grown} KiB more");
    quit(vm);
    assert_eq!(vm.value("accepted"), (20 * 200).to_string());
}

#[vm_test(kernel = "vsock")]
fn connections_leave_files_for_the_api(vm: &mut TestVm) {
    const FILES: u64 = 256;
    let pid = Pid::from_raw(i32::try_from(vm.pid()).unwrap());
    let limit = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    serve(vm);
    let held: Vec<_> = (0..2 * FILES).map(|_| dial(vm)).collect();
    let deadline = Instant::now() + PATIENCE;
    while open_files(vm) < 150 {
        assert!(Instant::now() < deadline, "nobody is accepted");
        thread::sleep(Duration::from_millis(5));
    }
    let mut client = Client::connect(vm.path("api.sock")).unwrap();
    client.set_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.get("/", None).unwrap().status, 200);
    drop(held);
    quit(vm);
}

#[vm_test(kernel = "vsock_hostile", mmio, pci)]
fn packets_that_break_the_rules_harm_nobody(vm: &mut TestVm) {
    let service = UnixListener::bind(vm.path("v.sock_1234")).unwrap();
    vm.boot("boot_args", "connect=1234");
    device(vm);
    vm.start();
    vm.wait_for("ready");
    let answer = vm.request("GET", "/", None);
    assert_eq!(answer.body.unwrap()["state"], json!("Running"));
    drop(service);
    quit(vm);
    assert_eq!(vm.value("cases"), "24");
}

#[vm_test(kernel = "vsock", mmio, pci)]
fn the_device_is_told_and_replaced(vm: &mut TestVm) {
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config["vsock"].clone()
    };
    assert_eq!(told(vm), json!(null));
    let first = json!({ "guest_cid": 3, "uds_path": vm.path("first"), "vsock_id": "old" });
    vm.put("/vsock", &first);
    let told_first = json!({ "guest_cid": 3, "uds_path": vm.path("first") });
    assert_eq!(told(vm), told_first);
    // The same path again: the socket stays.
    vm.put("/vsock", &told_first);
    fs::write(vm.path("taken"), "").unwrap();
    let taken = json!({ "guest_cid": 3, "uds_path": vm.path("taken") });
    let why = vm.refused("PUT", "/vsock", Some(&taken));
    let words = "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix \
                 socket: Address already in use (os error 98)";
    assert!(why.starts_with(words), "{why}");
    assert!(vm.path("first").exists());
    assert!(vm.path("taken").exists());
    assert_eq!(told(vm), told_first);
    serve(vm);
    assert!(!vm.path("first").exists());
    quit(vm);
}
