//! Memory that is plugged and unplugged while the guest runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::process::wait_until;
use crate::vm::Vm;

const MEMORY_MIB: u64 = 256;
const PLUGGED_MIB: u64 = 256;
/// More than a guest without the plugged memory could use, in MiB.
const USED: u64 = 232;
const PATIENCE: Duration = Duration::from_secs(90);

/// The stock driver plugs memory that programs can use, and unplugs all of it when it is free again; the host then has it
/// back.
pub fn memory_grows_and_shrinks(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, u32::try_from(MEMORY_MIB)?)?;
    vm.kernel_with("vmlinux", "memhp_default_state=online_movable")?;
    vm.put("/hotplug/memory", &json!({"total_size_mib": PLUGGED_MIB}))?;
    vm.boot()?;
    let small = total_mib(&mut vm)?;
    ensure!(
        small < USED,
        "the guest has {small} MiB before any is plugged"
    );

    request(&mut vm, PLUGGED_MIB)?;
    // The driver plugs a block before the kernel hands it out.
    let mut large = 0;
    let has_grown = wait_until(PATIENCE, || {
        large = total_mib(&mut vm)?;
        Ok(large >= small + PLUGGED_MIB)
    })?;
    ensure!(
        has_grown,
        "{PLUGGED_MIB} MiB were plugged, {small} MiB became {large}"
    );
    vm.run_long(&format!(
        "mount -o remount,size={USED}M /tmp && dd if=/dev/zero of=/tmp/used bs=1M count={USED}"
    ))?;
    let full = vm.process().resident_mib()?;
    vm.run("rm /tmp/used && echo 3 > /proc/sys/vm/drop_caches")?;

    request(&mut vm, 0)?;
    let mut small_again = 0;
    let has_shrunk = wait_until(PATIENCE, || {
        small_again = total_mib(&mut vm)?;
        Ok(small_again == small)
    })?;
    ensure!(
        has_shrunk,
        "{small} MiB became {large} and then {small_again}"
    );
    // What lay in RAM stays; of the rest most was in use.
    vm.process().shrinks_to(full - USED / 3, PATIENCE)?;
    vm.reboot()
}

/// Asks the guest for a size and waits until it is there.
fn request(vm: &mut Vm, mib: u64) -> Result<()> {
    vm.patch("/hotplug/memory", &json!({"requested_size_mib": mib}))?;
    let mut said = Value::Null;
    let is_so = wait_until(PATIENCE, || {
        said = vm.get("/hotplug/memory")?;
        Ok(said["plugged_size_mib"] == mib)
    })?;
    println!("{said}");
    ensure!(is_so, "{mib} MiB were requested, and {said}");
    Ok(())
}

fn total_mib(vm: &mut Vm) -> Result<u64> {
    let kib = vm.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo")?;
    Ok(kib.parse::<u64>()? / 1024)
}
