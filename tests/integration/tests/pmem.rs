//! A file that the guest has as memory.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use integration::{TestVm, fnv1a64, vm_test};
use serde_json::{Value, json};

/// What the kernel writes over.
const WRITTEN: usize = 8192;
const ALIGNED: usize = 4 << 20;

/// Puts a file of 3 MiB and a bit, and gives its path and content.
fn pmem(vm: &mut TestVm, options: &Value) -> (PathBuf, Vec<u8>) {
    let bytes: Vec<u8> = (0..(3_u32 << 20) + 100)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8)
        .collect();
    let path = vm.path("memory");
    fs::write(&path, &bytes).unwrap();
    let mut body = json!({ "id": "p0", "path_on_host": path });
    for (key, value) in options.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    vm.put("/pmem/p0", &body);
    (path, bytes)
}

/// What the guest sees: the file, and zeroes up to a multiple of 2 MiB.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    all.resize(ALIGNED, 0);
    all
}

#[vm_test(kernel = "pmem", mmio, pci)]
fn the_guest_reads_and_writes_the_file(vm: &mut TestVm) {
    let (path, bytes) = pmem(vm, &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("start"), "0x100000000");
    assert_eq!(vm.value("size"), ALIGNED.to_string());
    assert_eq!(vm.value("fnv1a64"), fnv1a64(&padded(&bytes)));
    assert_eq!(vm.value("written"), "yes");
    assert_eq!(vm.value("flush"), "0x0");
    assert_eq!(vm.value("again"), "0x0");
    assert_eq!(vm.value("unknown"), "0xffffffff");
    let after = fs::read(path).unwrap();
    let start = 0x1_0000_0000_u64;
    let written = (start..start + WRITTEN as u64).step_by(8);
    let written: Vec<u8> = written.flat_map(|at| (!at).to_le_bytes()).collect();
    assert!(
        after[..WRITTEN] == written,
        "the guest's words are not there"
    );
    assert!(after[WRITTEN..] == bytes[WRITTEN..], "the rest changed");
}

#[vm_test(kernel = "pmem", mmio, pci)]
fn what_is_written_to_a_read_only_file_is_lost_and_the_next_flush_says_so(vm: &mut TestVm) {
    let (path, bytes) = pmem(vm, &json!({ "read_only": true }));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("fnv1a64"), fnv1a64(&padded(&bytes)));
    assert_eq!(vm.value("written"), "no");
    assert_eq!(vm.value("flush"), "0xffffffff");
    assert_eq!(vm.value("again"), "0x0");
    assert!(fs::read(path).unwrap() == bytes, "the file changed");
}

#[vm_test(kernel = "pmem", mmio, pci)]
fn a_file_that_is_cut_stops_the_guest_and_the_log_says_why(vm: &mut TestVm) {
    let (path, _) = pmem(vm, &json!({}));
    vm.boot("boot_args", "wait");
    vm.start();
    vm.wait_for("ready");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(4096).unwrap();
    vm.type_text("x");
    assert_eq!(vm.wait_exit(), 1);
    let log = vm.log();
    assert!(
        log.contains("that the host does not have any more"),
        "{log}"
    );
}

#[vm_test(kernel = "pmem", mmio, pci)]
fn a_limit_on_flushes_is_changed_while_the_guest_waits_for_it(vm: &mut TestVm) {
    let bucket = |refill_time| json!({ "ops": { "size": 1, "refill_time": refill_time } });
    pmem(vm, &json!({ "rate_limiter": bucket(3_600_000) }));
    vm.start();
    vm.wait_for("flush=0x0");
    let config = |vm: &mut TestVm| vm.request("GET", "/vm/config", None).body.unwrap();
    assert_eq!(config(vm)["pmem"][0]["rate_limiter"]["ops"]["size"], 1);
    thread::sleep(Duration::from_millis(300));
    assert!(!vm.output().contains("again="), "it did not wait");
    let patch = json!({ "id": "p0", "rate_limiter": bucket(0) });
    let patched = vm.request("PATCH", "/pmem/p0", Some(&patch));
    assert_eq!(patched.status, 204, "{:?}", patched.body);
    vm.expect_pass();
    assert_eq!(vm.value("again"), "0x0");
}

#[vm_test(kernel = "pmem")]
fn several_are_found_side_by_side(vm: &mut TestVm) {
    for id in ["p1", "p2"] {
        let path = vm.path(id);
        fs::write(&path, [7; 4096]).unwrap();
        vm.put(
            &format!("/pmem/{id}"),
            &json!({ "id": id, "path_on_host": path }),
        );
    }
    pmem(vm, &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("start"), "0x100000000");
    assert_eq!(vm.value("size"), (2 << 20).to_string());
}

#[vm_test(kernel = "cmdline")]
fn the_root_is_named_on_the_command_line(vm: &mut TestVm) {
    let first = vm.path("first");
    fs::write(&first, [0; 512]).unwrap();
    vm.put("/pmem/a", &json!({ "id": "a", "path_on_host": first }));
    pmem(vm, &json!({ "root_device": true, "read_only": true }));
    vm.start();
    vm.expect_pass();
    let line = vm.value("cmdline");
    assert!(line.contains(" root=/dev/pmem1 ro "), "{line}");
}

#[vm_test(kernel = "halt")]
fn what_cannot_be_is_refused(vm: &mut TestVm) {
    let (path, _) = pmem(vm, &json!({ "root_device": true }));
    let second = json!({ "id": "p1", "path_on_host": path, "root_device": true });
    let why = vm.refused("PUT", "/pmem/p1", Some(&second));
    assert!(why.contains("A root pmem device already exist"), "{why}");
    let drive = json!({ "drive_id": "d", "path_on_host": path, "is_root_device": true });
    let why = vm.refused("PUT", "/drives/d", Some(&drive));
    assert!(why.contains("defined as a pmem device"), "{why}");
    pmem(vm, &json!({}));
    vm.drive("disk", &[0; 512], &json!({ "is_root_device": true }));
    let why = vm.refused("PUT", "/pmem/p1", Some(&second));
    assert!(why.contains("defined as a block device"), "{why}");

    // The file is looked at when the machine starts, and can be corrected then.
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": integration::guest_kernel("halt") }),
    );
    let start = json!({ "action_type": "InstanceStart" });
    fs::write(&path, "").unwrap();
    let why = vm.refused("PUT", "/actions", Some(&start));
    assert!(why.contains("Error backing file size is 0"), "{why}");
    fs::remove_file(&path).unwrap();
    let why = vm.refused("PUT", "/actions", Some(&start));
    let words = "Error accessing backing file: No such file or directory (os error 2)";
    assert!(why.contains(words), "{why}");
    pmem(vm, &json!({}));
    vm.put("/actions", &start);

    let late = json!({ "id": "late", "path_on_host": path });
    let why = vm.refused("PUT", "/pmem/late", Some(&late));
    assert!(why.contains("PCI is not enabled"), "{why}");
    let patched = vm.request("PATCH", "/pmem/p0", Some(&json!({ "id": "p0" })));
    assert_eq!(patched.status, 204, "{:?}", patched.body);
    let why = vm.refused("PATCH", "/pmem/p9", Some(&json!({ "id": "p9" })));
    assert!(why.contains("Device not found Please verify"), "{why}");
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    let told = json!([{
        "id": "p0", "path_on_host": path, "root_device": false, "read_only": false,
        "rate_limiter": null,
    }]);
    assert_eq!(config["pmem"], told);
}
