//! Disks hold what is written, and nothing else happens to them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use integration::{TestVm, fnv1a64, vm_test};
use serde_json::{Value, json};

const SECTOR: usize = 512;

/// Bytes that differ from sector to sector.
fn content(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR)
        .map(|i| ((i / SECTOR * 31) ^ (i * 7)) as u8)
        .collect()
}

/// The pattern that `blk_write` makes from its seed.
fn pattern(seed: u64, sectors: usize) -> Vec<u8> {
    (0..(sectors * SECTOR / 8) as u64)
        .flat_map(|n| {
            let x = seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x ^ (x >> 32)).to_le_bytes()
        })
        .collect()
}

#[vm_test(kernel = "blk_readback", mmio, pci)]
fn the_guest_reads_what_the_file_holds(vm: &mut TestVm) {
    let bytes = content(4097);
    vm.drive("disk", &bytes, &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("capacity_sectors"), "4097");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "blk_write", mmio, pci)]
fn the_file_holds_what_the_guest_wrote(vm: &mut TestVm) {
    let path = vm.drive(
        "disk",
        &vec![0xee; 2051 * SECTOR],
        &json!({ "cache_type": "Writeback" }),
    );
    vm.boot("boot_args", "seed=77");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("flushed"), "yes");
    let written = fs::read(path).unwrap();
    assert!(written == pattern(77, 2051), "the file differs");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&written));
}

#[vm_test(kernel = "blk_flush", mmio, pci)]
fn a_write_back_disk_offers_flush(vm: &mut TestVm) {
    let path = vm.drive(
        "disk",
        &[0; 4 * SECTOR],
        &json!({ "cache_type": "Writeback" }),
    );
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("flush_feature"), "yes");
    assert_eq!(vm.value("flush_status"), "0");
    assert_eq!(fs::read(path).unwrap()[..SECTOR], [0xf1; SECTOR]);
}

#[vm_test(kernel = "blk_flush", mmio, pci)]
fn a_disk_is_not_write_back_unless_it_is_asked_to(vm: &mut TestVm) {
    vm.drive("disk", &[0; 4 * SECTOR], &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("flush_feature"), "no");
}

/// What `blk_queues` leaves on the disk.
fn queues_content(queues: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (queue, round) in (1..=queues).flat_map(|q| (0..40_u64).map(move |r| (q, r))) {
        for offset in (0..4096_u64).step_by(8) {
            bytes.extend((queue << 48 | round << 32 | offset).to_le_bytes());
        }
    }
    bytes
}

#[vm_test(kernel = "blk_queues", mmio, pci)]
fn each_processor_has_a_queue_of_its_own(vm: &mut TestVm) {
    let expected = queues_content(4);
    let options = json!({ "num_queues": 4, "cache_type": "Writeback" });
    let path = vm.drive("disk", &vec![0; expected.len()], &options);
    vm.machine(4, 128);
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("queues"), "4");
    assert!(fs::read(path).unwrap() == expected, "the file differs");
}

#[vm_test(kernel = "blk_queues", mmio, pci)]
fn queues_of_the_asynchronous_engine_share_an_overlay(vm: &mut TestVm) {
    let len = queues_content(2).len();
    let overlay = vm.path("overlay");
    let options = json!({
        "num_queues": 2, "cache_type": "Writeback", "io_engine": "Async", "overlay_path": overlay,
    });
    let path = vm.drive("disk", &vec![0xee; len], &options);
    vm.machine(2, 128);
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("queues"), "2");
    assert!(
        fs::read(path).unwrap() == vec![0xee; len],
        "the base changed"
    );
}

#[vm_test(kernel = "hello")]
fn the_number_of_queues_has_a_range(vm: &mut TestVm) {
    for wrong in [0, 33] {
        let drive = json!({
            "drive_id": "disk", "is_root_device": false, "path_on_host": "/x", "num_queues": wrong,
        });
        let why = vm.refused("PUT", "/drives/disk", Some(&drive));
        let words = format!("num_queues {wrong} is out of range [1, 32]");
        assert!(why.contains(&words), "{why}");
    }
    vm.drive("disk", &content(1), &json!({ "num_queues": 32 }));
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    assert_eq!(config["drives"][0]["num_queues"], json!(32));
}

#[vm_test(kernel = "blk_id", mmio, pci)]
fn the_id_names_the_file(vm: &mut TestVm) {
    let path = vm.drive("disk", &[0; SECTOR], &json!({}));
    vm.start();
    vm.expect_pass();
    let file = fs::metadata(path).unwrap();
    let mut id = format!("{}{}{}", file.st_dev(), file.st_rdev(), file.st_ino());
    id.truncate(20);
    assert_eq!(vm.value("id"), id);
}

#[vm_test(kernel = "blk_read_only", mmio, pci)]
fn a_read_only_disk_refuses_writes(vm: &mut TestVm) {
    let bytes = content(8);
    let path = vm.drive("disk", &bytes, &json!({ "is_read_only": true }));
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    vm.start();
    vm.expect_pass();
    assert!(fs::read(path).unwrap() == bytes, "the file changed");
}

