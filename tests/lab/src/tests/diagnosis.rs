//! Stock Linux fails to boot, and the monitor says why.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::vm::Vm;

const MEMORY_MIB: u32 = 256;

/// Neither a root disk nor an initramfs.
pub fn lost_root_is_explained(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.bare_kernel("")?;
    vm.ends_explained("no_root_device", "no drive is configured")
}

/// A root disk, and a kernel whose virtio drivers are in an initramfs that is not there.
pub fn missing_driver_is_explained(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.bare_kernel("")?;
    let disk = vm.copy_image("root.ext4", "root.ext4")?;
    let drive = json!({"drive_id": "root", "path_on_host": disk, "is_root_device": true});
    vm.put("/drives/root", &drive)?;
    vm.ends_explained("no_virtio_driver", "no driver has looked at it")
}

/// A first program that is not there.
pub fn wrong_init_is_explained(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.kernel_with("vmlinux", "rdinit=/bin init=/nope")?;
    vm.ends_explained("wrong_init", "init=")
}

/// Room for the kernel, and not for what is in the initramfs.
pub fn tiny_memory_is_explained(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, 72)?;
    vm.kernel("vmlinux")?;
    vm.ends_explained("out_of_memory", "raise mem_size_mib")
}

/// A guest that is well has nothing to explain.
pub fn sound_guest_has_no_cause(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.kernel("vmlinux")?;
    let disk = vm.copy_image("root.ext4", "root.ext4")?;
    let drive = json!({"drive_id": "root", "path_on_host": disk, "is_root_device": true});
    vm.put("/drives/root", &drive)?;
    vm.boot()?;
    let found = vm.get("/vm/diagnosis")?;
    ensure!(
        found["causes"] == json!([]),
        "causes without a failure: {found}"
    );
    ensure!(found["devices"][0]["driver_ok"] == true, "{found}");
    ensure!(found["vcpus"][0]["place"]["mode"] == "long", "{found}");
    ensure!(found["vcpus"][0]["place"]["is_memory"] == true, "{found}");
    vm.reboot()
}
