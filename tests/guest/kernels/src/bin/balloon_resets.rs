//! Resets the balloon and starts it again and again, until a byte comes in.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::virtio::Device;
use rt::virtio::balloon::{DEVICE_ID, VIRTIO_BALLOON_F_STATS_VQ};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    Device::find(boot, DEVICE_ID, 0).storm_with_resets(VIRTIO_BALLOON_F_STATS_VQ);
}
