//! Overlays below a whole device, with both engines.

use vm_config::{BlockEngine, CacheType, DeviceId, Drive, DrivePatch};

use super::super::super::backend::Backend;
use super::super::super::{Block, BlockChange, DiskError, LockWait, Sealing, SharedRing};
use super::*;
use crate::testing::{Bench, Buffer, FakeGuest, engines};
use crate::virtio::transport::Transport;
use crate::virtio::{Changed, VirtioDevice};

/// Where the buffers of request `n` lie.
const STEP: u64 = 0x4000;
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x10;
const STATUS: u64 = 0x3ff0;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 4;
const DISCARD_FEATURE: u64 = 1 << 13;
const FLUSH_FEATURE: u64 = 1 << 9;

fn drive(bed: &Bed, overlay: &str, engine: BlockEngine) -> Drive {
    Drive {
        drive_id: DeviceId("disk".to_owned()),
        partuuid: None,
        is_root_device: false,
        cache_type: CacheType::Writeback,
        is_read_only: None,
        path_on_host: Some(bed.base.path().to_owned()),
        overlay_path: Some(bed.directory.path().join(overlay)),
        lower_overlay_paths: Vec::new(),
        rate_limiter: None,
        io_engine: Some(engine),
        socket: None,
        serial: None,
        num_queues: None,
    }
}

fn open(drive: &Drive) -> Result<Block, DiskError> {
    Block::open(drive, &SharedRing::default(), LockWait::Second)
}

fn guest(drive: &Drive) -> FakeGuest {
    let features = FLUSH_FEATURE | DISCARD_FEATURE;
    FakeGuest::running(Box::new(open(drive).unwrap()), features)
}

/// Makes request `n` available. Returns its head.
fn add(guest: &mut FakeGuest, n: u64, kind: u8, sectors: Sectors, byte: u8) -> u16 {
    let at = HEADER + n * STEP;
    let mut header = [0; 16];
    header[0] = kind;
    header[8..].copy_from_slice(&sectors.first.to_le_bytes());
    guest.poke(at, &header);
    guest.poke(at + STATUS, &[0xee]);
    let len = u32::try_from(sectors.range().len).unwrap();
    let mut buffers = vec![Buffer::Readable(at, 16)];
    match kind {
        READ => buffers.push(Buffer::Writable(at + DATA, len)),
        WRITE => {
            guest.poke(at + DATA, &vec![byte; len as usize]);
            buffers.push(Buffer::Readable(at + DATA, len));
        }
        _ => {}
    }
    buffers.push(Buffer::Writable(at + STATUS, 1));
    guest.queues[0].add(&buffers)
}

/// Turns the loop until `count` requests came back, all well.
fn finish(guest: &mut FakeGuest, count: u64) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut done = 0;
    while done < count {
        assert!(std::time::Instant::now() < deadline, "{done} of {count}");
        guest.kick().unwrap();
        done += guest.queues[0].take_used().len() as u64;
    }
    for n in 0..count {
        assert_eq!(guest.peek(HEADER + n * STEP + STATUS, 1), [0], "{n}");
    }
}

/// A byte a sector, read in pieces at the same time.
fn read_all(guest: &mut FakeGuest) -> Vec<u8> {
    let pieces: Vec<Sectors> = (0..SECTORS)
        .step_by(10)
        .map(|first| Sectors {
            first,
            count: 10.min(SECTORS - first),
        })
        .collect();
    for (n, sectors) in (0..).zip(&pieces) {
        add(guest, n, READ, *sectors, 0);
    }
    finish(guest, pieces.len() as u64);
    let mut disk = Vec::new();
    for (n, sectors) in (0..).zip(&pieces) {
        let len = usize::try_from(sectors.range().len).unwrap();
        let bytes = guest.peek(HEADER + n * STEP + DATA, len);
        disk.extend(bytes.chunks(512).map(filled_with));
    }
    disk
}

