//! Requests through a whole device, on a real file.

mod queues;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use vm_config::{DeviceId, RateLimiter, TokenBucket};
use vm_memory::{Bytes, GuestAddress};

use super::worker::TURN;
use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};
use crate::virtio::transport::Transport;

const HEADER: u64 = 0x100;
const DATA: u64 = 0x1000;
const STATUS: u64 = 0x200;
const SECTORS: u64 = 64;
/// What the status byte holds before the device writes it.
const UNWRITTEN: u8 = 0xee;

fn image() -> NamedTempFile {
    let mut image = NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        let byte = u8::try_from(sector).unwrap();
        image.write_all(&[byte; 512]).unwrap();
    }
    image
}

fn drive(image: &NamedTempFile) -> Drive {
    Drive {
        drive_id: DeviceId("disk".to_owned()),
        partuuid: None,
        is_root_device: false,
        cache_type: CacheType::Unsafe,
        is_read_only: None,
        path_on_host: Some(image.path().to_owned()),
        overlay_path: None,
        lower_overlay_paths: Vec::new(),
        rate_limiter: None,
        io_engine: None,
        socket: None,
        serial: None,
        num_queues: None,
    }
}

fn open(drive: &Drive) -> Result<Block, DiskError> {
    Block::open(drive, &SharedRing::default(), LockWait::Second)
}

fn guest(drive: &Drive) -> FakeGuest {
    FakeGuest::running(Box::new(open(drive).unwrap()), 0)
}

/// Sends a request and returns its status byte and used length.
fn request(guest: &mut FakeGuest, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
    let mut header = Vec::new();
    header.extend_from_slice(&kind.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&sector.to_le_bytes());
    guest.poke(HEADER, &header);
    guest.poke(STATUS, &[UNWRITTEN]);
    let mut buffers = vec![Buffer::Readable(HEADER, 16)];
    buffers.extend_from_slice(data);
    buffers.push(Buffer::Writable(STATUS, 1));
    let head = guest.queues[0].add(&buffers);
    guest.kick().unwrap();
    let used = guest.queues[0].take_used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, head);
    (guest.peek(STATUS, 1)[0], used[0].1)
}

#[test]
fn read_fills_scattered_buffers() {
    let image = image();
    let mut guest = guest(&drive(&image));
    let data = [Buffer::Writable(DATA, 100), Buffer::Writable(0x3000, 924)];
    assert_eq!(request(&mut guest, 0, 7, &data), (0, 1025));
    assert_eq!(guest.peek(DATA, 100), [7; 100]);
    assert_eq!(guest.peek(0x3000, 412), [7; 412]);
    assert_eq!(guest.peek(0x3000 + 412, 512), [8; 512]);
    assert_eq!(guest.irq.take(), 1);
}

#[test]
fn write_lands_where_it_was_sent_and_nowhere_else() {
    let image = image();
    let mut guest = guest(&drive(&image));
    guest.poke(DATA, &[0xaa; 512]);
    assert_eq!(
        request(&mut guest, 1, 5, &[Buffer::Readable(DATA, 512)]),
        (0, 1)
    );
    let mut sectors = [0; 3 * 512];
    image
        .as_file()
        .read_exact_at(&mut sectors, 4 * 512)
        .unwrap();
    assert_eq!(sectors[..512], [4; 512]);
    assert_eq!(sectors[512..1024], [0xaa; 512]);
    assert_eq!(sectors[1024..], [6; 512]);
}

#[test]
fn header_and_data_may_share_descriptors() {
    let image = image();
    let mut guest = guest(&drive(&image));
    let mut header = [0; 16];
    header[0] = 1;
    header[8] = 3;
    guest.poke(DATA, &header);
    guest.poke(DATA + 16, &[0xbb; 512]);
    guest.queues[0].add(&[
        Buffer::Readable(DATA, 10),
        Buffer::Readable(DATA + 10, 518),
        Buffer::Writable(STATUS, 1),
    ]);
    guest.kick().unwrap();
    let mut sector = [0; 512];
    image.as_file().read_exact_at(&mut sector, 3 * 512).unwrap();
    assert_eq!(sector, [0xbb; 512]);
}

