//! Ways to end, and the serial console that most tests stand on.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::process::wait_until;
use crate::vm::{LONG, Vm};

/// `reboot` in the guest ends the monitor with exit code 0.
pub fn reboot_ends_the_monitor(bench: &Bench) -> Result<()> {
    boot(bench)?.reboot()
}

/// The API's Ctrl-Alt-Del shuts the guest down.
pub fn ctrl_alt_del_shuts_down(bench: &Bench) -> Result<()> {
    let mut vm = boot(bench)?;
    vm.check_kernel_log()?;
    vm.put("/actions", &json!({"action_type": "SendCtrlAltDel"}))?;
    vm.ends_well()
}

/// The API's power button reaches a program in the guest, which switches the machine off.
pub fn power_button_switches_off(bench: &Bench) -> Result<()> {
    let mut vm = boot(bench)?;
    vm.check_kernel_log()?;
    let button = vm.run(
        "name=$(grep -l 'Power Button' /sys/class/input/event*/device/name) && echo ${name%/device/name}",
    )?;
    let event = button.trim_start_matches("/sys/class/input/");
    // What a desktop or systemd-logind does: waits for the key, then shuts down.
    vm.run(&format!(
        "{{ head -c 24 /dev/input/{event} > /dev/null && poweroff; }} & sleep 1"
    ))?;
    vm.put("/actions", &json!({"action_type": "SendPowerButton"}))?;
    vm.ends_saying("Power down")
}

/// The host hears of a guest's panic.
pub fn panic_is_told(bench: &Bench) -> Result<()> {
    let mut vm = boot(bench)?;
    let before = vm.get("/")?;
    ensure!(
        before.get("guest_panicked").is_none(),
        "before the panic the monitor says {before}"
    );
    // It stays as it is then, so that there is time to ask.
    vm.run("echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq")?;
    vm.console().send("echo c > /proc/sysrq-trigger")?;
    let is_told = wait_until(LONG, || Ok(vm.get("/")?["guest_panicked"] == true))?;
    ensure!(is_told, "the monitor did not hear of the guest's panic");
    Ok(())
}

/// A long line goes in and comes out whole: no byte is lost in either direction.
pub fn console_carries_long_lines(bench: &Bench) -> Result<()> {
    let mut vm = boot(bench)?;
    let text: String = ('!'..='~')
        .filter(|c| !"'\\".contains(*c))
        .cycle()
        .take(3000)
        .collect();
    let echoed = vm.run(&format!("echo '{text}'"))?;
    ensure!(echoed == text, "sent {text}, got {echoed}");
    vm.reboot()
}

fn boot(bench: &Bench) -> Result<Vm> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, 256)?;
    vm.kernel("vmlinux")?;
    vm.boot()?;
    Ok(vm)
}
