//! A pattern over a whole disk, so that a word that is missing, stale or in the wrong place shows.
//!
//! The 8-byte little-endian word at byte offset 8 * `n` is `x ^ (x >> 32)`, where `x` is
//! (`seed` + `n`) * 0x9e3779b97f4a7c15 modulo 2^64.

use crate::checksum::Fnv1a64;
use crate::virtio::block::{
    self, Disk, Request, SECTOR_BYTES, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};

/// Whether what was written was also flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Done.
    Done,
    /// The disk has no such request.
    NotOffered,
}

/// Fills the disk and flushes it.
pub fn write(disk: &mut Disk, seed: u64) -> Flush {
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_OUT) {
        for (slot, request) in requests[..count].iter().enumerate() {
            for (offset, word) in words(seed, request) {
                block::write_data(slot, offset, &word);
            }
        }
        disk.run_well(&requests[..count]);
    }
    if disk.features & VIRTIO_BLK_F_FLUSH == 0 {
        return Flush::NotOffered;
    }
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_FLUSH,
        sector: 0,
        len: 0,
    }]);
    Flush::Done
}

/// Reads the disk back and returns its checksum. Fails the test at the first wrong word.
pub fn read_back(disk: &mut Disk, seed: u64) -> Fnv1a64 {
    let mut sum = Fnv1a64::new();
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_IN) {
        disk.run_well(&requests[..count]);
        for (slot, request) in requests[..count].iter().enumerate() {
            verify(seed, slot, request);
            sum.update(block::data(slot, request.len));
        }
    }
    sum
}

fn verify(seed: u64, slot: usize, request: &Request) {
    let mut found = [0; 8];
    for (offset, word) in words(seed, request) {
        block::read_data(slot, offset, &mut found);
        crate::check!(
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