#[vm_test(kernel = "blk_hostile", mmio, pci)]
fn chains_that_break_the_rules_are_answered(vm: &mut TestVm) {
    let bytes = content(64);
    let path = vm.drive("disk", &bytes, &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
}

#[vm_test(kernel = "irq", mmio, pci)]
fn interrupts_arrive_awake_and_asleep(vm: &mut TestVm) {
    vm.drive("disk", &content(8), &json!({}));
    vm.start();
    vm.expect_pass();
}

#[vm_test(kernel = "cmdline")]
fn the_root_drive_is_named_on_the_command_line(vm: &mut TestVm) {
    vm.drive("data", &[0; SECTOR], &json!({}));
    vm.drive("root", &[0; SECTOR], &json!({ "is_root_device": true }));
    vm.start();
    vm.expect_pass();
    let line = vm.value("cmdline");
    assert!(line.contains(" root=/dev/vda rw "), "{line}");
    assert!(
        line.contains("virtio_mmio.device=4K@0xc0001000:5"),
        "{line}"
    );
    assert!(
        line.contains("virtio_mmio.device=4K@0xc0002000:6"),
        "{line}"
    );
}

#[vm_test(kernel = "blk_readback", mmio, pci)]
fn the_root_drive_is_the_first_disk(vm: &mut TestVm) {
    vm.drive("data", &content(4), &json!({}));
    let root = content(9);
    vm.drive(
        "root",
        &root,
        &json!({ "is_root_device": true, "is_read_only": true }),
    );
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&root));
}

#[vm_test(kernel = "cmdline")]
fn a_partition_is_named_by_its_uuid(vm: &mut TestVm) {
    let options =
        json!({ "is_root_device": true, "is_read_only": true, "partuuid": "0eaa91a0-01" });
    vm.drive("root", &[0; SECTOR], &options);
    vm.start();
    vm.expect_pass();
    let line = vm.value("cmdline");
    assert!(line.contains(" root=PARTUUID=0eaa91a0-01 ro "), "{line}");
}

/// The path of `drive` as the configuration tells it.
fn told_path(vm: &mut TestVm) -> Value {
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    config["drives"][0]["path_on_host"].clone()
}

fn patch_drive(vm: &mut TestVm, body: &Value) {
    let answer = vm.request("PATCH", "/drives/disk", Some(body));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
}

#[vm_test(kernel = "blk_resize", mmio, pci)]
fn a_file_that_grew_is_noticed_by_a_patch(vm: &mut TestVm) {
    let path = vm.drive("disk", &content(4), &json!({}));
    vm.start();
    vm.wait_for("ready");
    let bytes = content(1033);
    fs::write(&path, &bytes).unwrap();
    patch_drive(vm, &json!({ "drive_id": "disk", "path_on_host": path }));
    vm.expect_pass();
    assert_eq!(vm.value("capacity_before"), "4");
    assert_eq!(vm.value("capacity_after"), "1033");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "blk_resize", mmio, pci)]
fn a_drive_gets_another_file_even_while_paused(vm: &mut TestVm) {
    let first = vm.drive("disk", &content(4), &json!({}));
    vm.start();
    vm.wait_for("ready");
    let (bytes, second) = (content(7), vm.path("second"));
    fs::write(&second, &bytes).unwrap();
    let patch = |path: &Path| json!({ "drive_id": "disk", "path_on_host": path });
    for (path, words) in [
        ("none", "No such file or directory"),
        ("", "Is a directory"),
    ] {
        let body = patch(&vm.path(path));
        let why = vm.refused("PATCH", "/drives/disk", Some(&body));
        let wrapper = "Drive config error: Unable to patch the block device: Virtio backend error: Error manipulating the backing file: ";
        assert!(why.starts_with(wrapper), "{why}");
        assert!(why.contains(words), "{why}");
        assert!(
            why.ends_with("Please verify the request arguments."),
            "{why}"
        );
    }
    for (id, words) in [
        ("disk", "Running method expected different backend."),
        (
            "other",
            "Failed perform action on device: Device not found Please verify",
        ),
    ] {
        let body = json!({ "drive_id": id });
        let why = vm.refused("PATCH", &format!("/drives/{id}"), Some(&body));
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(told_path(vm), json!(first));
    vm.request("PATCH", "/vm", Some(&json!({ "state": "Paused" })));
    patch_drive(vm, &patch(&second));
    vm.request("PATCH", "/vm", Some(&json!({ "state": "Resumed" })));
    assert_eq!(told_path(vm), json!(second));
    vm.expect_pass();
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&bytes));
}

/// Boots the kernel that reads `count` sectors, one request each, and gives the moment it begins.
fn start_pace(vm: &mut TestVm, count: u32) -> Instant {
    vm.boot("boot_args", format!("count={count}"));
    vm.start();
    vm.wait_for("ready");
    Instant::now()
}

