//! A read-only disk says so, refuses a write with an I/O error, and keeps its content.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::println;
use rt::virtio::block::{
    self, Disk, Request, SECTOR_BYTES, VIRTIO_BLK_F_RO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    rt::check!(
        disk.features & VIRTIO_BLK_F_RO != 0,
        "the disk does not say it is read-only"
    );
    println!("read_only_feature=yes");

    let before = first_sector(&mut disk);
    block::write_data(0, 0, &[0xa5; SECTOR_BYTES]);
    let write = disk.run_one(VIRTIO_BLK_T_OUT, 0, SECTOR_BYTES);
    println!("write_status={}", write.status);
    rt::check!(
        write.status == VIRTIO_BLK_S_IOERR,
        "the write ended with {write:?}"
    );
    rt::check!(
        first_sector(&mut disk) == before,
        "the write changed the disk"
    );
}

fn first_sector(disk: &mut Disk) -> u64 {
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_IN,
        sector: 0,
        len: SECTOR_BYTES,
    }]);
    let mut sum = Fnv1a64::new();
    sum.update(block::data(0, SECTOR_BYTES));
    sum.value()
}