#[test]
fn flush_get_id_and_the_unknown_are_answered() {
    let image = image();
    let mut guest = guest(&drive(&image));
    assert_eq!(request(&mut guest, 4, 0, &[]), (0, 1));
    let id = [Buffer::Writable(DATA, 20)];
    assert_eq!(request(&mut guest, 8, 0, &id), (0, 21));
    let block = open(&drive(&image)).unwrap();
    assert_eq!(guest.peek(DATA, 20), block.backend.serial());
    assert_eq!(request(&mut guest, 11, 0, &id), (2, 0));
    assert_eq!(request(&mut guest, u32::MAX, 0, &[]), (2, 1));
}

#[test]
fn data_outside_the_disk_or_ragged_is_an_error_and_touches_nothing() {
    let image = image();
    let mut guest = guest(&drive(&image));
    guest.poke(DATA, &[0xcc; 1024]);
    for (kind, sector, len) in [
        (0, SECTORS, 512),
        (0, SECTORS - 1, 1024),
        (0, u64::MAX, 512),
        (0, u64::MAX / 512, 512),
        (0, 0, 511),
        (1, SECTORS, 512),
        (1, 0, 513),
    ] {
        let data = if kind == 0 {
            Buffer::Writable(DATA, len)
        } else {
            Buffer::Readable(DATA, len)
        };
        let (status, used) = request(&mut guest, kind, sector, &[data]);
        assert_eq!(status, 1, "{kind} {sector} {len}");
        assert_eq!(used, kind);
    }
    assert_eq!(guest.peek(DATA, 1024), [0xcc; 1024]);
    assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn chain_without_status_byte_comes_back_empty() {
    let image = image();
    let block = open(&drive(&image)).unwrap();
    let metrics = block.metrics();
    let mut guest = FakeGuest::running(Box::new(block), 0);
    let head = guest.queues[0].add(&[Buffer::Readable(HEADER, 16)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used(), [(head, 0)]);
    assert_eq!(metrics.invalid_reqs_count.get(), 1);
}

#[test]
fn short_header_is_counted_and_answered() {
    let image = image();
    let mut guest = guest(&drive(&image));
    guest.poke(STATUS, &[UNWRITTEN]);
    guest.queues[0].add(&[Buffer::Readable(HEADER, 15), Buffer::Writable(STATUS, 1)]);
    guest.kick().unwrap();
    assert_eq!(guest.peek(STATUS, 1), [1]);
}

#[test]
fn read_only_disk_says_so_and_refuses_writes() {
    let image = image();
    let mut drive = drive(&image);
    drive.is_read_only = Some(true);
    assert_ne!(open(&drive).unwrap().features & 1 << VIRTIO_BLK_F_RO, 0);
    let mut guest = guest(&drive);
    guest.poke(DATA, &[0xaa; 512]);
    assert_eq!(
        request(&mut guest, 1, 5, &[Buffer::Readable(DATA, 512)]).0,
        1
    );
    assert_eq!(
        request(&mut guest, 0, 5, &[Buffer::Writable(DATA, 512)]).0,
        0
    );
    assert_eq!(guest.peek(DATA, 512), [5; 512]);
}

#[test]
fn features_follow_the_drive() {
    let image = image();
    let mut drive = drive(&image);
    // V1, EVENT_IDX, INDIRECT_DESC; SEG_MAX, BLK_SIZE, TOPOLOGY.
    let common = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 2 | 1 << 6 | 1 << 10;
    let holes = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    let features = |drive: &Drive| open(drive).unwrap().features;
    assert_eq!(features(&drive) & !holes, common);
    drive.cache_type = CacheType::Writeback;
    assert_eq!(features(&drive) & !holes, common | 1 << VIRTIO_BLK_F_FLUSH);
    drive.is_read_only = Some(true);
    assert_eq!(
        features(&drive),
        common | 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_RO
    );
}

#[test]
fn configuration_space_has_limits_for_what_is_offered() {
    let image = image();
    let block = open(&drive(&image)).unwrap();
    let space = block.config_space();
    let field = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    assert_eq!(space.len(), 60);
    assert_eq!(space[..8], SECTORS.to_le_bytes());
    assert_eq!((field(12), field(20)), (254, 512));
    let block_sectors = 1_u32 << space[24];
    assert_eq!(block_sectors * 512, block.backend.block_len());
    if block.backend.can_punch() {
        assert_eq!(
            (field(36), field(40), field(44)),
            (1 << 21, 64, block_sectors)
        );
        assert_eq!((field(48), field(52), space[56]), (1 << 15, 1, 1));
    }
    let mut read_only = drive(&image);
    read_only.is_read_only = Some(true);
    let block = open(&read_only).unwrap();
    assert_eq!(block.config_space()[36..], [0; 24]);
}

/// A running guest whose driver accepted DISCARD and WRITE_ZEROES, on a file with holes.
fn trimming(image: &NamedTempFile) -> Option<(FakeGuest, Arc<BlockMetrics>)> {
    let block = open(&drive(image)).unwrap();
    if !block.backend.can_punch() {
        eprintln!("skipped, runs where temporary files have holes");
        return None;
    }
    let metrics = block.metrics();
    let features = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    Some((FakeGuest::running(Box::new(block), features), metrics))
}

const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Sector, sectors, flags.
type RangeOf = (u64, u32, u32);

/// Sends a request with `ranges`; gives its status.
fn trim(guest: &mut FakeGuest, kind: u32, ranges: &[RangeOf]) -> u8 {
    let mut data = Vec::new();
    for (sector, sectors, flags) in ranges {
        data.extend_from_slice(&sector.to_le_bytes());
        data.extend_from_slice(&sectors.to_le_bytes());
        data.extend_from_slice(&flags.to_le_bytes());
    }
    guest.poke(DATA, &data);
    let len = u32::try_from(data.len()).unwrap();
    let data = [Buffer::Readable(DATA, len)];
    let data = if len == 0 { &[][..] } else { &data };
    request(guest, kind, 0, data).0
}

fn zero_sectors(image: &NamedTempFile) -> Vec<usize> {
    let bytes = std::fs::read(image.path()).unwrap();
    assert_eq!(bytes.len() as u64, SECTORS * 512);
    let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    let all = bytes.chunks(512).enumerate();
    all.filter(|(_, sector)| is_zero(sector))
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zero() {
    let image = image();
    let Some((mut guest, _)) = trimming(&image) else {
        return;
    };
    assert_eq!(trim(&mut guest, DISCARD, &[(8, 8, 0), (32, 8, 0)]), 0);
    assert_eq!(trim(&mut guest, WRITE_ZEROES, &[(3, 1, 0)]), 0);
    assert_eq!(trim(&mut guest, WRITE_ZEROES, &[(60, 4, 1)]), 0);
    let mut expected = vec![0, 3];
    expected.extend((8..16).chain(32..40).chain(60..64));
    assert_eq!(zero_sectors(&image), expected);
}

#[test]
fn hostile_ranges_are_refused_and_change_nothing() {
    let image = image();
    let Some((mut guest, metrics)) = trimming(&image) else {
        return;
    };
    let (error, unsupported) = (1, 2);
    let many = vec![(0, 1, 0); 65];
    let cases: &[(u32, &[RangeOf], u8)] = &[
        (DISCARD, &[], error),
        (DISCARD, &[(SECTORS, 1, 0)], error),
        (DISCARD, &[(1, 1, 0), (SECTORS - 1, 2, 0)], error),
        (DISCARD, &[(u64::MAX, u32::MAX, 0)], error),
        (DISCARD, &[(u64::MAX / 512, 1, 0)], error),
        (DISCARD, &[(0, (1 << 21) + 1, 0)], error),
        (DISCARD, &many, error),
        (DISCARD, &[(1, 1, 1)], unsupported),
        (WRITE_ZEROES, &[(1, 1, 2)], unsupported),
        (WRITE_ZEROES, &[(1, 1, 0), (2, 1, 0)], error),
        (WRITE_ZEROES, &[(0, u32::MAX, 0)], error),
    ];
    for (kind, ranges, status) in cases {
        let counted = metrics.invalid_reqs_count.get();
        assert_eq!(trim(&mut guest, *kind, ranges), *status, "{ranges:?}");
        assert_eq!(metrics.invalid_reqs_count.get(), counted + 1);
    }
    // Not whole ranges.
    let data = [Buffer::Readable(DATA, 17)];
    assert_eq!(request(&mut guest, DISCARD, 0, &data).0, error);
    assert_eq!(zero_sectors(&image), [0]);
}

#[test]
fn driver_that_did_not_ask_for_discard_has_none() {
    let image = image();
    let mut guest = guest(&drive(&image));
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(trim(&mut guest, kind, &[(8, 8, 0)]), 2);
    }
    assert_eq!(zero_sectors(&image), [0]);
}

#[test]
fn serial_of_the_users_choice_is_answered() {
    let image = image();
    let mut drive = drive(&image);
    drive.serial = Some("my disk".to_owned().try_into().unwrap());
    let mut guest = guest(&drive);
    let id = [Buffer::Writable(DATA, 20)];
    assert_eq!(request(&mut guest, 8, 0, &id), (0, 21));
    assert_eq!(guest.peek(DATA, 20), *b"my disk\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn indirect_table_carries_a_request() {
    const TABLE: u64 = 0x5000;
    const NEXT_WRITE: u16 = 3;
    let image = image();
    let block = open(&drive(&image)).unwrap();
    let mut guest = FakeGuest::running(Box::new(block), 1 << VIRTIO_RING_F_INDIRECT_DESC);
    let mut header = [0; 16];
    header[8] = 9;
    guest.poke(HEADER, &header);
    let mut table = Vec::new();
    for (next, (at, len, flags)) in (1_u16..).zip([
        (HEADER, 16_u32, 1_u16),
        (DATA, 256, NEXT_WRITE),
        (DATA + 0x1000, 256, NEXT_WRITE),
        (STATUS, 1, 2),
    ]) {
        table.extend_from_slice(&at.to_le_bytes());
        table.extend_from_slice(&len.to_le_bytes());
        table.extend_from_slice(&flags.to_le_bytes());
        table.extend_from_slice(&next.to_le_bytes());
    }
    guest.poke(TABLE, &table);
    guest.queues[0].describe(0, TABLE, 64, 4, 0);
    guest.queues[0].publish(0);
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used(), [(0, 513)]);
    assert_eq!(guest.peek(DATA + 0x1000, 256), [9; 256]);
}

#[test]
fn image_that_shrank_is_an_error_for_the_guest() {
    let image = image();
    let mut guest = guest(&drive(&image));
    File::set_len(image.as_file(), 512).unwrap();
    let data = [Buffer::Writable(DATA, 1024)];
    assert_eq!(request(&mut guest, 0, 0, &data), (1, 512));
}

#[test]
fn what_this_build_lacks_is_named() {
    let image = image();
    let plain = drive(&image);
    let unsupported = [
        (
            Drive {
                path_on_host: None,
                socket: Some("/s".into()),
                ..plain.clone()
            },
            "`socket`",
        ),
        (
            Drive {
                path_on_host: None,
                ..plain.clone()
            },
            "Invalid block config.",
        ),
    ];
    for (drive, word) in unsupported {
        let text = open(&drive).err().unwrap().to_string();
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn full_queue_is_done_in_bounded_turns() {
    let image = image();
    let mut guest = guest(&drive(&image));
    let mut header = [0; 16];
    header[0] = 8;
    guest.poke(HEADER, &header);
    for _ in 0..128 {
        guest.queues[0].add(&[Buffer::Readable(HEADER, 16), Buffer::Writable(STATUS, 1)]);
    }
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), TURN);
    guest.workers.turn().unwrap();
    guest.workers.turn().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), 128 - TURN);
}

