//! Memory that a guest plugs and unplugs while it runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use integration::{TestVm, vm_test};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn put(vm: &mut TestVm, config: &Value) {
    vm.put("/hotplug/memory", config);
}

fn request(vm: &mut TestVm, size_mib: u32) {
    let patch = json!({ "requested_size_mib": size_mib });
    let answer = vm.request("PATCH", "/hotplug/memory", Some(&patch));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
}

fn refused_request(vm: &mut TestVm, size_mib: u32) -> String {
    let patch = json!({ "requested_size_mib": size_mib });
    vm.refused("PATCH", "/hotplug/memory", Some(&patch))
}

fn status(vm: &mut TestVm) -> Value {
    let answer = vm.request("GET", "/hotplug/memory", None);
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body.unwrap()
}

/// Private memory that the monitor holds, MiB.
fn resident_mib(vm: &TestVm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[vm_test(kernel = "mem", mmio, pci)]
fn memory_comes_and_goes_back_to_the_host(vm: &mut TestVm) {
    put(vm, &json!({ "total_size_mib": 256 }));
    vm.start();
    vm.wait_for("usable=0 plugged=0");
    assert_eq!(vm.value("start"), "0x100000000");
    assert_eq!(vm.value("size"), (256 * MIB).to_string());
    assert_eq!(vm.value("block"), (2 * MIB).to_string());
    let before = resident_mib(vm);

    request(vm, 128);
    vm.wait_for("filled=134217728");
    let full = resident_mib(vm);
    assert!(full >= before + 128, "{before} MiB, then {full}");
    let sizes = |plugged: u32, requested: u32| {
        json!({
            "block_size_mib": 2, "total_size_mib": 256, "slot_size_mib": 128,
            "plugged_size_mib": plugged, "requested_size_mib": requested,
        })
    };
    assert_eq!(status(vm), sizes(128, 128));

    request(vm, 0);
    vm.wait_for("kept=0");
    let after = resident_mib(vm);
    assert!(
        after <= before + 8,
        "{before} MiB, {full} MiB, then {after}"
    );
    assert_eq!(status(vm), sizes(0, 0));

    request(vm, 128);
    vm.expect_pass();
}

#[vm_test(kernel = "mem", mmio, pci)]
fn part_of_it_goes_and_the_rest_stays_whole(vm: &mut TestVm) {
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": true });
    vm.put("/machine-config", &machine);
    put(vm, &json!({ "total_size_mib": 512, "block_size_mib": 4 }));
    vm.start();
    vm.wait_for("plugged=0");
    request(vm, 160);
    vm.wait_for("filled=");
    let full = resident_mib(vm);
    request(vm, 100);
    vm.wait_for("kept=104857600");
    let after = resident_mib(vm);
    assert!(after + 55 <= full, "{full} MiB, then {after}");
    request(vm, 160);
    vm.expect_pass();
}

#[vm_test(kernel = "mem", mmio, pci)]
fn it_goes_on_after_a_pause_and_hears_what_was_requested_meanwhile(vm: &mut TestVm) {
    put(vm, &json!({ "total_size_mib": 128, "block_size_mib": 64 }));
    vm.start();
    vm.wait_for("plugged=0");
    vm.pause();
    request(vm, 128);
    assert_eq!(status(vm)["plugged_size_mib"], 0);
    vm.resume();
    vm.wait_for("filled=");
    vm.pause();
    request(vm, 64);
    vm.resume();
    vm.wait_for("kept=67108864");
    request(vm, 128);
    vm.expect_pass();
}

#[vm_test(kernel = "mem_hostile", mmio, pci)]
fn wrong_requests_are_refused_and_other_devices_do_not_reach_what_is_not_there(vm: &mut TestVm) {
    vm.drive("disk", &[7; 4096], &json!({}));
    put(vm, &json!({ "total_size_mib": 256 }));
    vm.start();
    vm.wait_for("ready");
    request(vm, 6);
    vm.expect_pass();
    assert_eq!(vm.value("refused"), "42");
    assert_eq!(vm.value("done"), "yes");
}

#[vm_test(kernel = "halt")]
fn what_cannot_be_is_refused(vm: &mut TestVm) {
    for (config, words) in [
        (
            json!({ "total_size_mib": 128, "block_size_mib": 1 }),
            "Block size must not be lower than 2 MiB",
        ),
        (
            json!({ "total_size_mib": 128, "slot_size_mib": 64 }),
            "Slot size must not be lower than 128 MiB",
        ),
        (
            json!({ "total_size_mib": 130 }),
            "Total size must be a multiple of slot size (128 MiB)",
        ),
        (json!({}), "missing field `total_size_mib`"),
    ] {
        let why = vm.refused("PUT", "/hotplug/memory", Some(&config));
        assert!(why.contains(words), "{why}");
    }
    let too_early = "not supported before starting the microVM";
    assert!(refused_request(vm, 2).contains(too_early));
    assert!(
        vm.refused("GET", "/hotplug/memory", None)
            .contains(too_early)
    );

    let huge = json!({ "total_size_mib": 1_u32 << 31, "block_size_mib": 1_u32 << 31, "slot_size_mib": 1_u32 << 31 });
    put(vm, &huge);
    let kernel = json!({ "kernel_image_path": integration::guest_kernel("halt") });
    vm.put("/boot-source", &kernel);
    let start = json!({ "action_type": "InstanceStart" });
    let why = vm.refused("PUT", "/actions", Some(&start));
    assert!(why.contains("Invalid Memory Configuration"), "{why}");

    put(vm, &json!({ "total_size_mib": 128 }));
    vm.put("/actions", &start);
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    let told = json!({ "total_size_mib": 128, "block_size_mib": 2, "slot_size_mib": 128 });
    assert_eq!(config["memory-hotplug"], told);
    let why = refused_request(vm, 2);
    assert!(
        why.contains("Memory hotplug update error: Device is not active"),
        "{why}"
    );
    let why = vm.refused("PUT", "/hotplug/memory", Some(&told));
    assert!(why.contains("not supported after starting"), "{why}");
}

#[vm_test(kernel = "mem", mmio)]
fn more_than_there_is_cannot_be_requested(vm: &mut TestVm) {
    put(vm, &json!({ "total_size_mib": 128 }));
    vm.start();
    vm.wait_for("plugged=0");
    for size_mib in [130, 3, u32::MAX] {
        let bytes = u64::from(size_mib) * MIB;
        let why = refused_request(vm, size_mib);
        let words = format!("Size {bytes} is invalid: it must be a multiple of block size");
        assert!(why.contains(&words), "{why}");
    }
    assert_eq!(status(vm)["requested_size_mib"], 0);
}

#[vm_test(kernel = "mem_resets", mmio, pci)]
fn it_can_be_asked_while_its_driver_resets_it(vm: &mut TestVm) {
    put(vm, &json!({ "total_size_mib": 256 }));
    vm.start();
    vm.wait_for("storming");
    for _ in 0..100 {
        assert_eq!(status(vm)["total_size_mib"], 256);
    }
    vm.type_text("q");
    vm.expect_pass();
    assert!(vm.value("resets").parse::<u64>().unwrap() > 0);
}

#[vm_test(kernel = "halt")]
fn a_machine_without_it_says_so(vm: &mut TestVm) {
    vm.start();
    let words = "Failed perform action on device: Device not found";
    assert!(refused_request(vm, 2).contains(words));
    assert!(vm.refused("GET", "/hotplug/memory", None).contains(words));
}
