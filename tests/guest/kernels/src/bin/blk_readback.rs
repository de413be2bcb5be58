//! Reads every sector of the disk and prints its checksum.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::println;
use rt::virtio::block::{self, Disk, VIRTIO_BLK_T_IN};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    let mut sum = Fnv1a64::new();
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_IN) {
        disk.run_well(&requests[..count]);
        for (slot, request) in requests[..count].iter().enumerate() {
            sum.update(block::data(slot, request.len));
        }
    }
    println!("capacity_sectors={}", disk.capacity);
    println!("disk_fnv1a64={:016x}", sum.value());
}