#[test]
fn a_flush_ends_the_turn() {
    let image = image();
    let mut guest = guest(&drive(&image));
    let mut header = [0; 16];
    header[0] = 4;
    guest.poke(HEADER, &header);
    for _ in 0..3 {
        guest.queues[0].add(&[Buffer::Readable(HEADER, 16), Buffer::Writable(STATUS, 1)]);
    }
    for _ in 0..3 {
        guest.workers.turn().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 1);
    }
}

#[test]
fn requests_do_not_allocate() {
    let image = image();
    // A limit that is there and never reached costs no allocation either.
    let drive = limited(&image, u64::MAX, u64::MAX, 1);
    let features = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    let mut bench = Bench::new(&mut open(&drive).unwrap(), features);
    let mut once = |kind: u8, data: &[Buffer]| {
        bench
            .memory
            .write_slice(&[kind, 0, 0, 0, 0, 0, 0, 0], GuestAddress(HEADER))
            .unwrap();
        for _ in 0..8 {
            let mut buffers = [Buffer::Readable(HEADER, 16); 10];
            buffers[1..=data.len()].copy_from_slice(data);
            buffers[data.len() + 1] = Buffer::Writable(STATUS, 1);
            bench.drivers[0].add(&buffers[..data.len() + 2]);
        }
        bench.allocations_of(0)
    };
    let read = [Buffer::Writable(DATA, 512); 8];
    let write = [Buffer::Readable(DATA, 512); 8];
    let ranges = [Buffer::Readable(DATA, 16)];
    once(0, &read);
    once(1, &write);
    for _ in 0..100 {
        assert_eq!(once(0, &read), 0);
        assert_eq!(once(1, &write), 0);
        assert_eq!(once(4, &[]), 0);
        assert_eq!(once(99, &[]), 0);
        assert_eq!(once(11, &ranges), 0);
        assert_eq!(once(13, &ranges), 0);
        assert_eq!(once(0, &[Buffer::Writable(DATA, 7)]), 0);
    }
}

