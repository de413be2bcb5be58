//! The guest finds the VM clock's page.

use integration::{TestVm, vm_test};

#[vm_test(kernel = "vm_clock", mmio, pci)]
fn the_page_says_that_it_knows_no_time(vm: &mut TestVm) {
    vm.start();
    vm.expect_pass();
    for (key, value) in [
        ("magic", "0x4b4c4356"),
        ("size", "0x1000"),
        ("version", "1"),
        ("counter", "0xff"),
        ("sequence", "0"),
        ("flags", "0x300"),
        ("status", "0"),
    ] {
        assert_eq!(vm.value(key), value, "{key}");
    }
}
