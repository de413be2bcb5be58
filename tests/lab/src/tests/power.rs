//! Ways to end, and the serial console that most tests stand on.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::vm::Vm;

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
