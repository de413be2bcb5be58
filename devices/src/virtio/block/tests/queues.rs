//! Several queues, with both engines.

use vm_config::BlockEngine;

use super::*;
use crate::testing::guest::{Guest as _, QUEUES_AT, RUNNING};
use crate::testing::{FakeDriver, engines};

const QUEUES: u16 = 4;
/// Where the buffers of request `n` lie.
const STEP: u64 = 0x1000;
const AT: u64 = 0x1_0000;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 4;

fn many(image: &NamedTempFile, engine: BlockEngine) -> Drive {
    Drive {
        num_queues: Some(QUEUES),
        io_engine: Some(engine),
        cache_type: CacheType::Writeback,
        ..drive(image)
    }
}

/// Makes request `n` available in a queue. Returns its head.
fn add(guest: &mut FakeGuest, queue: usize, n: u64, kind: u8, sector: u64) -> u16 {
    let at = AT + n * STEP;
    let mut header = [0; 16];
    header[0] = kind;
    header[8..].copy_from_slice(&sector.to_le_bytes());
    guest.poke(at, &header);
    guest.poke(at + 0x800, &[UNWRITTEN]);
    let data = match kind {
        READ => Some(Buffer::Writable(at + 0x10, 512)),
        WRITE => Some(Buffer::Readable(at + 0x10, 512)),
        _ => None,
    };
    let mut buffers = vec![Buffer::Readable(at, 16)];
    buffers.extend(data);
    buffers.push(Buffer::Writable(at + 0x800, 1));
    guest.queues[queue].add(&buffers)
}

/// Turns the loop until so many heads came back in each queue.
fn wait_for(guest: &mut FakeGuest, counts: &[usize]) -> Vec<Vec<u16>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut heads = vec![Vec::new(); counts.len()];
    while heads.iter().map(Vec::len).ne(counts.iter().copied()) {
        assert!(Instant::now() < deadline, "{heads:?} of {counts:?}");
        guest.kick().unwrap();
        for (heads, queue) in heads.iter_mut().zip(&mut guest.queues) {
            heads.extend(queue.take_used().into_iter().map(|used| used.0));
        }
    }
    heads
}

#[test]
fn driver_is_told_how_many_there_are() {
    let image = image();
    for (asked, has_feature, told) in [
        (None, false, 0),
        (Some(1), false, 0),
        (Some(2), true, 2),
        (Some(32), true, 32),
    ] {
        let block = open(&Drive {
            num_queues: asked,
            ..drive(&image)
        });
        let block = block.unwrap();
        assert_eq!(block.features & 1 << 12 != 0, has_feature);
        assert_eq!(block.config_space()[34..36], [told, 0]);
        let sizes = vec![256; asked.unwrap_or(1).into()];
        assert_eq!(block.traits().queue_sizes, sizes);
    }
    for wrong in [0, 33, u16::MAX] {
        let refused = open(&Drive {
            num_queues: Some(wrong),
            ..drive(&image)
        });
        let text = refused.err().unwrap().to_string();
        let words = format!("num_queues {wrong} is out of range [1, 32]");
        assert!(text.contains(&words), "{text}");
    }
}

#[test]
fn heads_come_back_in_their_own_queue_with_their_own_data() {
    let image = image();
    for engine in engines() {
        let mut guest = FakeGuest::running(Box::new(open(&many(&image, engine)).unwrap()), 0);
        for round in 0..20 {
            let mut heads = vec![Vec::new(); 4];
            for n in 0..40_u64 {
                let queue = usize::try_from(n * n % 4).unwrap();
                heads[queue].push(add(&mut guest, queue, n, READ, (n + round) % SECTORS));
            }
            let counts: Vec<usize> = heads.iter().map(Vec::len).collect();
            let mut back = wait_for(&mut guest, &counts);
            back.iter_mut().for_each(|heads| heads.sort_unstable());
            heads.iter_mut().for_each(|heads| heads.sort_unstable());
            assert_eq!(back, heads);
            for n in 0..40 {
                let byte = ((n + round) % SECTORS).to_le_bytes()[0];
                assert_eq!(guest.peek(AT + n * STEP + 0x10, 512), [byte; 512]);
                assert_eq!(guest.peek(AT + n * STEP + 0x800, 1), [0]);
            }
        }
    }
}

#[test]
fn driver_may_use_some_of_the_queues() {
    let image = image();
    for engine in engines() {
        let block = open(&many(&image, engine)).unwrap();
        let mut guest = FakeGuest::new(Box::new(block));
        guest.negotiate(0);
        let mut driver = FakeDriver::new(&guest.memory, QUEUES_AT, 256);
        driver.reset();
        guest.enable(2, &driver.state());
        guest.set_status(RUNNING);
        guest.queues = vec![driver];
        add(&mut guest, 0, 0, READ, 9);
        wait_for(&mut guest, &[1]);
        assert_eq!(guest.peek(AT + 0x10, 512), [9; 512]);
    }
}

