//! Prints the memory map, and writes the first and the last page of each piece of RAM.

#![no_std]
#![no_main]

use rt::boot::{BootInfo, Region};
use rt::{physical, println};

rt::kernel!(main);

const PAGE_BYTES: u64 = 4096;
const PATTERN: u64 = 0x5a5a_c3c3_0f0f_9696;

fn main(boot: &BootInfo) {
    let mut ram_bytes = 0;
    for region in boot.memory_map() {
        println!("map {:#x} {:#x} {}", region.start, region.end, region.kind);
    }
    for region in boot.ram() {
        ram_bytes += region.end - region.start;
        try_ends(region);
    }
    println!("ram_bytes={ram_bytes}");
}

/// Writes and reads back the region's first and last whole page outside this kernel's own image.
fn try_ends(region: Region) {
    let image = physical::image();
    let first = region.start.next_multiple_of(PAGE_BYTES);
    let first = if image.contains(&first) {
        image.end
    } else {
        first
    };
    let last = (region.end & !(PAGE_BYTES - 1)) - PAGE_BYTES;
    rt::check!(
        !image.contains(&last),
        "RAM ends in the image, at {last:#x}"
    );

    // All are written before any is read, so that two addresses of one page show.
    let pages = [first, last];
    let saved = pages.map(save);
    for page in pages {
        for address in words(page) {
            // SAFETY: RAM outside the image; `saved` puts back what the monitor left there.
            unsafe { physical::write(address, address ^ PATTERN) };
        }
    }
    for address in pages.into_iter().flat_map(words) {
        let found: u64 = physical::read(address);
        rt::check!(
            found == address ^ PATTERN,
            "RAM at {address:#x} holds {found:#x}"
        );
    }
    for (page, saved) in pages.into_iter().zip(saved).rev() {
        for (address, word) in words(page).zip(saved) {
            // SAFETY: as above.
            unsafe { physical::write(address, word) };
        }
    }
}

fn save(page: u64) -> [u64; 512] {
    let mut saved = [0; 512];
    for (address, word) in words(page).zip(&mut saved) {
        *word = physical::read(address);
    }
    saved
}

/// Addresses of a page's words, without address 0, which no pointer may hold.
fn words(page: u64) -> impl Iterator<Item = u64> {
    (page.max(8)..page + PAGE_BYTES).step_by(8)
}
