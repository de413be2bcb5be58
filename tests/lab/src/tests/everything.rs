//! Every device at once: its stock driver takes it, it works, and the kernel has nothing to complain of.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{fio, net};
use crate::Bench;
use crate::host;
use crate::process::wait_until;
use crate::vm::{SHORT, Vm};

const MEMORY_MIB: u32 = 512;
/// Memory that the guest uses for a moment, in MiB.
const USED: u64 = 96;
/// Files of the host, behind the virtio console and the persistent memory.
const TERMINAL: &str = "hvc0";
const PERSISTENT: &str = "pmem.ext4";
/// Of the kernel's log, a line of a module that is loaded after the console's.
const KERNEL_LINE: &str = "ACPI: button: Power Button";

/// Memory-mapped devices.
pub fn all_devices_on_mmio(bench: &Bench) -> Result<()> {
    all_devices(Vm::start(bench)?)
}

/// The same on the PCI bus.
pub fn all_devices_on_pci(bench: &Bench) -> Result<()> {
    all_devices(Vm::start_with(bench, &["--enable-pci"])?)
}

fn all_devices(mut vm: Vm) -> Result<()> {
    attach(&mut vm)?;
    vm.boot()?;
    vm.mount_tools()?;

    have_their_drivers(&mut vm)?;
    entropy_flows(&mut vm)?;
    console_prints(&mut vm)?;
    acpi_devices_are_there(&mut vm)?;
    let written = persistent_memory_keeps_a_file(&mut vm)?;
    reported_pages_leave(&mut vm)?;
    net::give_address(&mut vm)?;
    vm.run(&format!("ping -c 2 -W 5 {}", net::HOST))?;
    fio::verifies(&mut vm, "Sync")?;
    fio::verifies(&mut vm, "Async")?;
    vm.reboot()?;

    let on_host = host::with_mounted(&vm.scratch(PERSISTENT), |root| {
        host::sha256(&root.join("file"))
    })?;
    ensure!(
        written.starts_with(&on_host),
        "the guest wrote {written} to its persistent memory and the host finds {on_host}"
    );
    Ok(())
}

fn attach(vm: &mut Vm) -> Result<()> {
    vm.machine(1, MEMORY_MIB)?;
    // The last console on the command line stays that of the shell.
    vm.kernel_with("vmlinux", "console=hvc0")?;
    fio::attach(vm, "Sync", 1)?;
    fio::attach(vm, "Async", 1)?;
    net::connect(vm)?;
    let balloon = json!({
        "amount_mib": 0,
        "deflate_on_oom": true,
        "stats_polling_interval_s": 1,
        "free_page_hinting": true,
        "free_page_reporting": true,
    });
    vm.put("/balloon", &balloon)?;
    vm.put("/console", &json!({"output_path": vm.scratch(TERMINAL)}))?;
    vm.put("/entropy", &json!({}))?;
    vm.put("/hotplug/memory", &json!({"total_size_mib": 128}))?;
    let memory = vm.copy_image("root.ext4", PERSISTENT)?;
    let pmem = json!({"id": "memory", "path_on_host": memory});
    vm.put("/pmem/memory", &pmem)?;
    let socket = vm.scratch("v.sock");
    vm.put("/vsock", &json!({"guest_cid": 3, "uds_path": socket}))?;
    vm.tools()
}

/// Each device on the virtio bus is taken by the driver of its type.
fn have_their_drivers(vm: &mut Vm) -> Result<()> {
    let found = vm.run(
        "for device in /sys/bus/virtio/devices/*; do \
         echo $(cat $device/device) $(basename $(readlink $device/driver)); done | sort",
    )?;
    let expected = "0x0001 virtio_net\n0x0002 virtio_blk\n0x0002 virtio_blk\n0x0002 virtio_blk\n0x0003 virtio_console\n\
                    0x0004 virtio_rng\n0x0005 virtio_balloon\n0x0013 vmw_vsock_virtio_transport\n0x0018 virtio_mem\n0x001b virtio_pmem";
    ensure!(found == expected, "the guest's drivers are:\n{found}");
    Ok(())
}

