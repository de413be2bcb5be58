//! Sends figures each time the device wants some, until the target is above 0.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::balloon::{self, Balloon, FEATURE, VIRTIO_BALLOON_F_STATS_VQ};

rt::kernel!(main);

const VIRTIO_BALLOON_S_MEMFREE: u16 = 4;
const VIRTIO_BALLOON_S_MEMTOT: u16 = 5;
const RECORD_BYTES: usize = 10;

fn main(boot: &BootInfo) {
    let mut device = Balloon::open(boot, VIRTIO_BALLOON_F_STATS_VQ);
    let mut round = 0_u64;
    while device.target() == 0 {
        round += 1;
        let mut bytes = [0; 2 * RECORD_BYTES];
        let records = [
            (VIRTIO_BALLOON_S_MEMFREE, round * 1000),
            (VIRTIO_BALLOON_S_MEMTOT, 77),
        ];
        for (record, (tag, value)) in bytes.chunks_exact_mut(RECORD_BYTES).zip(records) {
            record[..2].copy_from_slice(&u16::to_le_bytes(tag));
            record[2..].copy_from_slice(&u64::to_le_bytes(value));
        }
        device.send(FEATURE, &[balloon::write_bytes(&bytes)]);
        println!("round={round}");
    }
}