/// What `PATCH` makes of the running `guest`, whose drive was `drive`.
fn patch(guest: &FakeGuest, drive: &Drive, patch: &DrivePatch) {
    let change = BlockChange::prepare(drive, patch).unwrap();
    guest.transport.slot().pause();
    let changed = guest.transport.slot().change(|device| {
        let device: &mut dyn std::any::Any = device;
        device.downcast_mut::<Block>().unwrap().change(change)
    });
    if let Changed::Configuration(_) = changed.unwrap() {
        guest.transport.slot().notify_config_change();
    }
    guest.transport.slot().resume();
}

fn new_path(path: &std::path::Path) -> DrivePatch {
    DrivePatch {
        drive_id: DeviceId("disk".to_owned()),
        path_on_host: Some(path.to_owned()),
        overlay_path: None,
        lower_overlay_paths: None,
        seal_overlay: false,
        rate_limiter: None,
    }
}

#[test]
fn file_that_grew_is_noticed_when_its_path_is_given_again() {
    let image = image();
    let drive = drive(&image);
    let mut guest = guest(&drive);
    image.as_file().set_len(2 * SECTORS * 512).unwrap();
    let data = [Buffer::Writable(DATA, 512)];
    assert_eq!(request(&mut guest, 0, SECTORS, &data).0, 1);
    let _ = guest.irq.take();
    let generation = guest.read(0xfc);
    patch(&guest, &drive, &new_path(image.path()));
    assert_eq!(guest.read(0x100), u32::try_from(2 * SECTORS).unwrap());
    assert_ne!(guest.read(0xfc), generation);
    assert_eq!(guest.read(0x60) & 2, 2);
    assert!(guest.irq.take() > 0);
    assert_eq!(request(&mut guest, 0, SECTORS, &data).0, 0);
}

