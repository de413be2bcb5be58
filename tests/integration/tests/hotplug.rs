//! Devices come and go on the PCI bus while the guest runs, and it notices by itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use api_client::Client;
use integration::{Tap, TestVm, fnv1a64, vm_test};
use serde_json::{Value, json};

/// Longer than a guest may take to let go of a device.
const PATIENCE: Duration = Duration::from_secs(30);

fn start(vm: &mut TestVm, arguments: &str) {
    vm.boot("boot_args", arguments);
    vm.start();
    vm.wait_for("ready");
}

/// A byte ends the guest.
fn finish(vm: &mut TestVm) {
    vm.type_text("q");
    vm.expect_pass();
}

fn seen(slot: u8, bytes: &[u8]) -> String {
    format!("disk in slot {slot}: {}", fnv1a64(bytes))
}

fn configured(vm: &mut TestVm, list: &str) -> Vec<Value> {
    let answer = vm.request("GET", "/vm/config", None);
    answer.body.unwrap()[list].as_array().unwrap().clone()
}

/// Open descriptors of the monitor, by what they are.
fn descriptors(vm: &TestVm) -> Vec<String> {
    let directory = fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap();
    let targets = directory.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

#[vm_test(kernel = "hotplug", pci)]
fn a_disk_is_noticed_read_changed_and_let_go(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    start(vm, "");
    let path = vm.drive("second", &[7; 70_000 / 512 * 512], &json!({}));
    vm.wait_for(&seen(2, &[7; 70_000 / 512 * 512]));
    assert_eq!(configured(vm, "drives").len(), 2);
    let patch = json!({ "drive_id": "second", "path_on_host": path,
        "rate_limiter": { "ops": { "size": 1000, "refill_time": 100 } } });
    let answer = vm.request("PATCH", "/drives/second", Some(&patch));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    let drives = configured(vm, "drives");
    assert_eq!(drives[1]["rate_limiter"]["ops"]["size"], 1000);

    vm.delete("/drives/second");
    vm.wait_for("released=2");
    assert_eq!(configured(vm, "drives").len(), 1);
    let name = path.display().to_string();
    assert!(!descriptors(vm).contains(&name), "the file is open still");
    let why = vm.refused("DELETE", "/drives/second", None);
    assert!(why.contains("Device not found"), "{why}");
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn a_window_can_be_placed_by_the_guest(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    start(vm, "move");
    for round in 2..5 {
        vm.drive("second", &[round; 8192], &json!({}));
        vm.wait_for(&seen(2, &[round; 8192]));
        vm.delete("/drives/second");
    }
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn an_interface_is_noticed_and_its_tap_is_free_after(vm: &mut TestVm) {
    start(vm, "");
    let tap = Tap::new();
    let interface =
        |mac: &str| json!({ "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": mac });
    vm.put("/network-interfaces/eth0", &interface("06:00:00:00:00:01"));
    vm.wait_for("interface in slot 1: 06:00:00:00:00:01");
    let mut other = interface("06:00:00:00:00:01");
    let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&other));
    assert!(why.contains("Device ID in use"), "{why}");
    other["iface_id"] = "eth1".into();
    let why = vm.refused("PUT", "/network-interfaces/eth1", Some(&other));
    assert!(why.contains("The MAC address is already in use"), "{why}");
    vm.delete("/network-interfaces/eth0");
    assert!(!tap.exists());
    assert!(configured(vm, "network-interfaces").is_empty());
    vm.put("/network-interfaces/eth0", &interface("06:00:00:00:00:02"));
    assert!(tap.exists());
    vm.wait_for("interface in slot 1: 06:00:00:00:00:02");
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn a_paused_guest_notices_when_it_goes_on(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    start(vm, "");
    vm.pause();
    vm.drive("second", &[9; 4096], &json!({}));
    vm.drive("unseen", &[9; 4096], &json!({}));
    vm.delete("/drives/unseen");
    vm.resume();
    vm.wait_for(&seen(2, &[9; 4096]));
    vm.pause();
    let why = vm.refused("DELETE", "/drives/second", None);
    assert!(why.contains("resume it"), "{why}");
    vm.resume();
    vm.delete("/drives/second");
    assert!(!vm.output().contains("slot 3"));
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn a_guest_that_keeps_a_device_holds_up_nobody(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    start(vm, "stubborn");
    vm.drive("second", &[3; 4096], &json!({}));
    vm.wait_for(&seen(2, &[3; 4096]));
    let socket = vm.path("api.sock");
    let ask = move || {
        let mut client = Client::connect(&socket).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client.delete("/drives/second", None).unwrap()
    };
    let waiting = [thread::spawn(ask.clone()), thread::spawn(ask)];
    vm.wait_for("asked=0x4");
    let begin = Instant::now();
    assert_eq!(vm.request("GET", "/balloon", None).status, 400);
    assert!(begin.elapsed() < Duration::from_secs(2));
    for thread in waiting {
        let answer = thread.join().unwrap();
        assert_eq!(answer.status, 400);
        let why = answer.body.unwrap()["fault_message"].to_string();
        assert!(why.contains("did not let go"), "{why}");
    }
    assert_eq!(configured(vm, "drives").len(), 2);
    let why = vm.refused("DELETE", "/drives/second?now", None);
    assert!(why.contains("force=true"), "{why}");
    vm.delete("/drives/second?force=true");
    vm.wait_for("changed=0x1");
    assert_eq!(configured(vm, "drives").len(), 1);
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn the_end_of_the_guest_answers_who_waits(vm: &mut TestVm) {
    start(vm, "stubborn");
    vm.drive("disk", &[3; 4096], &json!({}));
    vm.wait_for(&seen(1, &[3; 4096]));
    let socket = vm.path("api.sock");
    let waiting = thread::spawn(move || {
        let mut client = Client::connect(&socket).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client.delete("/drives/disk", None).unwrap()
    });
    vm.wait_for("asked=0x2");
    finish(vm);
    let answer = waiting.join().unwrap();
    let why = answer.body.unwrap()["fault_message"].to_string();
    assert!(why.contains("ended"), "{why}");
}

#[vm_test(kernel = "hotplug_hostile", pci)]
fn a_guest_cannot_let_go_of_what_was_not_asked_for(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    vm.drive("victim", &[2; 1 << 20], &json!({ "io_engine": "Async" }));
    vm.start();
    vm.wait_for("ready");
    vm.delete("/drives/victim");
    vm.expect_pass();
    assert!(vm.output().contains("gone"));
}

#[vm_test(kernel = "hotplug", pci)]
fn five_hundred_rounds_leave_nothing_behind(vm: &mut TestVm) {
    vm.drive("first", &[1; 4096], &json!({}));
    start(vm, "");
    let tap = Tap::new();
    let mut before = None;
    for round in 0..500_u16 {
        let [low, high] = round.to_le_bytes();
        let mac = format!("06:00:00:00:{high:02x}:{low:02x}");
        let interface =
            json!({ "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": mac });
        vm.put("/network-interfaces/eth0", &interface);
        let content = round.to_le_bytes().repeat(512);
        vm.drive("second", &content, &json!({}));
        vm.wait_for(&seen(3, &content));
        vm.wait_for(&format!("interface in slot 2: {mac}"));
        // Some are let go by the guest, some are pulled out.
        let force = if round % 2 == 0 { "" } else { "?force=true" };
        vm.delete(&format!("/drives/second{force}"));
        vm.delete(&format!("/network-interfaces/eth0{force}"));
        // The first rounds open what stays.
        if round == 20 {
            before = Some(descriptors(vm).len());
        }
    }
    assert_eq!(Some(descriptors(vm).len()), before);
    let log = vm.log();
    assert!(!log.contains("KVM keeps"), "{log}");
    for index in 0..30 {
        vm.drive(&format!("disk{index}"), &[index; 512], &json!({}));
    }
    vm.wait_for(&seen(31, &[29; 512]));
    let drive =
        json!({ "drive_id": "last", "path_on_host": vm.path("first"), "is_root_device": false });
    let why = vm.refused("PUT", "/drives/last", Some(&drive));
    assert!(
        why.contains("Could not find an available device slot on the PCI bus"),
        "{why}"
    );
    finish(vm);
}

#[vm_test(kernel = "hotplug", pci)]
fn the_root_drive_stays(vm: &mut TestVm) {
    vm.drive("root", &[1; 4096], &json!({ "is_root_device": true }));
    start(vm, "");
    let why = vm.refused("DELETE", "/drives/root?force=true", None);
    assert!(why.contains("Cannot unplug root device"), "{why}");
    let drive =
        json!({ "drive_id": "other", "path_on_host": vm.path("root"), "is_root_device": true });
    let why = vm.refused("PUT", "/drives/other", Some(&drive));
    assert!(why.contains("A root block device already exists"), "{why}");
    finish(vm);
}

#[vm_test(kernel = "halt", mmio)]
fn without_pci_nothing_comes_or_goes_after_the_start(vm: &mut TestVm) {
    vm.drive("gone", &[1; 4096], &json!({}));
    vm.delete("/drives/gone");
    vm.drive("first", &[1; 4096], &json!({}));
    vm.start();
    let drive =
        json!({ "drive_id": "other", "path_on_host": vm.path("first"), "is_root_device": false });
    for (method, path, body) in [
        ("PUT", "/drives/other", Some(&drive)),
        ("DELETE", "/drives/first", None),
        ("DELETE", "/network-interfaces/eth0", None),
    ] {
        let why = vm.refused(method, path, body);
        assert!(why.contains("PCI is not enabled"), "{method} {path}: {why}");
    }
}

#[vm_test(kernel = "hotplug", pci)]
fn persistent_memory_comes_and_goes(vm: &mut TestVm) {
    start(vm, "");
    let path = vm.path("memory");
    fs::write(&path, vec![1; 2 << 20]).unwrap();
    let pmem = json!({ "id": "memory", "path_on_host": path });
    for round in 1..=20 {
        vm.put("/pmem/memory", &pmem);
        let begin = Instant::now();
        while vm.output().matches("slot 1: ").count() < round {
            assert!(begin.elapsed() < PATIENCE, "{}", vm.output());
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(configured(vm, "pmem").len(), 1);
        let force = if round % 2 == 0 { "" } else { "?force=true" };
        vm.delete(&format!("/pmem/memory{force}"));
        assert!(configured(vm, "pmem").is_empty());
        let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
        assert!(!maps.contains(&path.display().to_string()));
    }
    finish(vm);
}
