//! Requests through the engine `Async`, on a real file and a real ring.

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use vm_config::{CacheType, DeviceId, Drive, DrivePatch};
use vm_memory::Bytes;

use super::super::{Block, BlockChange, LockWait, SharedRing};
use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest, engines};
use crate::virtio::VirtioDevice;
use crate::virtio::transport::Transport;

const SECTORS: u64 = 256;
/// Where the buffers of request `n` lie.
const STEP: u64 = 0x1000;
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x10;
const STATUS: u64 = 0xff0;
const UNWRITTEN: u8 = 0xee;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 4;

fn image() -> NamedTempFile {
    let mut image = NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        image.write_all(&[sector.to_le_bytes()[0]; 512]).unwrap();
    }
    image
}

fn drive(image: &NamedTempFile) -> Drive {
    // The engine that is meant comes last, where it is allowed.
    let io_engine = engines().pop();
    Drive {
        drive_id: DeviceId("disk".to_owned()),
        partuuid: None,
        is_root_device: false,
        cache_type: CacheType::Writeback,
        is_read_only: None,
        path_on_host: Some(image.path().to_owned()),
        overlay_path: None,
        lower_overlay_paths: Vec::new(),
        rate_limiter: None,
        io_engine,
        socket: None,
        serial: None,
        num_queues: None,
    }
}

fn open(image: &NamedTempFile) -> Block {
    Block::open(&drive(image), &SharedRing::default(), LockWait::Second).unwrap()
}

fn guest(image: &NamedTempFile) -> FakeGuest {
    FakeGuest::running(Box::new(open(image)), 0)
}

/// Makes request `n` available: `sectors` from `sector` on. Returns its head.
fn add(guest: &mut FakeGuest, n: u64, kind: u8, sector: u64, sectors: u32) -> u16 {
    let at = HEADER + n * STEP;
    let mut header = [0; 16];
    header[0] = kind;
    header[8..].copy_from_slice(&sector.to_le_bytes());
    guest.poke(at, &header);
    guest.poke(at + STATUS, &[UNWRITTEN]);
    let data = match kind {
        READ => Some(Buffer::Writable(at + DATA, 512 * sectors)),
        WRITE => Some(Buffer::Readable(at + DATA, 512 * sectors)),
        _ => None,
    };
    let mut buffers = vec![Buffer::Readable(at, 16)];
    buffers.extend(data);
    buffers.push(Buffer::Writable(at + STATUS, 1));
    guest.queues[0].add(&buffers)
}

/// Turns the loop until `count` heads came back.
fn wait_for(guest: &mut FakeGuest, count: usize) -> Vec<(u16, u32)> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut used = Vec::new();
    while used.len() < count {
        assert!(Instant::now() < deadline, "{used:?} of {count}");
        guest.kick().unwrap();
        used.extend(guest.queues[0].take_used());
    }
    used
}

fn status(guest: &FakeGuest, n: u64) -> u8 {
    guest.peek(HEADER + n * STEP + STATUS, 1)[0]
}

fn data(guest: &FakeGuest, n: u64, sectors: usize) -> Vec<u8> {
    guest.peek(HEADER + n * STEP + DATA, 512 * sectors)
}

fn sorted(mut heads: Vec<u16>) -> Vec<u16> {
    heads.sort_unstable();
    heads
}

#[test]
fn every_request_comes_back_once_with_its_own_data() {
    let image = image();
    let mut guest = guest(&image);
    for round in 0..20 {
        let heads = (0..64).map(|n| add(&mut guest, n, READ, (n * 3 + round) % 250, 2));
        let heads: Vec<u16> = heads.collect();
        let used = wait_for(&mut guest, 64);
        assert!(used.iter().all(|(_, len)| *len == 1025));
        let used = used.into_iter().map(|(head, _)| head).collect();
        assert_eq!(sorted(used), sorted(heads));
        for n in 0..64 {
            let first = ((n * 3 + round) % 250).to_le_bytes()[0];
            assert_eq!(status(&guest, n), 0);
            let data = data(&guest, n, 2);
            assert_eq!(data[..512], [first; 512]);
            assert_eq!(data[512..], [first + 1; 512]);
        }
    }
    assert_eq!(guest.queues[0].take_used(), []);
    assert!(guest.irq.take() > 0);
}

#[test]
fn the_time_from_a_request_to_its_end_is_counted_for_its_direction() {
    let image = image();
    let disk = open(&image);
    let metrics = disk.metrics();
    let mut guest = FakeGuest::running(Box::new(disk), 0);
    let begin = Instant::now();
    add(&mut guest, 0, READ, 0, 2);
    wait_for(&mut guest, 1);
    let (read, write) = (metrics.read_agg.sum(), metrics.write_agg.sum());
    assert!(!read.is_zero() && read <= begin.elapsed());
    assert!(write.is_zero());
    add(&mut guest, 1, WRITE, 0, 2);
    wait_for(&mut guest, 1);
    assert!(!metrics.write_agg.sum().is_zero());
    assert_eq!(metrics.read_agg.sum(), read);
}