#[test]
fn another_file_is_used_from_the_patch_on() {
    let (first, second) = (image(), NamedTempFile::new().unwrap());
    second.as_file().write_all_at(&[0x77; 512], 0).unwrap();
    let drive = drive(&first);
    let mut guest = guest(&drive);
    patch(&guest, &drive, &new_path(second.path()));
    let data = [Buffer::Writable(DATA, 512)];
    assert_eq!(request(&mut guest, 0, 0, &data).0, 0);
    assert_eq!(guest.peek(DATA, 512), [0x77; 512]);
    assert_eq!(request(&mut guest, 0, 1, &data).0, 1);
}

#[test]
fn driver_that_has_not_started_gets_no_interrupt_of_a_new_capacity() {
    let image = image();
    let drive = drive(&image);
    let guest = FakeGuest::new(Box::new(open(&drive).unwrap()));
    let generation = guest.read(0xfc);
    patch(&guest, &drive, &new_path(image.path()));
    assert_eq!((guest.read(0x60), guest.irq.take()), (0, 0));
    assert_ne!(guest.read(0xfc), generation);
}

fn limited(image: &NamedTempFile, bytes: u64, ops: u64, refill_time: u64) -> Drive {
    let bucket = |size| TokenBucket {
        size,
        one_time_burst: None,
        refill_time,
    };
    Drive {
        rate_limiter: Some(RateLimiter {
            bandwidth: Some(bucket(bytes)),
            ops: Some(bucket(ops)),
        }),
        ..drive(image)
    }
}

