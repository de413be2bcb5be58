//! Each microVM has a generation id of its own.

use integration::{TestVm, guest_kernel, vm_test};

#[vm_test(kernel = "generation", mmio, pci)]
fn each_start_has_an_id_of_its_own(vm: &mut TestVm) {
    let mut other = TestVm::new("other");
    let kernel = guest_kernel("generation");
    other.put(
        "/boot-source",
        &serde_json::json!({ "kernel_image_path": kernel }),
    );
    other.put(
        "/actions",
        &serde_json::json!({ "action_type": "InstanceStart" }),
    );
    vm.start();
    vm.expect_pass();
    other.expect_pass();
    let ids = [vm.value("generation"), other.value("generation")];
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0], "0".repeat(32));
}
