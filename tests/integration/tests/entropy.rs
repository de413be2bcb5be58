//! A guest draws random bytes of the host.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use integration::{TestVm, vm_test};
use serde_json::json;

#[vm_test(kernel = "rng", mmio, pci)]
fn every_request_is_filled(vm: &mut TestVm) {
    vm.put("/entropy", &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(
        vm.value("random_bytes"),
        (1 + 64 + 4096 + 2 * 65536).to_string()
    );
}

#[vm_test(kernel = "rng", mmio, pci)]
fn two_guests_draw_different_bytes(vm: &mut TestVm) {
    let mut other = TestVm::new("other");
    other.boot(
        "kernel_image_path",
        integration::guest_kernel("rng").to_str(),
    );
    for vm in [&mut *vm, &mut other] {
        vm.put("/entropy", &json!({}));
        vm.start();
        vm.expect_pass();
    }
    assert_ne!(vm.value("random_fnv1a64"), other.value("random_fnv1a64"));
}

#[vm_test(kernel = "rng", mmio, pci)]
fn a_limit_sets_the_pace(vm: &mut TestVm) {
    // The five requests draw 135,233 bytes, the last of them 64 KiB: it waits until all before it are repaid.
    let bytes = json!({ "size": 65_536, "refill_time": 400 });
    vm.put(
        "/entropy",
        &json!({ "rate_limiter": { "bandwidth": bytes } }),
    );
    let begin = Instant::now();
    vm.start();
    vm.expect_pass();
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
}

#[vm_test(kernel = "rng", mmio, pci)]
fn the_device_is_told_and_can_be_put_again(vm: &mut TestVm) {
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config["entropy"].clone()
    };
    assert_eq!(told(vm), json!(null));
    vm.put("/entropy", &json!({}));
    assert_eq!(told(vm), json!({ "rate_limiter": null }));
    let zeros = json!({ "size": 0, "refill_time": 100 });
    let ops = json!({ "size": 7, "refill_time": 100 });
    let limiter = json!({ "bandwidth": zeros, "ops": ops });
    vm.put("/entropy", &json!({ "rate_limiter": limiter }));
    let ops = json!({ "size": 7, "one_time_burst": null, "refill_time": 100 });
    let limiter = json!({ "bandwidth": null, "ops": ops });
    assert_eq!(told(vm), json!({ "rate_limiter": limiter }));
    vm.start();
    vm.expect_pass();
}
