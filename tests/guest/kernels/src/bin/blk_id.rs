//! Prints the disk's ID string.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::block::{self, Disk, ID_BYTES, Request, VIRTIO_BLK_T_GET_ID};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_GET_ID,
        sector: 0,
        len: ID_BYTES,
    }]);
    let mut id = [0; ID_BYTES];
    block::read_data(0, 0, &mut id);
    let len = id.iter().position(|&byte| byte == 0).unwrap_or(ID_BYTES);
    match core::str::from_utf8(&id[..len]) {
        Ok(text) => println!("id={text}"),
        Err(_) => rt::fail!("the ID is not text: {id:02x?}"),
    }
}
