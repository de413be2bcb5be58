//! The guest's virtio console comes out in a file, whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use integration::{TestVm, fnv1a64, vm_test};
use serde_json::json;

/// `O_NONBLOCK` (Linux `asm-generic/fcntl.h`).
const O_NONBLOCK: i32 = 0o4000;

#[vm_test(kernel = "console_write", mmio, pci)]
fn the_file_holds_every_byte_behind_what_was_there(vm: &mut TestVm) {
    let path = vm.path("hvc0");
    fs::write(&path, "before\n").unwrap();
    vm.put("/console", &json!({ "output_path": path }));
    vm.start();
    vm.expect_pass();
    let bytes = fs::read(path).unwrap();
    let printed = bytes.strip_prefix(b"before\n").unwrap();
    assert_eq!(printed.len().to_string(), vm.value("printed"));
    assert_eq!(fnv1a64(printed), vm.value("console_fnv1a64"));
}

#[vm_test(kernel = "console_write", mmio, pci)]
fn a_slow_reader_gets_every_byte_and_holds_up_nothing_else(vm: &mut TestVm) {
    let path = vm.fifo("fifo");
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(&path)
        .unwrap();
    vm.put("/console", &json!({ "output_path": path }));
    vm.start();
    vm.wait_for("ready");
    // 40 chains are 340 KiB, more than the FIFO holds: the guest waits, and the monitor answers.
    thread::sleep(Duration::from_millis(200));
    assert!(!vm.output().contains("printed="), "{}", vm.output());
    vm.pause();
    vm.resume();
    let mut bytes = Vec::new();
    let begin = Instant::now();
    while !vm.output().contains("PASS") {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", bytes.len());
        let mut part = [0; 5000];
        if let Ok(count) = reader.read(&mut part) {
            bytes.extend_from_slice(&part[..count]);
        }
        thread::sleep(Duration::from_millis(1));
    }
    // What is left in the FIFO when the guest is done; at its end there is no writer.
    vm.expect_pass();
    let _ = reader.read_to_end(&mut bytes);
    assert_eq!(bytes.len().to_string(), vm.value("printed"));
    assert_eq!(fnv1a64(&bytes), vm.value("console_fnv1a64"));
}

#[vm_test(kernel = "console_write", mmio, pci)]
fn a_limit_sets_the_pace(vm: &mut TestVm) {
    let path = vm.path("hvc0");
    // 340 KiB, of which 64 KiB pass at once and 256 KiB a second follow.
    let limit = json!({ "size": 65_536, "refill_time": 250 });
    vm.put(
        "/console",
        &json!({ "output_path": path, "rate_limiter": limit }),
    );
    let begin = Instant::now();
    vm.start();
    vm.expect_pass();
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert_eq!(
        fnv1a64(&fs::read(path).unwrap()),
        vm.value("console_fnv1a64")
    );
}

#[vm_test(kernel = "console_hostile", mmio, pci)]
fn broken_rules_break_nothing_else(vm: &mut TestVm) {
    let path = vm.path("hvc0");
    vm.put("/console", &json!({ "output_path": path }));
    vm.start();
    vm.expect_pass();
    let printed = fs::read(path).unwrap();
    let cases: usize = vm.value("cases").parse().unwrap();
    let good = printed.windows(3).filter(|line| line == b"ok\n").count();
    assert!(good >= cases, "{good} of {cases}");
}

#[vm_test(kernel = "console_write")]
fn a_console_is_told_and_refused_by_name(vm: &mut TestVm) {
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config.get("console").cloned()
    };
    assert_eq!(told(vm), None);
    let bad = json!({ "output_path": vm.path("") });
    let why = vm.refused("PUT", "/console", Some(&bad));
    assert!(why.starts_with("Console config error: "), "{why}");
    assert!(why.contains("output_path"), "{why}");
    let good = json!({ "output_path": vm.path("hvc0") });
    vm.put("/console", &good);
    assert_eq!(told(vm), Some(good.clone()));
    vm.start();
    vm.expect_pass();
}
