//! What a template depends on, to be kept beside it: when it changes, look at the template again.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vm_config::CpuConfig;

use crate::registers::Registers;
use crate::{files, monitor};

/// What a template depends on. What the host does not tell is empty.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    monitor_version: String,
    kernel_version: String,
    microcode_version: String,
    bios_version: String,
    bios_revision: String,
    guest_cpu_config: CpuConfig,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Field {
    /// The monitor's version.
    MonitorVersion,
    /// The host's kernel.
    KernelVersion,
    /// The processor's microcode.
    MicrocodeVersion,
    /// The firmware's version.
    BiosVersion,
    /// The firmware's revision.
    BiosRevision,
    /// What a guest finds.
    GuestCpuConfig,
}

/// Takes it of this host.
pub(crate) fn take(program: &Path, applied: Option<&str>) -> Result<Fingerprint> {
    let told = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Ok(Fingerprint {
        monitor_version: monitor::version(program)?,
        kernel_version: told("/proc/sys/kernel/osrelease"),
        microcode_version: told("/sys/devices/system/cpu/cpu0/microcode/version"),
        bios_version: told("/sys/devices/virtual/dmi/id/bios_version"),
        bios_revision: told("/sys/devices/virtual/dmi/id/bios_release"),
        guest_cpu_config: monitor::dump(program, applied)?,
    })
}

/// Says what differs.
pub(crate) fn compare(prev: &Path, curr: &Path, filters: &[Field]) -> Result<()> {
    let differences = differences(&files::read(prev)?, &files::read(curr)?, filters);
    for line in &differences {
        println!("{line}");
    }
    if !differences.is_empty() {
        bail!("the host is not as it was; verify the template, and take a new fingerprint");
    }
    println!("nothing changed");
    Ok(())
}

fn differences(prev: &Fingerprint, curr: &Fingerprint, filters: &[Field]) -> Vec<String> {
    let mut lines = Vec::new();
    for (field, prev, curr) in [
        (
            Field::MonitorVersion,
            &prev.monitor_version,
            &curr.monitor_version,
        ),
        (
            Field::KernelVersion,
            &prev.kernel_version,
            &curr.kernel_version,
        ),
        (
            Field::MicrocodeVersion,
            &prev.microcode_version,
            &curr.microcode_version,
        ),
        (Field::BiosVersion, &prev.bios_version, &curr.bios_version),
        (
            Field::BiosRevision,
            &prev.bios_revision,
            &curr.bios_revision,
        ),
    ] {
        if prev != curr && (filters.is_empty() || filters.contains(&field)) {
            lines.push(format!("{field:?}: {prev:?}, now {curr:?}"));
        }
    }
    if filters.is_empty() || filters.contains(&Field::GuestCpuConfig) {
        lines.extend(register_differences(
            &prev.guest_cpu_config,
            &curr.guest_cpu_config,
        ));
    }
    lines
}

fn register_differences(prev: &CpuConfig, curr: &CpuConfig) -> Vec<String> {
    let (prev, curr) = (Registers::of(prev), Registers::of(curr));
    let mut places: Vec<_> = prev.bits.keys().chain(curr.bits.keys()).copied().collect();
    places.sort_unstable();
    places.dedup();
    let told = |value: Option<u64>| value.map_or("nothing".to_owned(), |v| format!("{v:#x}"));
    let differing = places.into_iter().filter_map(|place| {
        let (prev, curr) = (prev.value(place), curr.value(place));
        (prev != curr).then(|| format!("{place}: {}, now {}", told(prev), told(curr)))
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::tests::dump;

    fn fingerprint(kernel: &str, eax: u64) -> Fingerprint {
        Fingerprint {
            monitor_version: String::new(),
            kernel_version: kernel.to_owned(),
            microcode_version: String::new(),
            bios_version: String::new(),
            bios_revision: String::new(),
            guest_cpu_config: dump(&[("0x1", "eax", eax)]),
        }
    }

    #[test]
    fn what_changed_is_told_and_filters_choose() {
        let (one, two) = (fingerprint("6.1", 5), fingerprint("6.2", 7));
        assert!(differences(&one, &one, &[]).is_empty());
        let kernel = "KernelVersion: \"6.1\", now \"6.2\"";
        let eax = "CPUID leaf 0x1, subleaf 0x0, eax: 0x5, now 0x7";
        assert_eq!(differences(&one, &two, &[]), [kernel, eax]);
        assert_eq!(differences(&one, &two, &[Field::GuestCpuConfig]), [eax]);
        assert!(differences(&one, &two, &[Field::BiosVersion]).is_empty());
    }
}