/// The overlay as a process would find it that comes after this one was killed.
fn after_a_kill(bed: &Bed, overlay: &str) -> Vec<u8> {
    let copy = bed.directory.path().join("copy");
    std::fs::copy(bed.directory.path().join(overlay), &copy).unwrap();
    let overlay = bed.open(&copy).unwrap();
    let disk = bed.read(&overlay, Sectors::ALL);
    drop(overlay);
    std::fs::remove_file(copy).unwrap();
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Batches of writes that share blocks and no sector are in flight at the same time; a flush keeps them.
    #[test]
    fn requests_in_flight_lose_no_neighbour(
        batches in vec((vec(1..6_u64, 8..20), 0..20_u64, any::<bool>()), 1..5),
    ) {
        let bed = Bed::new();
        for engine in engines() {
            let name = format!("{engine:?}");
            let mut guest = guest(&drive(&bed, &name, engine));
            let mut disk = base_disk();
            for (round, (counts, start, is_flushed)) in (1..).zip(&batches) {
                let (mut first, mut n) = (*start, 0);
                for count in counts {
                    let sectors = Sectors { first, count: (*count).min(SECTORS - first) };
                    if sectors.count == 0 {
                        break;
                    }
                    let byte = round * 20 + u8::try_from(n).unwrap();
                    add(&mut guest, n, WRITE, sectors, byte);
                    disk[sectors.indices()].fill(byte);
                    (first, n) = (first + sectors.count, n + 1);
                }
                if *is_flushed {
                    add(&mut guest, n, FLUSH, Sectors { first: 0, count: 0 }, 0);
                    n += 1;
                }
                finish(&mut guest, n);
                if *is_flushed {
                    prop_assert_eq!(after_a_kill(&bed, &name), &disk[..]);
                }
            }
            prop_assert_eq!(read_all(&mut guest), disk);
        }
    }
}

#[test]
fn flush_that_came_back_kept_the_writes_before_it() {
    const PAIRS: u64 = 8;
    let bed = Bed::new();
    for engine in engines() {
        for round in 1..25_u64 {
            let name = format!("{engine:?}{round}");
            let mut guest = guest(&drive(&bed, &name, engine));
            let byte = round.to_le_bytes()[0];
            // New blocks, whole or not.
            let piece = |n: u64| Sectors {
                first: (round + n) % 12 * 8,
                count: if (round + n).is_multiple_of(3) { 3 } else { 8 },
            };
            let mut flushes = Vec::new();
            for n in 0..PAIRS {
                add(&mut guest, 2 * n, WRITE, piece(n), byte);
                let nothing = Sectors { first: 0, count: 0 };
                flushes.push(add(&mut guest, 2 * n + 1, FLUSH, nothing, 0));
            }
            let mut done = 0;
            while done < 2 * PAIRS {
                guest.kick().unwrap();
                let used = guest.queues[0].take_used();
                done += used.len() as u64;
                let flushed = used
                    .iter()
                    .filter_map(|(head, _)| flushes.iter().position(|flush| flush == head));
                let Some(last) = flushed.max() else {
                    continue;
                };
                let disk = after_a_kill(&bed, &name);
                for n in 0..=last as u64 {
                    let kept = &disk[piece(n).indices()];
                    assert!(kept.iter().all(|kept| *kept == byte), "{engine:?} {n}");
                }
            }
        }
    }
}

/// Copying the rest of a block that a write is about to bring would undo that write.
#[test]
fn part_of_a_block_waits_for_the_write_that_brings_it() {
    let bed = Bed::new();
    for engine in engines() {
        let block = open(&drive(&bed, &format!("{engine:?}"), engine)).unwrap();
        let metrics = block.metrics();
        let mut guest = FakeGuest::running(Box::new(block), FLUSH_FEATURE);
        let mut disk = base_disk();
        for (n, (first, count, byte)) in (0..).zip([(8, 16, 1), (12, 1, 2), (20, 4, 3), (24, 8, 4)])
        {
            let sectors = Sectors { first, count };
            add(&mut guest, n, WRITE, sectors, byte);
            disk[sectors.indices()].fill(byte);
        }
        finish(&mut guest, 4);
        assert_eq!(metrics.overlay_copied_blocks.get(), 0);
        assert_eq!(read_all(&mut guest), disk);
        add(
            &mut guest,
            0,
            WRITE,
            Sectors {
                first: 33,
                count: 20,
            },
            5,
        );
        finish(&mut guest, 1);
        assert_eq!(metrics.overlay_copied_blocks.get(), 2);
    }
}

