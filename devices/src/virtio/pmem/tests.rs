//! Flushes, well-formed and otherwise.

use std::time::{Duration, Instant};

use vm_config::{DeviceId, TokenBucket};

use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};

const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x2000;
const FILE_LEN: u64 = 4096;

fn backing(file: File) -> Backing {
    Backing {
        file,
        file_len: FILE_LEN,
        start: GuestAddress(1 << 32),
        len: 2 << 20,
        lost: Arc::default(),
    }
}

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(FILE_LEN).unwrap();
    file
}

fn pmem() -> Box<Pmem> {
    Box::new(Pmem::new(backing(file()), None))
}

device_suite!(pmem());

/// One request and its answer.
const BUFFERS: [Buffer; 2] = [Buffer::Readable(REQUEST, 4), Buffer::Writable(ANSWER, 4)];

fn ask(guest: &mut FakeGuest, kind: u32, buffers: &[Buffer]) -> (u32, Vec<u8>) {
    guest.poke(REQUEST, &kind.to_le_bytes());
    guest.poke(ANSWER, &[7; 4]);
    guest.queues[0].add(buffers);
    guest.kick().unwrap();
    let used = guest.queues[0].take_used();
    assert_eq!(used.len(), 1);
    (used[0].1, guest.peek(ANSWER, 4))
}

#[test]
fn configuration_tells_place_and_size() {
    let guest = FakeGuest::new(pmem());
    let words = [0x100, 0x104, 0x108, 0x10c].map(|at| guest.read(at));
    assert_eq!(words, [0, 1, 2 << 20, 0]);
}

#[test]
fn a_flush_is_answered() {
    let mut guest = FakeGuest::running(pmem(), 0);
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0; 4]));
    assert_eq!(guest.irq.take(), 1);
}

#[test]
fn anything_else_fails_or_is_given_back_untouched() {
    let mut guest = FakeGuest::running(pmem(), 0);
    let [readable, answer] = BUFFERS;
    assert_eq!(ask(&mut guest, 1, &[readable, answer]), (4, vec![0xff; 4]));
    let short = [Buffer::Readable(REQUEST, 3), answer];
    assert_eq!(ask(&mut guest, 0, &short), (4, vec![0xff; 4]));
    let no_room = [readable, Buffer::Writable(ANSWER, 3)];
    assert_eq!(ask(&mut guest, 0, &no_room), (0, vec![7; 4]));
    assert_eq!(ask(&mut guest, 0, &[readable]), (0, vec![7; 4]));
}

#[test]
fn a_file_that_cannot_be_flushed_fails() {
    let (_, pipe) = std::io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
    let device = Pmem::new(backing(pipe), None);
    let mut guest = FakeGuest::running(Box::new(device), 0);
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0xff; 4]));
}

#[test]
fn flushes_fail_while_the_file_is_shorter_than_it_was() {
    let file = file();
    let outside = file.try_clone().unwrap();
    let mut guest = FakeGuest::running(Box::new(Pmem::new(backing(file), None)), 0);
    outside.set_len(FILE_LEN - 1).unwrap();
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0xff; 4]));
    outside.set_len(FILE_LEN).unwrap();
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0; 4]));
}

#[test]
fn one_flush_fails_after_a_write_that_was_lost() {
    let backing = backing(file());
    let lost = Arc::clone(&backing.lost);
    let device = Pmem::new(backing, None);
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let mut read = [7; 8];
    lost.read(0, &mut read);
    assert_eq!(read, [0; 8]);
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0; 4]));
    lost.write(0, &[1]);
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0xff; 4]));
    assert_eq!(metrics.event_fails.get(), 1);
    assert_eq!(ask(&mut guest, 0, &BUFFERS), (4, vec![0; 4]));
}

/// One flush in `refill_ms`, and as many bytes as are needed.
fn limits(refill_ms: u64) -> RateLimiter {
    RateLimiter {
        bandwidth: None,
        ops: Some(TokenBucket {
            size: 1,
            one_time_burst: None,
            refill_time: refill_ms,
        }),
    }
}

#[test]
fn flushes_of_one_turn_cost_one_operation_and_the_next_wait() {
    let device = Pmem::new(backing(file()), Some(limits(300)));
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    for _ in 0..200 {
        guest.queues[0].add(&BUFFERS);
    }
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), 200);

    let begin = Instant::now();
    let heads: Vec<_> = (0..3).map(|_| guest.queues[0].add(&BUFFERS)).collect();
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used(), []);
    assert_eq!(metrics.rate_limiter_throttled_events.get(), 1);
    let mut used = Vec::new();
    while used.is_empty() && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
        guest.workers.turn().unwrap();
        used = guest.queues[0].take_used();
    }
    let order: Vec<_> = used.iter().map(|(head, _)| *head).collect();
    assert_eq!(order, heads, "in the driver's order");
}

#[test]
fn a_flush_costs_the_bytes_of_the_file() {
    let bandwidth = |size| RateLimiter {
        bandwidth: Some(TokenBucket {
            size,
            one_time_burst: None,
            refill_time: 3_600_000,
        }),
        ops: None,
    };
    for (size, flushes) in [(FILE_LEN, 1), (3 * FILE_LEN - 1, 2)] {
        let device = Pmem::new(backing(file()), Some(bandwidth(size)));
        let mut guest = FakeGuest::running(Box::new(device), 0);
        let mut done = 0;
        for _ in 0..4 {
            guest.queues[0].add(&BUFFERS);
            guest.kick().unwrap();
            done += guest.queues[0].take_used().len();
        }
        assert_eq!(done, flushes, "{size}");
    }
}

#[test]
fn limits_are_replaced_and_taken_away() {
    let mut device = Pmem::new(backing(file()), Some(limits(3_600_000)));
    let patch = |rate_limiter| PmemPatch {
        id: DeviceId("p".to_owned()),
        rate_limiter,
    };
    let flushes = |device: &mut Pmem| {
        let mut bench = Bench::new(device, 1 << 32);
        (0..3)
            .map(|_| {
                bench.drivers[0].add(&BUFFERS);
                bench.show(KICK);
                bench.drivers[0].take_used().len()
            })
            .sum::<usize>()
    };
    assert_eq!(flushes(&mut device), 1);
    let _: Changed<()> = device.change(&patch(None));
    assert_eq!(
        flushes(&mut device),
        1,
        "nothing changed, nothing came back"
    );
    let _: Changed<()> = device.change(&patch(Some(limits(0))));
    assert_eq!(flushes(&mut device), 3);
}

#[test]
fn flushing_allocates_nothing() {
    let mut bench = Bench::new(&mut *pmem(), 1 << 32);
    let mut counts = [0; 3];
    for count in &mut counts {
        bench.drivers[0].add(&BUFFERS);
        *count = bench.allocations_of(0);
    }
    assert_eq!(counts[1..], [0, 0]);
}
