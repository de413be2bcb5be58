//! Overlay files of any content, alone and in chains: good ones with bytes changed, and checksums that fit all the same.
//! What is taken gives a disk whose every sector can be read or is refused, and takes a write; sealed layers stay as they
//! are.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use devices::testing::{Buffer, FakeGuest, Guest};
use devices::virtio::Block;
use devices::virtio::block::{LockWait, Sealing, SharedRing};
use fuzz::bytes::Bytes;
use fuzz::file;
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use vm_config::Drive;

const HEADER_LEN: usize = 512;
const CHECKSUM: usize = HEADER_LEN - 4;
const HEADER: u64 = 0x100;
const STATUS: u64 = 0x200;
const DATA: u64 = 0x1_0000;
const UNWRITTEN: u8 = 0xee;
/// Layers at most, the one that is written included.
const LAYERS: usize = 3;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let Some(depth) = bytes.byte() else {
        return;
    };
    let host = Host::new(Kind::BlockOverlay);
    let files: Vec<_> = (0..usize::from(depth) % LAYERS + 1)
        .map(|_| file::holding(&[]))
        .collect();
    let drive = host.drive(&json!({"overlay_path": file::path(&files[0])}));
    let drive = stack(drive, &files);
    change(&files, bytes);
    let lower: Vec<_> = files[..files.len() - 1].iter().map(content).collect();
    if let Ok(disk) = open(&drive) {
        let mut guest = <FakeGuest as Guest>::running(Box::new(disk), 0);
        for sector in [0, 1, 63, 64, 1 << 40] {
            request(&mut guest, 0, sector);
            request(&mut guest, 1, sector);
            request(&mut guest, 0, sector);
        }
        guest.write(0x70, 0);
    }
    // Whatever it says, it is refused or taken again, and can be sealed.
    let _ = open(&drive).is_ok_and(|disk| seal(&disk, &drive, &file::path(&file::holding(&[]))));
    for (file, before) in files.iter().zip(lower) {
        assert!(content(file) == before, "a lower layer was written");
    }
});

fn open(drive: &Drive) -> Result<Block, devices::virtio::block::DiskError> {
    Block::open(drive, &SharedRing::default(), LockWait::None)
}

/// A chain of all files, each with a sector of its own.
fn stack(mut drive: Drive, files: &[File]) -> Drive {
    for (sector, next) in (0..).zip(1..=files.len()) {
        let disk = open(&drive).expect("an empty file becomes one");
        let mut guest = <FakeGuest as Guest>::running(Box::new(disk), 0);
        request(&mut guest, 1, sector * 8);
        guest.write(0x70, 0);
        drop(guest);
        if let Some(next) = files.get(next) {
            let disk = open(&drive).expect("it is whole");
            assert!(seal(&disk, &drive, &file::path(next)));
            drive = drive.restacked(file::path(next));
        }
    }
    drive
}

fn seal(disk: &Block, drive: &Drive, fresh: &Path) -> bool {
    let sealing = Sealing::prepare(drive, fresh);
    sealing.is_ok_and(|mut sealing| disk.seal(&mut sealing).is_ok())
}

fn content(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("it is open").len();
    let mut bytes = vec![0; usize::try_from(len).expect("a few MiB")];
    file.read_exact_at(&mut bytes, 0).expect("it is in memory");
    bytes
}

/// Puts bytes of the input over those of the files, makes them longer or shorter, and puts the checksums right. Their
/// times stay, so that who looks there alone sees no change.
fn change(files: &[File], mut bytes: Bytes<'_>) {
    let time = |file: &File| {
        let metadata = file.metadata().expect("it is open");
        metadata.modified().expect("the host has times")
    };
    let times: Vec<_> = files.iter().map(time).collect();
    let (mut is_right, mut is_noticed) = (true, false);
    while let Some(what) = bytes.byte() {
        let Some((at, run)) = bytes.half().zip(bytes.run()) else {
            break;
        };
        let overlay = &files[usize::from(what >> 3) % files.len()];
        match what & 7 {
            0 if what & 0x80 == 0 => is_right = false,
            0 => is_noticed = true,
            1 => overlay.set_len(u64::from(at) << 4).expect("a few MiB"),
            2 => overlay
                .write_all_at(run, u64::from(at))
                .expect("it is in memory"),
            _ => overlay
                .write_all_at(run, u64::from(at) % 512)
                .expect("it is in memory"),
        }
    }
    for (file, then) in files.iter().zip(times) {
        let mut header = vec![0; HEADER_LEN];
        if is_right && file.read_exact_at(&mut header, 0).is_ok() {
            let sum = crc32(&header[..CHECKSUM]).to_le_bytes();
            file.write_all_at(&sum, CHECKSUM as u64)
                .expect("it is in memory");
        }
        if !is_noticed {
            file.set_modified(then).expect("it is ours");
        }
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
