//! A guest's panic is heard.

use integration::{TestVm, vm_test};
use serde_json::json;

#[vm_test(kernel = "panic_notice", mmio, pci)]
fn a_panic_is_logged_once_and_told(vm: &mut TestVm) {
    let told = |vm: &mut TestVm| {
        let instance = vm.request("GET", "/", None).body;
        instance.map_or(json!(null), |instance| instance["guest_panicked"].clone())
    };
    assert_eq!(told(vm), json!(null));
    vm.boot("boot_args", "times=100");
    vm.start();
    vm.wait_for("ready");
    assert_eq!(told(vm), json!(null));
    vm.type_text("x");
    vm.wait_for("told");
    assert_eq!(told(vm), json!(true));
    vm.type_text("x");
    vm.expect_pass();
    assert_eq!(vm.log().matches("kernel panicked").count(), 1);
}
