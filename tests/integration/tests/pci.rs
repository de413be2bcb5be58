//! The PCI bus: what is on it, and what a guest cannot do to it. Devices on it are tested where they are
//! tested on MMIO.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use integration::{TestVm, guest_kernel, vm_test};
use serde_json::json;

#[vm_test(kernel = "pci_hostile", pci)]
fn garbage_on_the_bus_harms_nobody(vm: &mut TestVm) {
    vm.drive("one", &[1; 4096], &json!({}));
    vm.drive("two", &[2; 4096], &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("functions"), "3");
}

#[vm_test(kernel = "cmdline", pci)]
fn the_kernel_is_told_of_no_window(vm: &mut TestVm) {
    vm.drive("disk", &[0; 512], &json!({}));
    vm.boot("boot_args", "quiet");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("cmdline"), "quiet");
}

#[vm_test(kernel = "blk_readback", pci)]
fn the_last_slot_works(vm: &mut TestVm) {
    for index in 0..31 {
        vm.drive(&format!("disk{index}"), &[index; 512], &json!({}));
    }
    vm.boot("boot_args", "disk=30");
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("disk_fnv1a64"), integration::fnv1a64(&[30; 512]));
}

#[vm_test(kernel = "hello", pci)]
fn more_devices_than_slots(vm: &mut TestVm) {
    for index in 0..32 {
        vm.drive(&format!("disk{index}"), &[0; 512], &json!({}));
    }
    let boot_source = json!({ "kernel_image_path": guest_kernel("hello") });
    vm.put("/boot-source", &boot_source);
    let start = json!({ "action_type": "InstanceStart" });
    let why = vm.refused("PUT", "/actions", Some(&start));
    assert!(
        why.contains("Could not find an available device slot on the PCI bus"),
        "{why}"
    );
}
