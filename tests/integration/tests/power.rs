//! A guest switches itself off, and is asked to.

use integration::{TestVm, vm_test};
use serde_json::json;

#[vm_test(kernel = "power_off", mmio, pci)]
fn the_sleep_register_ends_the_machine_with_0(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    assert!(
        vm.log().contains("switched the machine off"),
        "{}",
        vm.log()
    );
}

#[vm_test(kernel = "power_reset", mmio, pci)]
fn the_reset_register_ends_the_machine_with_0(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    assert!(vm.log().contains("reset the machine"), "{}", vm.log());
}

#[vm_test(kernel = "power_button", mmio, pci)]
fn the_power_button_reaches_the_guest(vm: &mut TestVm) {
    let press = json!({ "action_type": "SendPowerButton" });
    let why = vm.refused("PUT", "/actions", Some(&press));
    assert!(why.contains("before starting"), "{why}");
    vm.start();
    vm.wait_for("ready");
    vm.put("/actions", &press);
    vm.expect_pass();
    assert_eq!(vm.value("events"), "0x4");
}

#[vm_test(kernel = "power_button")]
fn a_button_pressed_while_paused_is_felt_after(vm: &mut TestVm) {
    vm.start();
    vm.wait_for("ready");
    vm.pause();
    vm.put("/actions", &json!({ "action_type": "SendPowerButton" }));
    vm.resume();
    vm.expect_pass();
}
