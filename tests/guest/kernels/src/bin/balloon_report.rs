//! Touches memory and reports all of it as free, in blocks.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::Part;
use rt::virtio::balloon::{
    self, Balloon, FEATURE, PAGE_BYTES, VIRTIO_BALLOON_F_PAGE_REPORTING, is_given_back, page,
};

rt::kernel!(main);

/// Pages of a block: 2 MiB, as Linux reports them.
const BLOCK: u64 = 512;

fn main(boot: &BootInfo) {
    let pages = boot.command_line().number("pages").unwrap_or(2 * BLOCK);
    let mut device = Balloon::open(boot, VIRTIO_BALLOON_F_PAGE_REPORTING);
    balloon::fill(boot, pages);
    println!("touched={pages}");
    // The test's word to go on.
    device.wait_target(|target| target > 0);
    let len = u32::try_from(BLOCK * PAGE_BYTES).unwrap_or(0);
    for pair in 0..pages / (2 * BLOCK) {
        let first = pair * 2 * BLOCK;
        let parts = [0, BLOCK].map(|more| Part::writable(page(first + more), len));
        device.send(FEATURE, &parts);
        rt::check!(is_given_back(first), "block {first} was not given back");
    }
    println!("reported={pages}");
    device.wait_target(|target| target == 0);
}
