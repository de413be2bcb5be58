//! Counts in the first 8 bytes of the disk, little-endian, until a byte comes in.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::virtio::block::{self, Disk, Request, SECTOR_BYTES, VIRTIO_BLK_T_OUT};
use rt::{println, serial};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    println!("counting");
    let mut count = 0_u64;
    while !serial::has_input() {
        count += 1;
        block::write_data(0, 0, &count.to_le_bytes());
        disk.run_well(&[Request {
            kind: VIRTIO_BLK_T_OUT,
            sector: 0,
            len: SECTOR_BYTES,
        }]);
    }
    println!("count={count}");
}