#[vm_test(kernel = "blk_pace", mmio, pci)]
fn a_limit_sets_the_pace(vm: &mut TestVm) {
    let ops = json!({ "size": 100, "refill_time": 250, "one_time_burst": 200 });
    let limiter = json!({ "rate_limiter": { "ops": ops } });
    vm.drive("disk", &content(1), &limiter);
    let begin = start_pace(vm, 1000);
    vm.expect_pass();
    // 300 at once, 700 at 400 a second.
    let elapsed = begin.elapsed();
    assert!(elapsed >= Duration::from_millis(1700), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(3500), "{elapsed:?}");
}

#[vm_test(kernel = "blk_pace", mmio, pci)]
fn a_patch_lifts_a_limit(vm: &mut TestVm) {
    let bytes = json!({ "size": 512 * 100, "refill_time": 3_600_000 });
    let limiter = json!({ "rate_limiter": { "bandwidth": bytes } });
    vm.drive("disk", &content(1), &limiter);
    start_pace(vm, 1000);
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config["drives"][0]["rate_limiter"].clone()
    };
    let mut all = json!({ "bandwidth": bytes, "ops": null });
    all["bandwidth"]["one_time_burst"] = Value::Null;
    assert_eq!(told(vm), all);
    let zeros = json!({ "size": 0, "refill_time": 0 });
    let keep = json!({ "drive_id": "disk", "rate_limiter": { "ops": zeros } });
    patch_drive(vm, &keep);
    assert_eq!(told(vm), all);
    let lift = json!({ "drive_id": "disk", "rate_limiter": { "bandwidth": zeros } });
    patch_drive(vm, &lift);
    assert_eq!(told(vm), Value::Null);
    vm.expect_pass();
    assert_eq!(vm.value("reads"), "1000");
}

#[vm_test(kernel = "blk_trim", mmio, pci)]
fn space_that_the_guest_gives_back_is_free_again(vm: &mut TestVm) {
    const SECTORS: usize = 16 << 11;
    let path = vm.drive("disk", &content(SECTORS), &json!({ "serial": "trimmed" }));
    let blocks = |path: &Path| fs::metadata(path).unwrap().st_blocks();
    let before = blocks(&path);
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("seg_max"), "254");
    assert_eq!(vm.value("blk_size"), "512");
    let mut expected = content(SECTORS);
    // 8 MiB in two ranges, then 1 MiB unmapped, then 64 KiB zeroed.
    for (first, sectors) in [(2048, 8192), (16384, 8192), (28672, 2048), (0, 128)] {
        expected[first * SECTOR..(first + sectors) * SECTOR].fill(0);
    }
    assert!(fs::read(&path).unwrap() == expected, "the file differs");
    let freed = before - blocks(&path);
    assert!(freed >= 18000, "{freed} of {before} blocks");
}

#[vm_test(kernel = "blk_id")]
fn the_id_is_the_one_that_was_asked_for(vm: &mut TestVm) {
    vm.drive(
        "disk",
        &[0; SECTOR],
        &json!({ "serial": "rack 7, disk 12" }),
    );
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("id"), "rack 7, disk 12");
}

#[vm_test(kernel = "blk_write")]
fn the_asynchronous_engine_writes_and_reads_back(vm: &mut TestVm) {
    let options = json!({ "cache_type": "Writeback", "io_engine": "Async" });
    let path = vm.drive("disk", &vec![0xee; 8201 * SECTOR], &options);
    vm.boot("boot_args", "seed=5");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("flushed"), "yes");
    let written = fs::read(path).unwrap();
    assert!(written == pattern(5, 8201), "the file differs");
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&written));
}

#[vm_test(kernel = "blk_hostile")]
fn the_asynchronous_engine_answers_chains_that_break_the_rules(vm: &mut TestVm) {
    let bytes = content(64);
    let path = vm.drive("disk", &bytes, &json!({ "io_engine": "Async" }));
    vm.start();
    vm.expect_pass();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
}

/// How many io_urings the monitor has.
fn rings(vm: &TestVm) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets
        .filter(|target| target.as_os_str() == "anon_inode:[io_uring]")
        .count()
}

#[vm_test(kernel = "hello")]
fn drives_share_one_ring_that_is_made_when_it_is_needed(vm: &mut TestVm) {
    vm.drive("one", &content(1), &json!({}));
    assert_eq!(rings(vm), 0);
    for id in ["two", "three"] {
        vm.drive(id, &content(1), &json!({ "io_engine": "Async" }));
        assert_eq!(rings(vm), 1);
    }
}

#[vm_test(kernel = "blk_pace")]
fn an_asynchronous_drive_is_paused_and_patched_under_load(vm: &mut TestVm) {
    let path = vm.drive("disk", &content(4), &json!({ "io_engine": "Async" }));
    start_pace(vm, 20000);
    assert_eq!(rings(vm), 1);
    for _ in 0..20 {
        for state in ["Paused", "Resumed"] {
            let body = json!({ "state": state });
            let answer = vm.request("PATCH", "/vm", Some(&body));
            assert_eq!(answer.status, 204, "{:?}", answer.body);
        }
        patch_drive(vm, &json!({ "drive_id": "disk", "path_on_host": path }));
    }
    vm.expect_pass();
    assert_eq!(vm.value("reads"), "20000");
}
