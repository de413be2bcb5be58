//! Ways to boot a stock kernel, and what it finds.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::vm::Vm;

const MEMORY_MIB: u32 = 256;

/// The unpacked kernel, entered by its PVH note.
pub fn boots_from_elf(bench: &Bench) -> Result<()> {
    boots_from(bench, "vmlinux")
}

/// The compressed kernel as Debian ships it.
pub fn boots_from_bzimage(bench: &Bench) -> Result<()> {
    boots_from(bench, "bzImage")
}

/// An initramfs loads the drivers and hands over to the root disk.
pub fn boots_from_root_disk(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.kernel("vmlinux")?;
    let disk = vm.copy_image("root.ext4", "root.ext4")?;
    let drive = json!({"drive_id": "root", "path_on_host": disk, "is_root_device": true});
    vm.put("/drives/root", &drive)?;
    vm.boot()?;
    let mounts = vm.run("grep '^/dev/vda / ' /proc/mounts")?;
    ensure!(
        mounts.starts_with("/dev/vda / ext4 rw"),
        "the root disk is mounted as {mounts}"
    );
    vm.reboot()
}

/// One processor.
pub fn sees_one_cpu(bench: &Bench) -> Result<()> {
    sees_cpus(bench, 1)
}

/// Two processors.
pub fn sees_two_cpus(bench: &Bench) -> Result<()> {
    sees_cpus(bench, 2)
}

/// Four processors.
pub fn sees_four_cpus(bench: &Bench) -> Result<()> {
    sees_cpus(bench, 4)
}

fn boots_from(bench: &Bench, image: &str) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, MEMORY_MIB)?;
    vm.kernel(image)?;
    vm.boot()?;
    let name = vm.run("uname -s -n")?;
    ensure!(name == "Linux guest", "the guest calls itself {name}");
    let state = vm.get("/")?;
    ensure!(state["state"] == "Running", "the monitor says {state}");
    vm.reboot()
}

fn sees_cpus(bench: &Bench, count: u8) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(count, MEMORY_MIB)?;
    vm.kernel("vmlinux")?;
    vm.boot()?;
    let seen = vm.run("nproc")?;
    ensure!(
        seen == count.to_string(),
        "the guest sees {seen} processors, not {count}"
    );
    vm.reboot()
}
