//! Disks of another process: whole, changing, misbehaving and gone.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

mod disk;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use disk::{BackEnd, READ_ONLY};
use integration::{TestVm, fnv1a64, vm_test};
use serde_json::{Value, json};

const SECTOR: usize = 512;

fn content(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR)
        .map(|i| ((i / SECTOR * 29) ^ (i * 5)) as u8)
        .collect()
}

fn body(vm: &TestVm) -> Value {
    json!({ "drive_id": "disk", "is_root_device": false, "socket": vm.path("disk.sock") })
}

/// A drive on a back end that serves a file of `bytes`; the file's path.
fn serve(vm: &mut TestVm, bytes: &[u8], more: u64, ack: bool, cache: &str) -> (BackEnd, PathBuf) {
    let path = vm.path("image");
    fs::write(&path, bytes).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let back_end = BackEnd::serve(&vm.path("disk.sock"), file, more, ack);
    let mut drive = body(vm);
    drive["cache_type"] = json!(cache);
    vm.put("/drives/disk", &drive);
    (back_end, path)
}

#[vm_test(kernel = "blk_readback", mmio, pci)]
fn the_guest_reads_what_the_back_end_has(vm: &mut TestVm) {
    let bytes = content(4097);
    let (_back_end, _) = serve(vm, &bytes, 0, true, "Unsafe");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("capacity_sectors"), "4097");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "blk_write", mmio, pci)]
fn the_back_end_has_what_the_guest_wrote(vm: &mut TestVm) {
    let (_back_end, path) = serve(vm, &vec![0xee; 2051 * SECTOR], 0, false, "Writeback");
    vm.boot("boot_args", "seed=78 event_idx");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("flushed"), "yes");
    let written = fs::read(path).unwrap();
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&written));
    assert!(written != vec![0xee; written.len()]);
}

#[vm_test(kernel = "irq", mmio, pci)]
fn calls_of_the_back_end_are_interrupts(vm: &mut TestVm) {
    let (_back_end, _) = serve(vm, &content(8), 0, true, "Unsafe");
    vm.start();
    vm.expect_pass();
}

#[vm_test(kernel = "blk_pace", mmio, pci)]
fn requests_go_on_after_a_pause(vm: &mut TestVm) {
    let (_back_end, _) = serve(vm, &content(8), 0, true, "Unsafe");
    vm.boot("boot_args", "count=4000");
    vm.start();
    vm.wait_for("ready");
    for _ in 0..10 {
        vm.pause();
        vm.resume();
    }
    vm.expect_pass();
    assert_eq!(vm.value("reads"), "4000");
}

#[vm_test(kernel = "blk_resize", mmio, pci)]
fn a_patch_reads_the_configuration_anew(vm: &mut TestVm) {
    let (_back_end, path) = serve(vm, &content(16), 0, true, "Unsafe");
    vm.start();
    vm.wait_for("ready");
    let bytes = content(40);
    fs::write(&path, &bytes).unwrap();
    let limit = json!({ "drive_id": "disk", "rate_limiter": {} });
    let file = json!({ "drive_id": "disk", "path_on_host": path });
    for refused in [limit, file] {
        let why = vm.refused("PATCH", "/drives/disk", Some(&refused));
        let begins = "Drive config error: Unable to patch the block device: Running method expected different backend.";
        let ends = " Please verify the request arguments.";
        assert!(why.starts_with(begins) && why.ends_with(ends), "{why}");
    }
    let answer = vm.request(
        "PATCH",
        "/drives/disk",
        Some(&json!({ "drive_id": "disk" })),
    );
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    vm.expect_pass();
    assert_eq!(vm.value("capacity_before"), "16");
    assert_eq!(vm.value("capacity_after"), "40");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "cmdline")]
fn a_root_disk_is_read_only_if_the_back_end_says_so(vm: &mut TestVm) {
    let path = vm.path("image");
    fs::write(&path, content(8)).unwrap();
    let _back_end = BackEnd::serve(
        &vm.path("disk.sock"),
        File::open(&path).unwrap(),
        READ_ONLY,
        true,
    );
    let mut drive = body(vm);
    drive["is_root_device"] = json!(true);
    vm.put("/drives/disk", &drive);
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    let told = &config["drives"][0];
    assert!(told["is_read_only"].is_null() && told["path_on_host"].is_null());
    assert_eq!(told["socket"], json!(vm.path("disk.sock")));
    vm.start();
    vm.expect_pass();
    assert!(vm.value("cmdline").contains("root=/dev/vda ro"));
}

