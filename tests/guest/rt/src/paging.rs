//! The identity map above the first GiB, which `entry.s` maps itself.
//!
//! Ring 3 fills the tables, natively, in pages of 2 MiB (Intel SDM 3A, 4.5).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::boot::BootInfo;

const GIB: u64 = 1 << 30;
const ENTRIES: usize = 512;
/// RAM above this is not mapped.
const MAX_MAPPED_GIB: usize = 32;
/// The GiB below 4 GiB, with every device register in it.
const DEVICE_GIB: usize = 3;

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

unsafe extern "C" {
    safe static page_directory_pointers: PageTable;
}

/// Maps the device registers and every GiB with RAM in it.
pub(crate) fn map_beyond_first_gib(boot: &BootInfo) {
    map(DEVICE_GIB, UNCACHED);
    for region in boot.ram() {
        let mut gib = region.start / GIB;
        while gib * GIB < region.end {
            let index = usize::try_from(gib).unwrap_or(usize::MAX);
            crate::check!(
                index < MAX_MAPPED_GIB,
                "RAM above {MAX_MAPPED_GIB} GiB is not mapped"
            );
            if index > 0 && index != DEVICE_GIB {
                map(index, 0);
            }
            gib += 1;
        }
    }
}

fn map(gib: usize, caching: u64) {
    let directory = &DIRECTORIES[gib];
    let mut frame = gib as u64 * GIB;
    for entry in &directory.0 {
        entry.store(frame | PAGE | caching, Ordering::Relaxed);
        frame += GIB / ENTRIES as u64;
    }
    // From not present to present: no translation of it can be cached (Intel SDM 3A, 4.10.2.3).
    let address = directory as *const PageTable as u64;
    page_directory_pointers.0[gib].store(address | TABLE, Ordering::Release);
}
