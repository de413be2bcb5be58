//! The balloon: memory goes to the host when it is asked for, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::process::wait_until;
use crate::vm::Vm;

const MEMORY_MIB: u64 = 256;
/// What the guest uses and frees, in MiB: less than `/tmp` takes, which is half of the memory.
const USED: u64 = 96;
/// Of what was freed, at least this much leaves the process: the rest is in pieces.
const LEAVES: u64 = 72;
const PATIENCE: Duration = Duration::from_secs(90);

/// Free memory leaves the monitor's process by a run of hinting and by inflating; a guest that runs out of memory takes
/// it back from the balloon.
pub fn balloon_takes_and_gives(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, u32::try_from(MEMORY_MIB)?)?;
    vm.kernel("vmlinux")?;
    let balloon = json!({
        "amount_mib": 0,
        "deflate_on_oom": true,
        "stats_polling_interval_s": 1,
        "free_page_hinting": true,
    });
    vm.put("/balloon", &balloon)?;
    vm.boot()?;

    statistics_arrive(&mut vm)?;
    hinting_names_free_pages(&mut vm)?;
    inflating_takes_memory(&mut vm)?;
    deflating_gives_it_back(&mut vm)?;
    a_guest_without_memory_deflates(&mut vm)?;
    vm.reboot()
}

fn statistics_arrive(vm: &mut Vm) -> Result<()> {
    let is_there = wait_until(PATIENCE, || {
        Ok(vm.get("/balloon/statistics")?["total_memory"].is_u64())
    })?;
    ensure!(is_there, "the guest sends no statistics");
    let said = vm.get("/balloon/statistics")?;
    println!("statistics: {said}");
    let of_guest = vm.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo")?;
    let total = of_guest.parse::<u64>()? * 1024;
    ensure!(
        said["total_memory"] == total,
        "the guest has {total} bytes, the statistics say {said}"
    );
    let free = said["free_memory"].as_u64();
    ensure!(
        free.is_some_and(|free| free > 0 && free < total),
        "free memory in {said}"
    );
    Ok(())
}

fn hinting_names_free_pages(vm: &mut Vm) -> Result<()> {
    let full = use_and_free(vm)?;
    vm.patch(
        "/balloon/hinting/start",
        &json!({"acknowledge_on_stop": true}),
    )?;
    vm.process().shrinks_to(full - LEAVES, PATIENCE)?;
    println!("hinting: {}", vm.get("/balloon/hinting/status")?);
    // The guest has its pages again.
    vm.run("cat /proc/meminfo | head -n 2")?;
    Ok(())
}

fn inflating_takes_memory(vm: &mut Vm) -> Result<()> {
    let full = use_and_free(vm)?;
    vm.patch("/balloon", &json!({"amount_mib": USED}))?;
    is_inflated_to(vm, |actual| actual == USED)?;
    vm.process().shrinks_to(full - LEAVES, PATIENCE)
}

fn deflating_gives_it_back(vm: &mut Vm) -> Result<()> {
    vm.patch("/balloon", &json!({"amount_mib": 0}))?;
    is_inflated_to(vm, |actual| actual == 0)?;
    use_and_free(vm)?;
    Ok(())
}

/// More than fits beside the balloon: the guest's kernel takes pages from it before it ends any process.
fn a_guest_without_memory_deflates(vm: &mut Vm) -> Result<()> {
    let target = MEMORY_MIB - USED;
    vm.patch("/balloon", &json!({"amount_mib": target}))?;
    // There may be less than that to take; it goes on trying.
    is_inflated_to(vm, |actual| actual > target * 3 / 4)?;
    vm.run_long(&format!("dd if=/dev/zero of=/tmp/used bs=1M count={USED}"))?;
    is_inflated_to(vm, |actual| actual < target)?;
    vm.patch("/balloon", &json!({"amount_mib": 0}))?;
    is_inflated_to(vm, |actual| actual == 0)?;
    vm.run("rm /tmp/used")?;
    Ok(())
}

/// Lets the guest use memory and free it; returns what the monitor occupies then. Nothing leaves by itself.
fn use_and_free(vm: &mut Vm) -> Result<u64> {
    vm.run_long(&format!(
        "dd if=/dev/zero of=/tmp/used bs=1M count={USED} && rm /tmp/used && sleep 3"
    ))?;
    let full = vm.process().resident_mib()?;
    println!("the monitor occupies {full} MiB");
    ensure!(
        full >= USED,
        "the guest used {USED} MiB and the monitor occupies {full} MiB"
    );
    Ok(full)
}

fn is_inflated_to(vm: &mut Vm, is_right: impl Fn(u64) -> bool) -> Result<()> {
    let mut said = Value::Null;
    let is_so = wait_until(PATIENCE, || {
        said = vm.get("/balloon/statistics")?;
        Ok(said["actual_mib"].as_u64().is_some_and(&is_right))
    })?;
    println!("statistics: {said}");
    ensure!(is_so, "the balloon stays at {said}");
    Ok(())
}
