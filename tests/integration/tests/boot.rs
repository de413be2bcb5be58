//! Kernels are found, entered and told about the machine; and they end in the ways that are promised.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;

use integration::{TestVm, fnv1a64, vm_test};

#[vm_test(kernel = "hello")]
fn an_elf_kernel_with_a_pvh_note_is_entered_by_pvh(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("protocol"), "pvh");
}

#[vm_test(kernel = "hello64")]
fn an_elf_kernel_without_the_note_is_entered_by_the_64_bit_protocol(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("protocol"), "linux64");
}

#[vm_test(kernel = "cmdline")]
fn absent_boot_arguments_mean_the_default_ones(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    let line = vm.value("cmdline");
    assert!(line.starts_with("reboot=k panic=1 nomodule"), "{line}");
    assert!(line.contains(" pci=off"), "{line}");
}

#[vm_test(kernel = "cmdline")]
fn what_the_monitor_adds_comes_before_the_init_arguments(vm: &mut TestVm) {
    vm.boot("boot_args", "mine=1 -- for init");
    vm.start();
    vm.expect_pass();
    let line = vm.value("cmdline");
    assert!(line.starts_with("mine=1 "), "{line}");
    assert!(line.ends_with(" -- for init"), "{line}");
}

#[vm_test(kernel = "initrd")]
fn the_initrd_arrives_whole(vm: &mut TestVm) {
    let bytes: Vec<u8> = (0..300_001_u32).map(|i| (i * 7 % 251) as u8).collect();
    let path = vm.path("initrd");
    fs::write(&path, &bytes).unwrap();
    vm.boot("initrd_path", path.to_str().unwrap());
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("initrd_size"), "300001");
    assert_eq!(vm.value("initrd_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "reset_keyboard")]
fn a_reset_by_the_keyboard_controller_ends_with_0(vm: &mut TestVm) {
    vm.start();
    assert_eq!(vm.wait_exit(), 0, "{}", vm.log());
    assert!(vm.log().contains("exit_code=0"), "{}", vm.log());
}

#[vm_test(kernel = "triple_fault")]
fn a_triple_fault_ends_with_1_and_is_named(vm: &mut TestVm) {
    vm.start();
    assert_eq!(vm.wait_exit(), 1);
    assert!(vm.log().contains("triple fault"), "{}", vm.log());
}

#[vm_test(kernel = "internal_error")]
fn a_kvm_error_ends_with_1_and_is_named(vm: &mut TestVm) {
    vm.start();
    assert_eq!(vm.wait_exit(), 1);
    assert!(vm.log().contains("KVM internal error"), "{}", vm.log());
}
