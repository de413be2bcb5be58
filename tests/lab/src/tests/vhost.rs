//! An interface whose frames the host's kernel moves (`/dev/vhost-net`).

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::iperf::{self, FromHost, ToHost};
use super::net;
use crate::Bench;
use crate::process::wait_until;
use crate::vm::{SHORT, Vm};

const NODE: &str = "/dev/vhost-net";
/// Pauses while data moves.
const PAUSES: usize = 5;

/// On a memory-mapped transport, whose interrupts have to say why they came.
pub fn host_kernel_moves_frames_on_mmio(bench: &Bench) -> Result<()> {
    moves_frames(Vm::start(bench)?)
}

/// On PCI, with a message for each queue.
pub fn host_kernel_moves_frames_on_pci(bench: &Bench) -> Result<()> {
    moves_frames(Vm::start_with(bench, &["--enable-pci"])?)
}

/// 100 MB each way arrive whole, also when the microVM is paused meanwhile and after its driver went and came back.
fn moves_frames(mut vm: Vm) -> Result<()> {
    vm.machine(1, 512)?;
    vm.kernel("vmlinux")?;
    net::connect_with(&mut vm, &json!({ "backend": "Vhost" }))?;
    vm.tools()?;
    is_served_by_the_kernel(&vm)?;
    vm.boot()?;
    vm.mount_tools()?;
    net::give_address(&mut vm)?;
    vm.run(&format!("ping -c 3 -W 5 {}", net::HOST))?;
    net::moves_files(&mut vm, pauses)?;
    driver_comes_back(&mut vm)?;
    let server = iperf::Server::start()?;
    for direction in [ToHost, FromHost] {
        iperf::moves(&mut vm, 1, direction)?;
    }
    drop(server);
    let monitor = vm.process().0;
    vm.reboot()?;
    let is_gone = wait_until(SHORT, || Ok(worker_of(monitor)?.is_none()))?;
    ensure!(is_gone, "the kernel still works for a monitor that ended");
    Ok(())
}

/// The monitor has the kernel's node open, and the kernel a thread for it.
fn is_served_by_the_kernel(vm: &Vm) -> Result<()> {
    let monitor = vm.process().0;
    let open = fs::read_dir(format!("/proc/{monitor}/fd"))?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|path| path.as_os_str() == NODE);
    ensure!(open, "the monitor does not use {NODE}");
    let worker = worker_of(monitor)?;
    worker.context("the kernel has no thread for the monitor")?;
    Ok(())
}

/// The kernel's thread that works for a process: `vhost-PID` (Linux `drivers/vhost/vhost.c`).
fn worker_of(process: u32) -> Result<Option<String>> {
    let name = format!("vhost-{process}\n");
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name) {
            return Ok(Some(path.display().to_string()));
        }
    }
    Ok(None)
}

fn pauses(vm: &mut Vm) -> Result<()> {
    for _ in 0..PAUSES {
        thread::sleep(Duration::from_millis(300));
        let before = received(vm)?;
        ensure!(
            before < net::TRANSFER,
            "the file is through before the pauses"
        );
        vm.patch("/vm", &json!({ "state": "Paused" }))?;
        thread::sleep(Duration::from_millis(300));
        vm.patch("/vm", &json!({ "state": "Resumed" }))?;
        println!("the guest was paused after {before} bytes");
    }
    Ok(())
}

fn received(vm: &mut Vm) -> Result<usize> {
    let count = vm.run("cat /sys/class/net/eth0/statistics/rx_bytes")?;
    Ok(count.parse()?)
}

/// The driver resets the device and starts it anew.
fn driver_comes_back(vm: &mut Vm) -> Result<()> {
    for _ in 0..3 {
        vm.run(
            "device=$(basename $(readlink -f /sys/class/net/eth0/device)) && \
             cd /sys/bus/virtio/drivers/virtio_net && echo $device > unbind && \
             echo $device > bind; cd /",
        )?;
        net::give_address(vm)?;
        vm.run(&format!("ping -c 2 -W 5 {}", net::HOST))?;
    }
    Ok(())
}
