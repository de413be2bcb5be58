//! Devices on the PCI bus, by the stock drivers.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use serde_json::json;

use super::net;
use crate::Bench;
use crate::host;
use crate::vm::Vm;

const DISK_LEN: u64 = 16 << 20;

/// Linux finds both devices on the bus, keeps their addresses, and gets each queue's interrupts by a message
/// of its own.
pub fn sees_disk_and_network_on_pci(bench: &Bench) -> Result<()> {
    let mut vm = boot_on_pci(bench, 1)?;
    for (device, id, class) in [
        ("00", "0x8086:0x0d57", "0x060000"),
        ("01", "0x1af4:0x1042", "0x018000"),
        ("02", "0x1af4:0x1041", "0x020000"),
    ] {
        let at = format!("/sys/bus/pci/devices/0000:00:{device}.0");
        let found = vm.run(&format!(
            "echo $(cat {at}/vendor):$(cat {at}/device) $(cat {at}/class)"
        ))?;
        ensure!(
            found == format!("{id} {class}"),
            "device {device} is {found}"
        );
    }
    for (link, device) in [("block/vda", "01"), ("class/net/eth0", "02")] {
        let path = vm.run(&format!("readlink /sys/{link}"))?;
        ensure!(
            path.contains(&format!("pci0000:00/0000:00:{device}.0/virtio")),
            "{link} is {path}"
        );
    }
    for (device, window) in [("01", "0x0000004000080000"), ("02", "0x0000004000100000")] {
        let resource = format!("/sys/bus/pci/devices/0000:00:{device}.0/resource");
        let first = vm.run(&format!("head -n 1 {resource}"))?;
        ensure!(first.starts_with(window), "device {device} is at {first}");
    }
    moves_data(&mut vm)?;

    let interrupts = vm.run("grep virtio /proc/interrupts")?;
    println!("{interrupts}");
    for name in [
        "virtio0-config",
        "virtio0-req.0",
        "virtio1-config",
        "virtio1-input.0",
        "virtio1-output.0",
    ] {
        let line = interrupts.lines().find(|line| line.ends_with(name));
        ensure!(
            line.is_some_and(|line| line.contains("PCI-MSI")),
            "{name} has no message of its own:\n{interrupts}"
        );
    }
    vm.reboot()
}

/// Interrupts follow when Linux sends them to the other processor, which masks, changes and unmasks messages.
pub fn two_cpus_share_pci_interrupts(bench: &Bench) -> Result<()> {
    let mut vm = boot_on_pci(bench, 2)?;
    let number = vm.run("sed -n 's/^ *\\([0-9]*\\):.*virtio1-input.0$/\\1/p' /proc/interrupts")?;
    for mask in ["1", "2", "1", "2"] {
        vm.run(&format!("echo {mask} > /proc/irq/{number}/smp_affinity"))?;
        vm.run(&format!("ping -c 2 -W 5 {}", net::HOST))?;
    }
    let counts = vm.run(&format!("grep '^ *{number}:' /proc/interrupts"))?;
    println!("{counts}");
    let is_shared = counts
        .split_whitespace()
        .skip(1)
        .take(2)
        .all(|count| count.parse::<u64>().is_ok_and(|count| count > 0));
    ensure!(is_shared, "one processor got them all: {counts}");
    vm.reboot()
}

fn boot_on_pci(bench: &Bench, vcpus: u8) -> Result<Vm> {
    let mut vm = Vm::start_with(bench, &["--enable-pci"])?;
    vm.machine(vcpus, 512)?;
    vm.kernel("vmlinux")?;
    let image = vm.scratch("disk.img");
    File::create(&image)?.set_len(DISK_LEN)?;
    let drive = json!({"drive_id": "disk", "path_on_host": image, "is_root_device": false});
    vm.put("/drives/disk", &drive)?;
    net::connect(&mut vm)?;
    vm.boot()?;
    net::give_address(&mut vm)?;
    Ok(vm)
}

/// What the guest writes to the disk is in the image, and the host answers pings.
fn moves_data(vm: &mut Vm) -> Result<()> {
    vm.run("dd if=/dev/urandom of=/dev/vda bs=1M count=16 conv=fsync")?;
    vm.run("echo 3 > /proc/sys/vm/drop_caches")?;
    let in_guest = vm.run("sha256sum < /dev/vda")?;
    let image = vm.scratch("disk.img");
    ensure!(fs::metadata(&image)?.len() == DISK_LEN, "the image grew");
    let on_host = host::sha256(&image)?;
    ensure!(
        in_guest.starts_with(&on_host),
        "the guest reads {in_guest}, the image holds {on_host}"
    );
    vm.run(&format!("ping -c 3 -W 5 {}", net::HOST))?;
    Ok(())
}
