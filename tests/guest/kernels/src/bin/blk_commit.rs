//! Writes the disk piece after piece, flushes each where that is offered, and says so, for ever. With `verify=` and a
//! number it looks for that many pieces instead.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::block::{
    self, Disk, Request, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

rt::kernel!(main);

/// Not a multiple of any block.
const PIECE_SECTORS: u64 = 11;
const PIECE_BYTES: usize = 11 * 512;

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    if let Some(count) = boot.command_line().number("verify") {
        for piece in 0..count {
            verify(&mut disk, piece);
        }
        println!("verified={count}");
        return;
    }
    let pieces = disk.capacity / PIECE_SECTORS;
    rt::check!(pieces > 0, "the disk is too small");
    loop {
        for piece in 0..pieces {
            write(&mut disk, piece);
            println!("kept={}", piece + 1);
        }
    }
}

fn write(disk: &mut Disk, piece: u64) {
    for offset in (0..PIECE_BYTES).step_by(8) {
        block::write_data(0, offset, &word(piece, offset));
    }
    disk.run_well(&[request(VIRTIO_BLK_T_OUT, piece)]);
    if disk.features & VIRTIO_BLK_F_FLUSH != 0 {
        disk.run_well(&[Request {
            kind: VIRTIO_BLK_T_FLUSH,
            sector: 0,
            len: 0,
        }]);
    }
}

fn verify(disk: &mut Disk, piece: u64) {
    disk.run_well(&[request(VIRTIO_BLK_T_IN, piece)]);
    let mut found = [0; 8];
    for offset in (0..PIECE_BYTES).step_by(8) {
        block::read_data(0, offset, &mut found);
        let expected = word(piece, offset);
        rt::check!(
            found == expected,
            "piece {piece}, byte {offset}: {found:02x?}, not {expected:02x?}"
        );
    }
}

fn request(kind: u32, piece: u64) -> Request {
    Request {
        kind,
        sector: piece * PIECE_SECTORS,
        len: PIECE_BYTES,
    }
}

fn word(piece: u64, offset: usize) -> [u8; 8] {
    (piece << 32 | offset as u64 | 1).to_le_bytes()
}
