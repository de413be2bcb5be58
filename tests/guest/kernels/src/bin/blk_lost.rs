//! Reads from the disk until it says that it needs a reset; a request that it had then may never come back. With `again`
//! it resets the disk when a byte comes in, and reads once more.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::virtio::block::{Disk, Request, VIRTIO_BLK_T_IN};
use rt::{clock, println, serial};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    let read = Request {
        kind: VIRTIO_BLK_T_IN,
        sector: 0,
        len: 512,
    };
    disk.run_well(&[read]);
    println!("ready");
    let is_lost = clock::spin_until(clock::LONG, || disk.device.needs_reset());
    println!("lost={}", if is_lost { "yes" } else { "no" });
    rt::check!(is_lost, "the disk did not say that it is gone");
    if boot.command_line().has("again") {
        let is_told = clock::spin_until(clock::LONG, serial::has_input);
        rt::check!(is_told, "nobody brought the disk back");
        disk.restart();
        disk.run_well(&[read]);
        println!("capacity={}", disk.capacity);
    }
    disk.device.reset();
}
