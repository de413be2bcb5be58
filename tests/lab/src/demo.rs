//! Stock Linux as a guest, step by step, for people to watch.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::Bench;
use crate::vm::Vm;

/// Boots Debian's kernel with a root disk, runs a few commands in it, and shuts it down.
pub fn show(bench: &Bench) -> Result<()> {
    let started = Instant::now();
    println!("starting {}", bench.monitor.display());
    let mut vm = Vm::start(bench)?;
    println!(
        "its socket answers after {} ms",
        started.elapsed().as_millis()
    );
    vm.machine(1, 256)?;
    vm.kernel("vmlinux")?;
    let disk = vm.copy_image("root.ext4", "root.ext4")?;
    let drive = json!({"drive_id": "root", "path_on_host": disk, "is_root_device": true});
    vm.put("/drives/root", &drive)?;
    vm.boot()?;
    for command in [
        "uname -a",
        "nproc",
        "grep -E 'vendor_id|model name' /proc/cpuinfo",
        "grep ' / ' /proc/mounts",
        "free -m",
        "cat /proc/uptime",
    ] {
        vm.run(command)?;
    }
    println!("pressing Ctrl-Alt-Del");
    vm.put("/actions", &json!({"action_type": "SendCtrlAltDel"}))?;
    vm.ends_well()?;
    println!("the monitor ended with exit code 0");
    Ok(())
}
