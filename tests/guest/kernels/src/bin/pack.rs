//! One of many: writes its `tag=` to its own disk, reads it back, then idles until a byte comes in.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::virtio::block::{self, Disk, Request, SECTOR_BYTES, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use rt::{println, serial};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let Some(tag) = boot.command_line().value("tag") else {
        rt::fail!("the command line has no tag=");
    };
    rt::check!(tag.len() < SECTOR_BYTES, "the tag does not fit in a sector");
    let mut sector = [0; SECTOR_BYTES];
    sector[..tag.len()].copy_from_slice(tag.as_bytes());

    let mut disk = Disk::open(boot);
    block::write_data(0, 0, &sector);
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_OUT,
        sector: 0,
        len: SECTOR_BYTES,
    }]);
    block::write_data(0, 0, &[0; SECTOR_BYTES]);
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_IN,
        sector: 0,
        len: SECTOR_BYTES,
    }]);
    let mut found = [0; SECTOR_BYTES];
    block::read_data(0, 0, &mut found);
    rt::check!(found == sector, "the disk gave back something else");

    let mut input = serial::Input::enable(DeviceVector::new(0));
    println!("tag={tag}");
    input.read();
}