/// Makes `count` reads of a sector available.
fn read_sectors(guest: &mut FakeGuest, count: usize) {
    guest.poke(HEADER, &[0; 16]);
    for _ in 0..count {
        guest.queues[0].add(&[
            Buffer::Readable(HEADER, 16),
            Buffer::Writable(DATA, 512),
            Buffer::Writable(STATUS, 1),
        ]);
    }
}

#[test]
fn requests_beyond_a_limit_wait_in_the_ring_until_it_is_lifted() {
    const HOUR: u64 = 3_600_000;
    let image = image();
    for drive in [
        limited(&image, 5 * 512, 0, HOUR),
        limited(&image, 0, 5, HOUR),
    ] {
        let block = open(&drive).unwrap();
        let metrics = block.metrics();
        let mut guest = FakeGuest::running(Box::new(block), 0);
        read_sectors(&mut guest, 8);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 5);
        assert_eq!(metrics.rate_limiter_throttled_events.get(), 1);
        guest.kick().unwrap();
        // Neither a pause nor a driver that starts over gets more.
        guest.transport.slot().pause();
        guest.transport.slot().resume();
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used(), []);
        guest.write(0x70, 0);
        guest.start(0);
        read_sectors(&mut guest, 8);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used(), []);
        let zeros = limited(&image, 0, 0, 0).rate_limiter;
        let lift = DrivePatch {
            path_on_host: None,
            rate_limiter: zeros,
            ..new_path(image.path())
        };
        let changes = guest.read(0xfc);
        patch(&guest, &drive, &lift);
        assert_eq!(guest.read(0xfc), changes);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 8);
    }
}

#[test]
fn requests_go_on_when_their_time_comes() {
    let image = image();
    let block = open(&limited(&image, 0, 4, 200)).unwrap();
    let metrics = block.metrics();
    let mut guest = FakeGuest::running(Box::new(block), 0);
    read_sectors(&mut guest, 12);
    let start = Instant::now();
    let mut done = 0;
    while done < 12 {
        guest.kick().unwrap();
        done += guest.queues[0].take_used().len();
        std::thread::sleep(Duration::from_millis(1));
    }
    // Four at once, and one every 50 ms.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(395), "{elapsed:?}");
    // Fewer waits than requests when this thread itself had to wait for a processor.
    assert!(metrics.rate_limiter_event_count.get() >= 1);
    let waits = metrics.rate_limiter_throttled_events.get();
    assert!((1..=8).contains(&waits), "{waits}");
}

device_suite!({
    let image = image();
    Box::new(open(&drive(&image)).unwrap())
});