#[test]
fn busy_queue_leaves_room_for_the_others() {
    let image = image();
    let drive = many(&image, BlockEngine::Sync);
    let mut guest = FakeGuest::running(Box::new(open(&drive).unwrap()), 0);
    // Each flush takes a whole turn.
    for n in 0..20 {
        add(&mut guest, 0, n, FLUSH, 0);
    }
    add(&mut guest, 3, 20, READ, 7);
    for _ in 0..4 {
        guest.workers.turn().unwrap();
    }
    assert_eq!(guest.queues[3].take_used().len(), 1);
    // Short requests share a turn.
    for n in 21..150 {
        add(&mut guest, 1, n, READ, 0);
    }
    add(&mut guest, 2, 150, READ, 7);
    wait_for(&mut guest, &[20, 129, 1, 0]);
}

#[test]
fn flush_comes_back_after_the_writes_of_all_queues() {
    let image = image();
    for engine in engines() {
        let mut guest = FakeGuest::running(Box::new(open(&many(&image, engine)).unwrap()), 0);
        for round in 1..30_u8 {
            for n in 0..12 {
                guest.poke(AT + n * STEP + 0x10, &[round; 512]);
                add(&mut guest, usize::try_from(n % 3).unwrap(), n, WRITE, n);
            }
            // Queue 3 is the last of a round that begins with queue 0.
            add(&mut guest, 3, 12, FLUSH, 0);
            wait_for(&mut guest, &[4, 4, 4, 1]);
            let mut written = [0; 12 * 512];
            image.as_file().read_exact_at(&mut written, 0).unwrap();
            assert_eq!(written, [round; 12 * 512]);
        }
    }
}

#[test]
fn limit_is_that_of_the_drive() {
    const HOUR: u64 = 3_600_000;
    let image = image();
    for engine in engines() {
        let drive = Drive {
            rate_limiter: limited(&image, 0, 5, HOUR).rate_limiter,
            ..many(&image, engine)
        };
        let mut guest = FakeGuest::running(Box::new(open(&drive).unwrap()), 0);
        for n in 0..12 {
            add(&mut guest, usize::try_from(n % 4).unwrap(), n, READ, 0);
        }
        let count = |guest: &mut FakeGuest| {
            let used = guest.queues.iter_mut().map(|queue| queue.take_used().len());
            used.sum::<usize>()
        };
        let mut done = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while done < 5 && Instant::now() < deadline {
            guest.kick().unwrap();
            done += count(&mut guest);
        }
        for _ in 0..20 {
            guest.kick().unwrap();
        }
        assert_eq!(done + count(&mut guest), 5);
    }
}

#[test]
fn pause_waits_for_what_is_in_flight_in_all_queues() {
    let image = image();
    for engine in engines() {
        let mut guest = FakeGuest::running(Box::new(open(&many(&image, engine)).unwrap()), 0);
        for _ in 0..20 {
            for n in 0..32 {
                add(&mut guest, usize::try_from(n % 4).unwrap(), n, WRITE, n);
            }
            guest.kick().unwrap();
            guest.transport.slot().pause();
            let counts = guest.queues.iter_mut().map(|queue| queue.take_used().len());
            assert_eq!(counts.collect::<Vec<_>>(), [8; 4]);
            guest.transport.slot().resume();
        }
    }
}

#[test]
fn requests_in_several_queues_do_not_allocate() {
    let image = image();
    for engine in engines() {
        let mut bench = Bench::new(&mut open(&many(&image, engine)).unwrap(), 0);
        let memory = Arc::clone(&bench.memory);
        memory.write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
        let mut once = || {
            for driver in &mut bench.drivers {
                for _ in 0..4 {
                    driver.add(&[
                        Buffer::Readable(HEADER, 16),
                        Buffer::Writable(DATA, 1024),
                        Buffer::Writable(STATUS, 1),
                    ]);
                }
            }
            let (mut allocations, mut done) = (bench.allocations_of(0), 0);
            while done < 16 {
                for driver in &mut bench.drivers {
                    done += driver.take_used().len();
                }
                if done < 16 {
                    allocations += bench.allocations_of(2);
                }
            }
            allocations
        };
        (0..50).for_each(|_| _ = once());
        assert_eq!((0..50).map(|_| once()).sum::<u64>(), 0);
    }
}

mod one_after_the_other {
    use super::*;

    device_suite!({
        let image = image();
        Box::new(open(&many(&image, BlockEngine::Sync)).unwrap())
    });
}

mod side_by_side {
    use super::*;

    device_suite!({
        let image = image();
        let engine = engines().pop().unwrap();
        Box::new(open(&many(&image, engine)).unwrap())
    });
}