#[test]
fn two_drives_on_one_base_do_not_see_each_other() {
    let bed = Bed::new();
    let before = std::fs::read(bed.base.path()).unwrap();
    for engine in engines() {
        let mut guests =
            ["a", "b"].map(|name| guest(&drive(&bed, &format!("{name}{engine:?}"), engine)));
        for (byte, guest) in (1..).zip(&mut guests) {
            let first = u64::from(byte) * 10;
            add(guest, 0, WRITE, Sectors { first, count: 12 }, byte);
            finish(guest, 1);
        }
        for (byte, guest) in (1..).zip(&mut guests) {
            let mut disk = base_disk();
            let first = usize::from(byte) * 10;
            disk[first..first + 12].fill(byte);
            assert_eq!(read_all(guest), disk);
        }
    }
    assert!(std::fs::read(bed.base.path()).unwrap() == before);
}

#[test]
fn driver_that_does_not_flush_loses_nothing_with_the_monitor() {
    let bed = Bed::new();
    for engine in engines() {
        let name = format!("{engine:?}");
        let drive = drive(&bed, &name, engine);
        let mut guest = FakeGuest::running(Box::new(open(&drive).unwrap()), 0);
        let mut disk = base_disk();
        for (n, (first, count)) in (0..).zip([(0, 8), (11, 3), (20, 12), (90, 9)]) {
            let sectors = Sectors { first, count };
            add(&mut guest, n, WRITE, sectors, 9);
            disk[sectors.indices()].fill(9);
        }
        finish(&mut guest, 4);
        assert_eq!(after_a_kill(&bed, &name), disk);
    }
}

fn patch(guest: &FakeGuest, drive: &Drive, patch: &DrivePatch) -> Result<(), DiskError> {
    let change = BlockChange::prepare(drive, patch)?;
    guest.transport.slot().pause();
    let changed = guest.transport.slot().change(|device| {
        let device: &mut dyn std::any::Any = device;
        device.downcast_mut::<Block>().unwrap().change(change)
    });
    assert!(matches!(changed, Some(Changed::Configuration(Some(_)))));
    guest.transport.slot().resume();
    Ok(())
}

#[test]
fn patch_gives_a_new_overlay_and_the_old_one_keeps_its_writes() {
    let bed = Bed::new();
    let other = NamedTempFile::new().unwrap();
    other.as_file().set_len(DISK).unwrap();
    for engine in engines() {
        let old = format!("old{engine:?}");
        let drive = drive(&bed, &old, engine);
        let mut guest = guest(&drive);
        add(
            &mut guest,
            0,
            WRITE,
            Sectors {
                first: 3,
                count: 20,
            },
            5,
        );
        finish(&mut guest, 1);
        let nothing = DrivePatch {
            drive_id: drive.drive_id.clone(),
            path_on_host: None,
            overlay_path: None,
            lower_overlay_paths: None,
            seal_overlay: false,
            rate_limiter: None,
        };
        let base_alone = DrivePatch {
            path_on_host: Some(other.path().to_owned()),
            ..nothing.clone()
        };
        let error = patch(&guest, &drive, &base_alone).unwrap_err().to_string();
        assert!(error.contains("a new `overlay_path`"), "{error}");
        let same = DrivePatch {
            overlay_path: drive.overlay_path.clone(),
            ..nothing.clone()
        };
        let error = patch(&guest, &drive, &same).unwrap_err().to_string();
        assert!(error.contains("in use by this drive"), "{error}");

        let new = |name: String| Some(bed.directory.path().join(name));
        let fresh = DrivePatch {
            overlay_path: new(format!("new{engine:?}")),
            ..nothing.clone()
        };
        patch(&guest, &drive, &fresh).unwrap();
        assert_eq!(read_all(&mut guest), base_disk());
        assert_eq!(after_a_kill(&bed, &old)[3..23], [5; 20]);
        let both = DrivePatch {
            overlay_path: new(format!("zeros{engine:?}")),
            ..base_alone
        };
        patch(&guest, &drive, &both).unwrap();
        assert_eq!(read_all(&mut guest), [0; 99]);
    }
}

