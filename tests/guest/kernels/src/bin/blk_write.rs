//! Writes a pattern made from `seed=` over the whole disk, flushes, reads it back and compares.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::pattern::{self, Flush};
use rt::println;
use rt::virtio::block::Disk;

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let seed = boot.command_line().number("seed").unwrap_or(1);
    let mut disk = Disk::open(boot);
    match pattern::write(&mut disk, seed) {
        Flush::Done => println!("flushed=yes"),
        Flush::NotOffered => println!("flushed=not_offered"),
    }
    let sum = pattern::read_back(&mut disk, seed);
    println!("capacity_sectors={}", disk.capacity);
    println!("disk_fnv1a64={:016x}", sum.value());
}
