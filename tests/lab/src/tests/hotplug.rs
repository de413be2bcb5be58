//! Devices that come and go on the PCI bus while stock Linux runs.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use serde_json::json;

use super::net;
use crate::Bench;
use crate::host;
use crate::vm::Vm;

const DISK_LEN: u64 = 16 << 20;
/// Loops to wait for something in the guest, a tenth of a second each.
const PATIENCE: u32 = 200;

/// Writes a disk again and again until it is told to stop, or until that fails.
const WRITE_ON: &str = "(until [ -e /tmp/stop ]; do \
    dd if=/dev/urandom of=/dev/vda bs=64k count=64 conv=fsync 2>/tmp/dd || touch /tmp/broken /tmp/stop; \
    echo >> /tmp/rounds; done)";

/// A disk and a network interface appear without a rescan, work, and go, while another disk is written; then they come
/// again into the same slots.
pub fn devices_come_and_go_by_themselves(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start_with(bench, &["--enable-pci"])?;
    vm.machine(1, 512)?;
    vm.kernel("vmlinux")?;
    attach_disk(&mut vm, "disk")?;
    vm.boot()?;
    vm.run(&format!("{WRITE_ON} &"))?;
    for _ in 0..2 {
        let image = attach_disk(&mut vm, "more")?;
        wait_for(&mut vm, "[ -b /dev/vdb ]")?;
        vm.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=fsync")?;
        let in_guest = vm.run("sha256sum < /dev/vdb")?;
        let on_host = host::sha256(&image)?;
        ensure!(
            in_guest.starts_with(&on_host),
            "the guest reads {in_guest}, the image holds {on_host}"
        );
        net::connect(&mut vm)?;
        wait_for(&mut vm, "[ -d /sys/class/net/eth0 ]")?;
        net::give_address(&mut vm)?;
        vm.run(&format!("ping -c 3 -W 5 {}", net::HOST))?;
        println!(
            "{}",
            vm.run("cat /proc/iomem | grep virtio; grep -H . /sys/bus/pci/slots/*/address | head")?
        );

        vm.delete("/network-interfaces/eth0")?;
        vm.run("[ ! -d /sys/class/net/eth0 ]")?;
        vm.delete("/drives/more")?;
        vm.run("[ ! -b /dev/vdb ]")?;
        fs::remove_file(&image)?;
    }
    vm.run("touch /tmp/stop; wait")?;
    let rounds = vm.run("wc -l < /tmp/rounds")?;
    println!("the other disk was written {rounds} times");
    ensure!(rounds != "0", "the other disk stood still");
    vm.run("[ ! -e /tmp/broken ]")?;
    // Pulled out, and the guest sees it.
    attach_disk(&mut vm, "more")?;
    wait_for(&mut vm, "[ -b /dev/vdb ]")?;
    vm.delete("/drives/more?force=true")?;
    wait_for(&mut vm, "[ ! -b /dev/vdb ]")?;
    vm.reboot()
}

fn attach_disk(vm: &mut Vm, id: &str) -> Result<std::path::PathBuf> {
    let image = vm.scratch(id);
    File::create(&image)?.set_len(DISK_LEN)?;
    let drive = json!({"drive_id": id, "path_on_host": image, "is_root_device": false});
    vm.put(&format!("/drives/{id}"), &drive)?;
    Ok(image)
}

/// Waits until `test` succeeds in the guest.
fn wait_for(vm: &mut Vm, test: &str) -> Result<()> {
    let wait = format!(
        "left={PATIENCE}; until {test}; do left=$((left - 1)); [ $left -gt 0 ] || break; usleep 100000; done; {test}"
    );
    vm.run(&wait)?;
    Ok(())
}