/// Seals the drives of `guests` at one instant, as the monitor does it. False when one could not be, and then none is.
fn seal(guests: &mut [(&mut FakeGuest, Drive)], fresh: &[PathBuf]) -> bool {
    let mut sealings: Vec<_> = guests
        .iter()
        .zip(fresh)
        .map(|((_, drive), fresh)| Sealing::prepare(drive, fresh).unwrap())
        .collect();
    let on_block = |guest: &FakeGuest, work: &mut dyn FnMut(&mut Block)| {
        let changed = guest.transport.slot().change(|device| {
            let device: &mut dyn std::any::Any = device;
            work(device.downcast_mut().unwrap());
        });
        changed.unwrap();
    };
    for (guest, _) in &*guests {
        guest.transport.slot().pause();
    }
    let mut sealed = 0;
    for ((guest, _), sealing) in guests.iter().zip(&mut sealings) {
        on_block(guest, &mut |block| {
            sealed += usize::from(block.seal(sealing).is_ok());
        });
    }
    let is_done = sealed == guests.len();
    for ((guest, drive), (sealing, fresh)) in guests.iter_mut().zip(sealings.into_iter().zip(fresh))
    {
        let mut sealing = Some(sealing);
        on_block(guest, &mut |block| {
            let sealing = sealing.take().unwrap();
            if is_done {
                drop(block.restack(sealing));
            } else {
                block.unseal(&sealing);
            }
        });
        if is_done {
            *drive = drive.restacked(fresh.clone());
        }
    }
    for (guest, _) in &*guests {
        guest.transport.slot().resume();
    }
    is_done
}

/// Writes are in flight when each seal is asked for.
#[test]
fn seal_loses_and_doubles_no_write() {
    let bed = Bed::new();
    for (cache, features) in [
        (CacheType::Writeback, FLUSH_FEATURE),
        (CacheType::Unsafe, 0),
    ] {
        for engine in engines() {
            let name = |n: u64| format!("{engine:?}{cache:?}{n}");
            let mut drive = Drive {
                cache_type: cache,
                ..drive(&bed, &name(0), engine)
            };
            let mut guest = FakeGuest::running(Box::new(open(&drive).unwrap()), features);
            let mut disk = base_disk();
            for round in 1..10_u64 {
                let byte = round.to_le_bytes()[0];
                for n in 0..6 {
                    let sectors = Sectors {
                        first: (round * 7 + n * 11) % 90,
                        count: 5,
                    };
                    add(&mut guest, n, WRITE, sectors, byte);
                    disk[sectors.indices()].fill(byte);
                }
                let mut one = [(&mut guest, drive)];
                let fresh = bed.directory.path().join(name(round));
                assert!(seal(&mut one, &[fresh]));
                let [(_, sealed)] = one;
                drive = sealed;
                finish(&mut guest, 6);
                assert_eq!(read_all(&mut guest), disk, "{engine:?} {round}");
            }
            drop(guest);
            let mut guest = FakeGuest::running(Box::new(open(&drive).unwrap()), features);
            assert_eq!(read_all(&mut guest), disk, "{engine:?}");
        }
    }
}

