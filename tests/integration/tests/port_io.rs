//! String instructions on ports: one exit, many accesses.

use integration::{TestVm, vm_test};

const LINE: &str = "the quick brown fox jumps over the lazy dog, 0123456789 times.\n";

/// What was printed between the lines `begin` and `end`.
fn printed(vm: &TestVm) -> String {
    let output = vm.output();
    let (_, rest) = output.split_once("begin\n").expect("it began");
    let (printed, _) = rest.split_once("end\n").expect("it ended");
    printed.to_owned()
}

#[vm_test(kernel = "serial_string")]
fn a_string_instruction_prints_every_byte(vm: &mut TestVm) {
    vm.boot("boot_args", "lines=20");
    vm.start();
    vm.expect_pass();
    assert_eq!(printed(vm), LINE.repeat(20));
}

#[vm_test(kernel = "serial_string")]
fn a_pause_inside_a_string_instruction_loses_no_byte(vm: &mut TestVm) {
    vm.boot("boot_args", "lines=400");
    vm.start();
    vm.wait_for("begin");
    for _ in 0..50 {
        vm.pause();
        vm.resume();
    }
    vm.expect_pass();
    assert_eq!(printed(vm), LINE.repeat(400));
}
