//! Who asks what a microVM is doing hears it while it does something that takes long.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use api_client::Client;
use integration::{TestVm, guest_kernel, vm_test};
use serde_json::json;

/// Takes a while to be read, though the file is one hole.
const INITRD_BYTES: u64 = 192 << 20;

#[vm_test(kernel = "hello")]
fn state_is_told_while_a_microvm_starts(vm: &mut TestVm) {
    let initrd = vm.path("initrd");
    File::create(&initrd)
        .unwrap()
        .set_len(INITRD_BYTES)
        .unwrap();
    vm.put(
        "/machine-config",
        &json!({ "vcpu_count": 1, "mem_size_mib": 256 }),
    );
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": guest_kernel("hello"), "initrd_path": initrd }),
    );
    let mut other = Client::connect(vm.path("api.sock")).unwrap();
    other.set_timeout(Some(Duration::from_secs(60))).unwrap();
    let (start, took, answers) = thread::scope(|scope| {
        let asking = scope.spawn(move || {
            let mut answers = Vec::new();
            loop {
                let state = other.get("/", None).unwrap().body.unwrap()["state"].clone();
                answers.push(Instant::now());
                if state != "Not started" {
                    return answers;
                }
            }
        });
        let start = Instant::now();
        vm.put("/actions", &json!({ "action_type": "InstanceStart" }));
        (start, start.elapsed(), asking.join().unwrap())
    });
    let end = start + took;
    let during = answers.iter().filter(|at| **at > start && **at < end);
    let count = during.count();
    assert!(count >= 10, "{count} answers while the start took {took:?}");
    vm.expect_pass();
}
