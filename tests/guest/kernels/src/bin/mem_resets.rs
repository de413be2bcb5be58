//! Resets the memory device and starts it again and again, until a byte comes in.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::virtio::Device;
use rt::virtio::mem::{DEVICE_ID, VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE};
use rt::{println, serial};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let device = Device::find(boot, DEVICE_ID, 0);
    println!("storming");
    let mut resets = 0_u64;
    while !serial::has_input() {
        device.negotiate(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
        device.start();
        resets += 1;
    }
    println!("resets={resets}");
}