#[test]
fn drives_are_sealed_together_or_not_at_all() {
    let bed = Bed::new();
    let path = |name: &str| bed.directory.path().join(name);
    let drives = ["a", "b"].map(|name| drive(&bed, name, BlockEngine::Sync));
    let [mut a, mut b] = [guest(&drives[0]), guest(&drives[1])];
    for (byte, guest) in [(1, &mut a), (2, &mut b)] {
        add(guest, 0, WRITE, Sectors { first: 3, count: 9 }, byte);
        finish(guest, 1);
    }
    // The second is not where it was named.
    let [first, second] = drives;
    std::fs::rename(path("b"), path("moved")).unwrap();
    drop(bed.open(&path("b")).unwrap());
    let fresh = [path("a1"), path("b1")];
    let mut guests = [(&mut a, first), (&mut b, second)];
    assert!(!seal(&mut guests, &fresh));
    std::fs::rename(path("moved"), path("b")).unwrap();
    assert!(seal(&mut guests, &fresh));
    let [(_, first), (_, second)] = guests;
    for (byte, guest, drive) in [(1, a, first), (2, b, second)] {
        assert_eq!(drive.lower_overlay_paths.len(), 1);
        drop(guest);
        let mut guest = super::device::guest(&drive);
        assert_eq!(read_all(&mut guest)[3..12], [byte; 9]);
    }
}

#[test]
fn guest_is_told_of_the_overlays_blocks() {
    let bed = Bed::new();
    let block = open(&drive(&bed, "overlay", BlockEngine::Sync)).unwrap();
    let space = block.config_space();
    assert_eq!(space[..8], SECTORS.to_le_bytes());
    // Blocks of eight sectors.
    assert_eq!((space[24], space[26]), (3, 8));
    let read_only = Drive {
        is_read_only: Some(true),
        ..drive(&bed, "another", BlockEngine::Sync)
    };
    let error = open(&read_only).err().unwrap().to_string();
    assert!(
        error.contains("`overlay_path` is for what the guest writes"),
        "{error}"
    );
    assert!(!bed.directory.path().join("another").exists());
}

#[test]
fn requests_do_not_allocate() {
    let bed = Bed::new();
    for engine in engines() {
        for features in [0, FLUSH_FEATURE] {
            let name = format!("{engine:?}{features}");
            let mut drive = drive(&bed, &name, engine);
            // With layers below, each with a block of four; the base has the fourth.
            for n in 0..3_u64 {
                let backend = Backend::open(&drive, LockWait::Second).unwrap();
                let overlay = backend.overlay().unwrap();
                for block in [n, n + 4, n + 8] {
                    let sectors = Sectors {
                        first: block * 8,
                        count: 8,
                    };
                    bed.write(overlay, sectors, 1);
                }
                let fresh = bed.directory.path().join(format!("{name}{n}"));
                let mut sealing = Sealing::prepare(&drive, &fresh).unwrap();
                sealing.seal(overlay).unwrap();
                drive = drive.restacked(fresh);
            }
            let mut bench = Bench::new(&mut open(&drive).unwrap(), features);
            let mut once = |kind: u8, sector: u8, data: Buffer| {
                let header = [kind, 0, 0, 0, 0, 0, 0, 0, sector, 0];
                bench
                    .memory
                    .write_slice(&header, GuestAddress(HEADER))
                    .unwrap();
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
                    allocations += bench.allocations_of(2);
                    done += bench.drivers[0].take_used().len();
                }
                allocations
            };
            let read = Buffer::Writable(0x8_0000, 4096);
            let write = Buffer::Readable(0x8_0000, 1536);
            for sector in 2..90 {
                // A block that is there and one that is not: the read is in two parts.
                let spent = [
                    once(WRITE, sector, write),
                    once(READ, sector, read),
                    once(FLUSH, 0, write),
                ];
                // Each of the lists that are reused has had its first request by then.
                if sector > 40 {
                    assert_eq!(spent, [0; 3], "{engine:?} {sector}");
                }
            }
        }
    }
}

mod suite {
    use super::*;
    use crate::testing::suite::device_suite;

    device_suite!({
        let bed = Bed::new();
        let engine = engines().pop().unwrap();
        Box::new(open(&drive(&bed, "overlay", engine)).unwrap()) as Box<dyn VirtioDevice>
    });
}