#[test]
fn flush_comes_back_after_the_writes_before_it() {
    let image = image();
    let mut guest = guest(&image);
    for round in 0..20 {
        let mut heads = Vec::new();
        for n in 0..24 {
            guest.poke(HEADER + n * STEP + DATA, &[round; 2048]);
            heads.push(add(&mut guest, n, WRITE, n * 4, 4));
        }
        let flush = add(&mut guest, 24, FLUSH, 0, 0);
        for n in 25..30 {
            add(&mut guest, n, WRITE, 200, 1);
        }
        let used: Vec<u16> = wait_for(&mut guest, 30).into_iter().map(|u| u.0).collect();
        let place = |head| used.iter().position(|used| *used == head).unwrap();
        assert!(heads.iter().all(|head| place(*head) < place(flush)));
        assert_eq!(status(&guest, 24), 0);
        let mut written = [0; 96 * 512];
        image.as_file().read_exact_at(&mut written, 0).unwrap();
        assert!(written.iter().all(|byte| *byte == round));
    }
}

#[test]
fn pause_and_reset_wait_for_what_is_in_flight() {
    let image = image();
    let mut guest = guest(&image);
    for round in 0..50 {
        for n in 0..64 {
            add(&mut guest, n, if n % 8 == 7 { FLUSH } else { WRITE }, n, 1);
        }
        // This starts them; what is done meanwhile is seen only in the next turn.
        guest.kick().unwrap();
        if round % 2 == 0 {
            guest.transport.slot().pause();
            assert_eq!(guest.queues[0].take_used().len(), 64);
            guest.transport.slot().resume();
        } else {
            guest.write(0x70, 0);
            assert_eq!(guest.queues[0].take_used().len(), 64);
            guest.start(0);
        }
        assert!((0..64).all(|n| status(&guest, n) == 0));
    }
}

#[test]
fn file_that_ends_early_is_an_error_with_what_was_read_before() {
    let image = image();
    let mut guest = guest(&image);
    image.as_file().set_len(1024).unwrap();
    add(&mut guest, 0, READ, 1, 2);
    add(&mut guest, 1, READ, 7, 1);
    let mut used = wait_for(&mut guest, 2);
    used.sort_unstable();
    assert_eq!(
        used.iter().map(|(_, len)| *len).collect::<Vec<_>>(),
        [512, 0]
    );
    assert_eq!((status(&guest, 0), status(&guest, 1)), (1, 1));
    add(&mut guest, 2, READ, 0, 1);
    wait_for(&mut guest, 1);
    assert_eq!(status(&guest, 2), 0);
}

#[test]
fn requests_go_to_the_old_file_before_a_patch_and_to_the_new_one_after() {
    let (first, second) = (image(), image());
    let mut guest = guest(&first);
    guest.poke(HEADER + DATA, &[0xf1; 512]);
    add(&mut guest, 0, WRITE, 9, 1);
    guest.kick().unwrap();
    let patch = DrivePatch {
        drive_id: DeviceId("disk".to_owned()),
        path_on_host: Some(second.path().to_owned()),
        overlay_path: None,
        lower_overlay_paths: None,
        seal_overlay: false,
        rate_limiter: None,
    };
    let change = BlockChange::prepare(&drive(&first), &patch).unwrap();
    guest.transport.slot().pause();
    let changed = guest.transport.slot().change(|device| {
        let device: &mut dyn std::any::Any = device;
        device.downcast_mut::<Block>().unwrap().change(change)
    });
    assert!(changed.is_some());
    guest.transport.slot().resume();
    guest.poke(HEADER + STEP + DATA, &[0xf2; 512]);
    add(&mut guest, 1, WRITE, 9, 1);
    wait_for(&mut guest, 2);
    for (image, byte) in [(&first, 0xf1), (&second, 0xf2)] {
        let mut sector = [0; 512];
        image.as_file().read_exact_at(&mut sector, 9 * 512).unwrap();
        assert_eq!(sector, [byte; 512]);
    }
}

#[test]
fn drives_share_a_ring_and_get_their_own() {
    let images = [image(), image()];
    let ring = SharedRing::default();
    let open = |image| Block::open(&drive(image), &ring, LockWait::Second).unwrap();
    let mut guests = images
        .each_ref()
        .map(|image| FakeGuest::running(Box::new(open(image)), 0));
    for guest in &mut guests {
        for n in 0..80 {
            add(guest, n, READ, n, 1);
        }
        guest.kick().unwrap();
    }
    for guest in &mut guests {
        wait_for(guest, 80);
        for n in 0..80 {
            assert_eq!(data(guest, n, 1), [n.to_le_bytes()[0]; 512]);
        }
    }
}

#[test]
fn requests_do_not_allocate() {
    let image = image();
    let mut bench = Bench::new(&mut open(&image), 0);
    let mut once = |kind: u8, data: Buffer| {
        bench.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        for _ in 0..8 {
            bench.drivers[0].add(&[
                Buffer::Readable(HEADER, 16),
                data,
                Buffer::Writable(STATUS, 1),
            ]);
        }
        let mut allocations = bench.allocations_of(0);
        let mut done = bench.drivers[0].take_used().len();
        while done < 8 {
            allocations += bench.allocations_of(RING.0);
            done += bench.drivers[0].take_used().len();
        }
        allocations
    };
    let read = Buffer::Writable(0x4000, 4096);
    let write = Buffer::Readable(0x4000, 4096);
    once(READ, read);
    once(WRITE, write);
    for _ in 0..100 {
        let spent = [once(READ, read), once(WRITE, write), once(FLUSH, write)];
        assert_eq!(spent, [0; 3]);
    }
}

device_suite!({
    let image = image();
    Box::new(open(&image)) as Box<dyn VirtioDevice>
});
