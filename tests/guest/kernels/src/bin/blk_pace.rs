//! Reads the first sector again and again, `count=` times, and says when it begins.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::block::{Disk, Request, SLOTS, VIRTIO_BLK_T_IN};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let count = boot.command_line().number("count").unwrap_or(100);
    let mut disk = Disk::open(boot);
    println!("ready");
    let read = Request {
        kind: VIRTIO_BLK_T_IN,
        sector: 0,
        len: 512,
    };
    let mut done = 0;
    while done < count {
        disk.run_well(&[read; SLOTS]);
        done += SLOTS as u64;
    }
    println!("reads={done}");
}
