//! Writes a pattern made from `seed=` over the whole disk, flushes, reads it back and compares.
//!
//! The 8-byte little-endian word at byte offset 8 * `n` is `x ^ (x >> 32)`, where `x` is
//! (`seed` + `n`) * 0x9e3779b97f4a7c15 modulo 2^64.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::println;
use rt::virtio::block::{
    self, Disk, Request, SECTOR_BYTES, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let seed = boot.command_line().number("seed").unwrap_or(1);
    let mut disk = Disk::open(boot);
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_OUT) {
        for (slot, request) in requests[..count].iter().enumerate() {
            for (offset, word) in words(seed, request) {
                block::write_data(slot, offset, &word);
            }
        }
        disk.run_well(&requests[..count]);
    }
    if disk.features & VIRTIO_BLK_F_FLUSH != 0 {
        disk.run_well(&[Request {
            kind: VIRTIO_BLK_T_FLUSH,
            sector: 0,
            len: 0,
        }]);
        println!("flushed=yes");
    } else {
        println!("flushed=not_offered");
    }

    let mut sum = Fnv1a64::new();
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_IN) {
        disk.run_well(&requests[..count]);
        for (slot, request) in requests[..count].iter().enumerate() {
            verify(seed, slot, request);
            sum.update(block::data(slot, request.len));
        }
    }
    println!("capacity_sectors={}", disk.capacity);
    println!("disk_fnv1a64={:016x}", sum.value());
}

fn verify(seed: u64, slot: usize, request: &Request) {
    let mut found = [0; 8];
    for (offset, word) in words(seed, request) {
        block::read_data(slot, offset, &mut found);
        rt::check!(
            found == word,
            "sector {} and {offset} bytes: {found:02x?}, not {word:02x?}",
            request.sector
        );
    }
}

/// The request's words with their offsets in its data.
fn words(seed: u64, request: &Request) -> impl Iterator<Item = (usize, [u8; 8])> {
    let first = request.sector * (SECTOR_BYTES / 8) as u64;
    (first..)
        .zip((0..request.len).step_by(8))
        .map(move |(n, offset)| {
            let x = seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (offset, (x ^ x >> 32).to_le_bytes())
        })
}
