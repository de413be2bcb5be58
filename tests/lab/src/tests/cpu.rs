//! What stock Linux finds its processors to be.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::vm::Vm;

/// Bits 19 and 9 of leaf 7 ebx.
const HIDDEN: [&str; 2] = ["adx", "erms"];

/// Flags that a CPU template hides are missing in the guest's `/proc/cpuinfo`, and no others are.
pub fn template_hides_flags(bench: &Bench) -> Result<()> {
    let host = fs::read_to_string("/proc/cpuinfo").context("the outer machine has /proc")?;
    for flag in HIDDEN {
        ensure!(
            has_flag(&host, flag),
            "the outer machine has no {flag} to hide"
        );
    }
    let mut plain = Vm::start(bench)?;
    plain.kernel("vmlinux")?;
    plain.machine(1, 256)?;
    plain.boot()?;
    let before = flags(&mut plain)?;
    plain.reboot()?;

    let mut vm = Vm::start(bench)?;
    vm.kernel("vmlinux")?;
    vm.machine(1, 256)?;
    let hide = json!({ "register": "ebx", "bitmap": "0b0xxx_xxxx_xx0x_xxxx_xxxx" });
    let leaf_7 = json!({ "leaf": "0x7", "subleaf": "0x0", "flags": 1, "modifiers": [hide] });
    vm.put("/cpu-config", &json!({ "cpuid_modifiers": [leaf_7] }))?;
    vm.boot()?;
    vm.check_kernel_log()?;
    let after = flags(&mut vm)?;
    let mut expected = before;
    expected.retain(|flag| !HIDDEN.contains(&flag.as_str()));
    ensure!(
        after == expected,
        "the guest has {after:?}, and should have {expected:?}"
    );
    vm.reboot()
}

fn has_flag(info: &str, flag: &str) -> bool {
    let mut lines = info.lines().filter(|line| line.starts_with("flags"));
    lines.any(|line| line.split(' ').any(|word| word == flag))
}

/// The guest's flags, in its kernel's order.
fn flags(vm: &mut Vm) -> Result<Vec<String>> {
    let line = vm.run("grep ^flags /proc/cpuinfo")?;
    let words = line.split_whitespace().skip(2);
    Ok(words.map(str::to_owned).collect())
}
