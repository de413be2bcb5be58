//! A guest draws random bytes of the host.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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
fn the_device_is_told_and_can_be_put_again(vm: &mut TestVm) {
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config["entropy"].clone()
    };
    assert_eq!(told(vm), json!(null));
    vm.put("/entropy", &json!({}));
    assert_eq!(told(vm), json!({ "rate_limiter": null }));
    let limited = json!({ "rate_limiter": { "ops": { "size": 1, "refill_time": 100 } } });
    let why = vm.refused("PUT", "/entropy", Some(&limited));
    assert!(
        why.starts_with("Entropy config error: `rate_limiter`"),
        "{why}"
    );
    assert_eq!(told(vm), json!({ "rate_limiter": null }));
    vm.start();
    vm.expect_pass();
}