#[vm_test(kernel = "blk_lost", mmio, pci)]
fn a_back_end_that_dies_leaves_a_disk_that_needs_a_reset(vm: &mut TestVm) {
    let (back_end, _) = serve(vm, &content(8), 0, true, "Unsafe");
    vm.start();
    vm.wait_for("ready");
    back_end.leave();
    vm.expect_pass();
    assert_eq!(vm.value("lost"), "yes");
}

#[vm_test(kernel = "blk_lost", mmio, pci)]
fn a_reset_brings_a_disk_back_whose_back_end_was_started_anew(vm: &mut TestVm) {
    let (back_end, path) = serve(vm, &content(8), 0, true, "Unsafe");
    vm.boot("boot_args", "again");
    vm.start();
    vm.wait_for("ready");
    back_end.leave();
    vm.wait_for("lost=yes");
    assert!(vm.log().contains("drive with socket"), "{}", vm.log());
    fs::write(&path, content(24)).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let _back_end = BackEnd::serve(&vm.path("disk.sock"), file, 0, true);
    vm.type_text("x");
    vm.expect_pass();
    assert_eq!(vm.value("capacity"), "24");
}

#[vm_test(kernel = "hello")]
fn the_back_end_decides_what_its_disk_is(vm: &mut TestVm) {
    for (field, value) in [
        ("path_on_host", json!("/dev/null")),
        ("is_read_only", json!(true)),
        ("rate_limiter", json!({})),
        ("io_engine", json!("Sync")),
        ("serial", json!("7")),
        ("overlay_path", json!("/dev/null")),
        ("num_queues", json!(1)),
    ] {
        let mut drive = body(vm);
        drive[field] = value;
        let why = vm.refused("PUT", "/drives/disk", Some(&drive));
        let words =
            "Drive config error: Unable to create the virtio block device: Invalid block config.";
        assert!(why.starts_with(words) && why.contains(field), "{why}");
    }
    let nobody = body(vm);
    let why = vm.refused("PUT", "/drives/disk", Some(&nobody));
    let words = "Unable to create the virtio block device: Vhost user backend error: Vhost-user error: Failed to connect to UDS Unix stream: ";
    assert!(why.contains(words), "{why}");
}

#[vm_test(kernel = "hello")]
fn a_back_end_that_is_silent_or_talks_nonsense_is_refused_in_time(vm: &mut TestVm) {
    let socket = vm.path("disk.sock");
    let silent = UnixListener::bind(&socket).unwrap();
    let begin = Instant::now();
    let drive = body(vm);
    let why = vm.refused("PUT", "/drives/disk", Some(&drive));
    assert!(
        why.contains("did not answer GET_FEATURES within 5 s"),
        "{why}"
    );
    assert!(begin.elapsed() < Duration::from_secs(20));
    drop(silent);
    fs::remove_file(&socket).unwrap();

    let liar = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = liar.accept().unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
        stream.write_all(&[0xff; 64]).unwrap();
        // Until the monitor leaves.
        let _ = stream.read(&mut [0; 1]);
    });
    let why = vm.refused("PUT", "/drives/disk", Some(&drive));
    assert!(
        why.contains("answer to GET_FEATURES makes no sense"),
        "{why}"
    );
    thread.join().unwrap();
    vm.start();
    vm.expect_pass();
}

#[vm_test(kernel = "blk_readback", mmio, pci)]
fn the_drive_has_a_group_of_metrics_of_its_kind(vm: &mut TestVm) {
    let metrics = vm.path("metrics");
    vm.put("/metrics", &json!({ "metrics_path": metrics }));
    let (_back_end, _) = serve(vm, &content(8), 0, true, "Unsafe");
    vm.start();
    vm.expect_pass();
    let text = fs::read_to_string(metrics).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let group = last["vhost_user_block_disk"].as_object().unwrap();
    let keys: Vec<&str> = group.keys().map(String::as_str).collect();
    let known = [
        "activate_fails",
        "cfg_fails",
        "init_time_us",
        "activate_time_us",
        "config_change_time_us",
    ];
    assert_eq!(keys[..5], known);
    assert_eq!(
        keys[5..],
        ["event_fails", "update_count", "update_fails"],
        "of this monitor alone"
    );
    // Told whole in each line.
    assert!(group["init_time_us"].as_u64() > Some(0), "{group:?}");
    assert!(group["activate_time_us"].as_u64() > Some(0), "{group:?}");
    let groups: Vec<&String> = last.as_object().unwrap().keys().collect();
    let place = |name: &str| groups.iter().position(|group| *group == name);
    let own = place("vhost_user_block_disk").unwrap();
    assert_eq!(place("pmem"), Some(own - 1));
    assert_eq!(place("interrupts"), Some(own + 1));
    assert_eq!(place("vhost_user_block"), None);
    assert_eq!(place("block_disk"), None);
}
