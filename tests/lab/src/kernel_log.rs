//! Finds complaints in a guest's kernel log.

/// Run in the guest: lines that are warnings or worse (`KERN_WARNING` is 4), or that speak of
/// trouble at any level. Searched there because every byte over the serial line is an exit.
pub const SEARCH: &str = "dmesg -r | grep -E '^<[0-4]>|WARNING:|BUG:|Call Trace|nobody cared|\
    stalls on CPU|soft lockup|I/O error|blocked for more than' || true";

/// Warnings that the stock kernel prints on a sound microVM. Each needs a reason.
const EXPECTED: [&str; 8] = [
    // There is no PCI bus, and `pci=off` does not silence the search for one (arch/x86/pci/init.c).
    "PCI: Fatal: No config space access function found",
    "PCI: System does not support PCI",
    // The emulated machine stood still for a while: its host has two cores to share. The kernel measures itself
    // against the clock and says so (kernel/time/{clocksource,hrtimer}.c, kernel/events/core.c).
    "] clocksource: ",
    "hrtimer: interrupt took ",
    "perf: interrupt took too long",
    // How often a balloon was asked for more than the guest could spare (drivers/virtio/virtio_balloon.c).
    "] fill_balloon: ",
    // Of every file system on memory, wherever the memory is from (fs/ext4/super.c).
    "DAX enabled. Warning: EXPERIMENTAL",
    // Of every persistent memory without NVDIMMs behind it, as virtio's is; it is flushed all the same
    // (`nvdimm_has_flush` in drivers/nvdimm/region_devs.c).
    "nd_pmem namespace0.0: unable to guarantee persistence of writes",
];

/// Of the lines that [`SEARCH`] found, those that nobody expects.
pub fn complaints(found: &str) -> Vec<&str> {
    found
        .lines()
        .filter(|line| !EXPECTED.iter().any(|phrase| line.contains(phrase)))
        .collect()
}
