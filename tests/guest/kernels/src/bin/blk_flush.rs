//! Writes a sector and flushes it.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::block::{
    self, Disk, SECTOR_BYTES, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_OUT,
};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    let is_offered = disk.features & VIRTIO_BLK_F_FLUSH != 0;
    println!("flush_feature={}", if is_offered { "yes" } else { "no" });

    block::write_data(0, 0, &[0xf1; SECTOR_BYTES]);
    let write = disk.run_one(VIRTIO_BLK_T_OUT, 0, SECTOR_BYTES);
    println!("write_status={}", write.status);
    let flush = disk.run_one(VIRTIO_BLK_T_FLUSH, 0, 0);
    println!("flush_status={}", flush.status);

    rt::check!(write.status == VIRTIO_BLK_S_OK, "the write failed");
    // Without the feature a driver may not flush; what the device answers then is for the host to judge.
    rt::check!(
        !is_offered || flush.status == VIRTIO_BLK_S_OK,
        "the flush failed"
    );
}
