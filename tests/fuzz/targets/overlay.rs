//! Overlay files of any content: the header of a good one with bytes changed, and a checksum that fits all the same.
//! One that is taken gives a disk whose every sector can be read or is refused, and takes a write.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use devices::testing::{Buffer, FakeGuest, Guest};
use devices::virtio::Block;
use devices::virtio::block::{LockWait, SharedRing};
use fuzz::bytes::Bytes;
use fuzz::file;
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const HEADER_LEN: usize = 4096;
const CHECKSUM: usize = HEADER_LEN - 4;
const HEADER: u64 = 0x100;
const STATUS: u64 = 0x200;
const DATA: u64 = 0x1_0000;
const UNWRITTEN: u8 = 0xee;

fuzz_target!(|input: &[u8]| {
    let host = Host::new(Kind::BlockOverlay);
    let overlay = file::holding(&[]);
    let drive = host.drive(&json!({"overlay_path": file::path(&overlay)}));
    drop(
        Block::open(&drive, &SharedRing::default(), LockWait::Second)
            .expect("an empty file becomes one"),
    );
    change(&overlay, Bytes::new(input));
    if let Ok(disk) = Block::open(&drive, &SharedRing::default(), LockWait::Second) {
        let mut guest = <FakeGuest as Guest>::running(Box::new(disk), 0);
        for sector in [0, 1, 63, 64, 1 << 40] {
            request(&mut guest, 0, sector);
            request(&mut guest, 1, sector);
            request(&mut guest, 0, sector);
        }
        guest.write(0x70, 0);
    }
    // Whatever it says, it is refused or taken again.
    let _ = Block::open(&drive, &SharedRing::default(), LockWait::Second);
});

/// Puts bytes of the input over those of the file, makes it longer or shorter, and puts the checksum right.
fn change(overlay: &File, mut bytes: Bytes<'_>) {
    let mut is_right = true;
    while let Some(what) = bytes.byte() {
        let Some((at, run)) = bytes.half().zip(bytes.run()) else {
            break;
        };
        match what & 7 {
            0 => is_right = false,
            1 => overlay.set_len(u64::from(at) << 4).expect("a few MiB"),
            2 => overlay
                .write_all_at(run, u64::from(at))
                .expect("it is in memory"),
            _ => overlay
                .write_all_at(run, u64::from(at) % 512)
                .expect("it is in memory"),
        }
    }
    let mut header = vec![0; HEADER_LEN];
    if is_right && overlay.read_exact_at(&mut header, 0).is_ok() {
        let sum = crc32(&header[..CHECKSUM]).to_le_bytes();
        overlay
            .write_all_at(&sum, CHECKSUM as u64)
            .expect("it is in memory");
    }
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), step)
    })
}

/// Reads or writes one sector; the answer is there in the same turn.
fn request(guest: &mut FakeGuest, kind: u32, sector: u64) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    guest.poke(HEADER, &header);
    guest.poke(STATUS, &[UNWRITTEN]);
    let data = match kind {
        0 => Buffer::Writable(DATA, 512),
        _ => Buffer::Readable(DATA, 512),
    };
    let head = guest.queues[0].add(&[
        Buffer::Readable(HEADER, 16),
        data,
        Buffer::Writable(STATUS, 1),
    ]);
    guest.kick().expect("the rings are whole");
    let used = guest.queues[0].take_used();
    assert!(
        matches!(used[..], [(back, _)] if back == head),
        "a request was lost"
    );
    assert_ne!(guest.peek(STATUS, 1)[0], UNWRITTEN);
}