/// The kernel's source of randomness is ours, and gives bytes that do not repeat.
fn entropy_flows(vm: &mut Vm) -> Result<()> {
    let source = vm.run("cat /sys/class/misc/hw_random/rng_current")?;
    ensure!(source == "virtio_rng.0", "random bytes come from {source}");
    let read = "dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2> /dev/null";
    let length = vm.run(&format!("{read} | wc -c"))?;
    ensure!(length == "65536", "{length} random bytes instead of 65536");
    let two = vm.run(&format!("{read} | sha256sum; {read} | sha256sum"))?;
    let differ = two
        .split_once('\n')
        .is_some_and(|(first, second)| first != second);
    ensure!(differ, "random bytes repeat: {two}");
    Ok(())
}

/// The kernel's log goes to the virtio console as soon as it has a driver, and programs can write there.
fn console_prints(vm: &mut Vm) -> Result<()> {
    let terminal = vm.scratch(TERMINAL);
    vm.run("echo hello from the guest > /dev/hvc0")?;
    let mut text = String::new();
    let is_there = wait_until(SHORT, || {
        text = String::from_utf8_lossy(&fs::read(&terminal)?).into_owned();
        Ok(text.contains("hello from the guest") && text.contains(KERNEL_LINE))
    })?;
    ensure!(is_there, "the virtio console's file holds:\n{text}");
    Ok(())
}

/// What ACPI describes: the generation id, the page of the clock, the notice of panics, the device of their events. The
/// kernel has taken those for which it has a driver; Debian's cloud kernel has none for the id (`CONFIG_VMGENID`), and 6.1
/// none for the clock.
fn acpi_devices_are_there(vm: &mut Vm) -> Result<()> {
    for id in ["VMGENCTR", "AMZNC10C", "QEMU0001", "ACPI0013"] {
        vm.run(&format!("cat /sys/bus/acpi/devices/{id}:00/hid"))
            .with_context(|| format!("ACPI describes no {id}"))?;
    }
    vm.run("ls -d /sys/bus/platform/drivers/pvpanic-mmio/QEMU0001:00")?;
    vm.run("grep 'ACPI:Ged' /proc/interrupts")?;
    Ok(())
}

/// A file system on the persistent memory, without a page cache of the guest between, keeps a file; returns its checksum.
fn persistent_memory_keeps_a_file(vm: &mut Vm) -> Result<String> {
    let mount = "mount -t ext4 -o dax=always /dev/pmem0 /mnt";
    vm.run(&format!("{mount} && grep 'pmem0.*dax=always' /proc/mounts"))?;
    vm.run_long("dd if=/dev/urandom of=/mnt/file bs=1M count=8 conv=fsync")?;
    let written = vm.run("sha256sum < /mnt/file")?;
    vm.run(&format!("umount /mnt && {mount}"))?;
    let read_again = vm.run("sha256sum < /mnt/file")?;
    ensure!(
        read_again == written,
        "wrote {written} and read {read_again} after a remount"
    );
    vm.run("umount /mnt")?;
    Ok(written)
}

/// Memory that the guest used and does not use any more goes back to the host by itself.
fn reported_pages_leave(vm: &mut Vm) -> Result<()> {
    vm.run_long(&format!("dd if=/dev/zero of=/tmp/used bs=1M count={USED}"))?;
    let before = vm.process().resident_mib()?;
    println!("the monitor occupies {before} MiB");
    ensure!(
        before >= USED,
        "the guest uses {USED} MiB and the monitor occupies {before} MiB"
    );
    vm.run("rm /tmp/used")?;
    // The kernel reports two seconds after pages became free.
    vm.process()
        .shrinks_to(before - USED * 3 / 4, Duration::from_secs(60))
}
