//! Many microVMs at once: each has its own bytes, and nothing of them is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::path::PathBuf;

use integration::{Tap, TestVm, guest_kernel};
use serde_json::json;

const MACHINES: usize = 100;

#[test]
fn a_hundred_machines_at_once_leave_nothing_behind() {
    let mut machines: Vec<(TestVm, Tap)> = (0..MACHINES)
        .map(|_| (TestVm::new("pack"), Tap::new()))
        .collect();
    let disks: Vec<PathBuf> = machines
        .iter_mut()
        .enumerate()
        .map(|(index, (vm, tap))| describe(vm, tap, index))
        .collect();
    let directories: Vec<PathBuf> = machines.iter().map(|(vm, _)| vm.path("")).collect();
    let pids: Vec<u32> = machines.iter().map(|(vm, _)| vm.pid()).collect();
    for (vm, _) in &mut machines {
        vm.start();
    }
    for (index, (vm, _)) in machines.iter_mut().enumerate() {
        vm.wait_for(&format!("tag={}", tag(index)));
        let state = vm.request("GET", "/", None).body.unwrap()["state"].clone();
        assert_eq!(state, "Running");
    }
    for (index, disk) in disks.iter().enumerate() {
        let bytes = fs::read(disk).unwrap();
        let tag = tag(index);
        assert!(
            bytes.starts_with(tag.as_bytes()),
            "disk {index} holds another tag"
        );
    }
    let taps: Vec<Tap> = machines
        .into_iter()
        .map(|(mut vm, tap)| {
            vm.type_text("q");
            vm.expect_pass();
            assert!(!vm.path("api.sock").exists(), "the socket is left behind");
            tap
        })
        .collect();
    assert!(taps.iter().all(|tap| !tap.exists()), "a tap is left behind");
    assert!(
        directories.iter().all(|path| !path.exists()),
        "a file is left behind"
    );
    for pid in pids {
        let is_gone = fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or(true, |name| !name.starts_with("cloister"));
        assert!(is_gone, "process {pid} is left behind");
    }
}

fn tag(index: usize) -> String {
    format!("machine-{index:03}-of-{MACHINES}")
}

fn describe(vm: &mut TestVm, tap: &Tap, index: usize) -> PathBuf {
    vm.boot("kernel_image_path", guest_kernel("pack").to_str().unwrap());
    vm.boot("boot_args", format!("tag={}", tag(index)));
    vm.put(
        "/network-interfaces/eth0",
        &json!({ "iface_id": "eth0", "host_dev_name": tap.name() }),
    );
    vm.drive("disk", &[0; 4096], &json!({}))
}
