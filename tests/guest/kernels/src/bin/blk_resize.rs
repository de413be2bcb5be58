//! Waits until the disk says that its configuration changed, then reads what it has now.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::virtio::block::{self, Disk, VIRTIO_BLK_T_IN};
use rt::{clock, println};

/// Bit of the interrupt status: the configuration space changed (virtio 1.2 §4.1.4.5, §4.2.2).
const CONFIGURATION: u32 = 2;

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    println!("capacity_before={}", disk.capacity);
    println!("ready");
    let is_told = clock::spin_until(clock::LONG, || {
        disk.device.acknowledge_interrupt() & CONFIGURATION != 0
    });
    rt::check!(is_told, "the disk did not say that it changed");
    disk.capacity = disk.device.config_u64(0);
    let mut sum = Fnv1a64::new();
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_IN) {
        disk.run_well(&requests[..count]);
        for (slot, request) in requests[..count].iter().enumerate() {
            sum.update(block::data(slot, request.len));
        }
    }
    println!("capacity_after={}", disk.capacity);
    println!("disk_fnv1a64={:016x}", sum.value());
}
