//! The identity map above the first GiB, which `entry.s` maps itself.
//!
//! Ring 3 fills the tables, natively, in pages of 2 MiB (Intel SDM 3A, 4.5).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::boot::BootInfo;

const GIB: u64 = 1 << 30;
const ENTRIES: usize = 512;
/// RAM above this is not mapped: touching it is a reported page fault.
const MAX_MAPPED_GIB: usize = 32;
/// The GiB below 4 GiB, with every device register in it.
const DEVICE_GIB: usize = 3;

/// The GiB with the memory windows of PCI devices: the first of the 64-bit gap.
const PCI_GIB: usize = 256;

/// Present, writable, user, accessed, dirty, 2 MiB.
const PAGE: u64 = 0xe7;
/// Present, writable, user, accessed.
const TABLE: u64 = 0x27;
/// Write-through and cache-disable: uncached.
const UNCACHED: u64 = 0x18;

#[repr(C, align(4096))]
struct PageTable([AtomicU64; ENTRIES]);

static DIRECTORIES: [PageTable; MAX_MAPPED_GIB] =
    [const { PageTable([const { AtomicU64::new(0) }; ENTRIES]) }; MAX_MAPPED_GIB];

static PCI_DIRECTORY: PageTable = PageTable([const { AtomicU64::new(0) }; ENTRIES]);

unsafe extern "C" {
    safe static page_directory_pointers: PageTable;
}

/// Maps the device registers, near and far, and every GiB with RAM in it, up to [`MAX_MAPPED_GIB`].
pub(crate) fn map_beyond_first_gib(boot: &BootInfo) {
    map(DEVICE_GIB, UNCACHED, &DIRECTORIES[DEVICE_GIB]);
    map(PCI_GIB, UNCACHED, &PCI_DIRECTORY);
    for region in boot.ram() {
        let first = region.start / GIB;
        let end = region.end.div_ceil(GIB).min(MAX_MAPPED_GIB as u64);
        for gib in (first..end).filter_map(|gib| usize::try_from(gib).ok()) {
            if gib > 0 && gib != DEVICE_GIB {
                map(gib, 0, &DIRECTORIES[gib]);
            }
        }
    }
}

/// Maps memory that the memory map does not list, such as persistent memory.
pub fn map_memory(range: Range<u64>) {
    for gib in range.start / GIB..range.end.div_ceil(GIB) {
        match usize::try_from(gib) {
            Ok(gib) if gib < MAX_MAPPED_GIB => map(gib, 0, &DIRECTORIES[gib]),
            _ => crate::fail!("{range:#x?} lies too high to be mapped"),
        }
    }
}

fn map(gib: usize, caching: u64, directory: &'static PageTable) {
    let mut frame = gib as u64 * GIB;
    for entry in &directory.0 {
        entry.store(frame | PAGE | caching, Ordering::Relaxed);
        frame += GIB / ENTRIES as u64;
    }
    // From not present to present: no translation of it can be cached (Intel SDM 3A, 4.10.4.3).
    let address = directory as *const PageTable as u64;
    page_directory_pointers.0[gib].store(address | TABLE, Ordering::Release);
}
