//! What a driver and a reader see of the console.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use vm_config::TokenBucket;

use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};
use crate::virtio::transport::Transport;

/// A console, and the end where its output comes out.
fn console() -> (Console, UnixStream) {
    let (reader, end) = UnixStream::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    (on(end), reader)
}

fn on(end: UnixStream) -> Console {
    Console::on(Output::fake(end), &config("/unused"))
}

fn config(path: impl Into<PathBuf>) -> ConsoleConfig {
    ConsoleConfig {
        output_path: path.into(),
        rate_limiter: None,
    }
}

/// All that came out until now.
fn read(mut reader: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Ends with `WouldBlock`; what came before is kept.
    let _ = reader.read_to_end(&mut bytes);
    bytes
}

/// Bytes that repeat only after a long while.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250)
        .cycle()
        .zip((0..=u8::MAX).flat_map(|high| [high; 256]).cycle())
        .map(|(low, high): (u8, u8)| low ^ high)
        .take(len)
        .collect()
}

#[test]
fn chains_come_out_in_order_with_nothing_between() {
    let (device, reader) = console();
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    guest.poke(0x1000, b"hello, ");
    guest.poke(0x2000, b"world\n");
    let first = guest.queues[1].add(&[Buffer::Readable(0x1000, 7), Buffer::Readable(0x2000, 3)]);
    let second = guest.queues[1].add(&[Buffer::Readable(0x2003, 3)]);
    guest.kick().unwrap();
    assert_eq!(read(&reader), b"hello, world\n");
    assert_eq!(guest.queues[1].take_used(), [(first, 0), (second, 0)]);
    assert_eq!(guest.irq.take(), 1);
    assert_eq!(metrics.tx_count.get(), 2);
    assert_eq!(metrics.tx_bytes_count.get(), 13);
}

#[test]
fn the_last_of_what_was_written_is_kept() {
    let (device, _reader) = console();
    let tail = Arc::clone(&device.tail);
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let long = pattern(3 * TAIL_BYTES);
    guest.poke(0x1000, &long);
    let len = u32::try_from(long.len()).unwrap();
    guest.queues[1].add(&[Buffer::Readable(0x1000, len)]);
    guest.queues[1].add(&[Buffer::Readable(0x1000, 5), Buffer::Readable(0x1005, 4)]);
    guest.kick().unwrap();
    let written = tail.written();
    assert_eq!(written.count, u64::from(len) + 9);
    let all = [&long[..], &long[..9]].concat();
    assert!(written.tail == all[all.len() - TAIL_BYTES..]);
}

#[test]
fn full_output_holds_chains_in_the_ring_until_there_is_room() {
    let (device, reader) = console();
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let bytes = pattern(1 << 20);
    guest.poke(0, &bytes);
    for part in 0..16 {
        guest.queues[1].add(&[Buffer::Readable(part << 16, 1 << 16)]);
    }
    let (mut seen, mut used) = (Vec::new(), 0);
    for _ in 0..100 {
        guest.kick().unwrap();
        used += guest.queues[1].take_used().len();
        seen.extend(read(&reader));
    }
    assert_eq!(used, 16);
    assert!(seen == bytes, "{} bytes came out", seen.len());
    assert!(metrics.tx_full_count.get() > 0);
    assert_eq!(metrics.tx_dropped_bytes.get(), 0);
    assert_eq!(metrics.tx_count.get(), 16);
}

#[test]
fn a_pause_in_the_middle_of_a_chain_repeats_nothing() {
    let (device, reader) = console();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let bytes = pattern(1 << 20);
    guest.poke(0, &bytes);
    guest.queues[1].add(&[Buffer::Readable(0, 1 << 20)]);
    let mut seen = Vec::new();
    for _ in 0..100 {
        guest.kick().unwrap();
        guest.transport.slot().pause();
        guest.transport.slot().resume();
        seen.extend(read(&reader));
    }
    assert!(seen == bytes, "{} bytes came out", seen.len());
    assert_eq!(guest.queues[1].take_used().len(), 1);
}

#[test]
fn a_reset_in_the_middle_of_a_chain_forgets_it() {
    let (device, reader) = console();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    guest.poke(0, &pattern(1 << 20));
    guest.queues[1].add(&[Buffer::Readable(0, 1 << 20)]);
    guest.kick().unwrap();
    assert!(guest.queues[1].take_used().is_empty());
    read(&reader);
    guest.write(0x70, 0);
    guest.start(0);
    guest.poke(0x1000, b"new");
    guest.queues[1].add(&[Buffer::Readable(0x1000, 3)]);
    guest.kick().unwrap();
    assert_eq!(read(&reader), b"new");
}

#[test]
fn a_turn_is_bounded_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let device = Console::open(&config(&path)).unwrap();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    guest.queues[1].add(&[Buffer::Readable(0, 0x10_0000)]);
    let len = || std::fs::read(&path).unwrap().len();
    // A file is no source of events, so that each turn of the loop is one of the device.
    guest.kick().unwrap();
    assert_eq!(len(), TURN_BYTES);
    for _ in 0..3 {
        guest.workers.turn().unwrap();
    }
    assert_eq!(len(), 0x10_0000);
    assert_eq!(guest.queues[1].take_used().len(), 1);
    for _ in 0..TURN + 1 {
        guest.queues[1].add(&[Buffer::Readable(0, 1)]);
    }
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used().len(), TURN);
    guest.workers.turn().unwrap();
    assert_eq!(guest.queues[1].take_used().len(), 1);
}

#[test]
fn output_over_the_limit_waits_in_the_ring() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let limited = ConsoleConfig {
        rate_limiter: Some(TokenBucket {
            size: 100,
            one_time_burst: None,
            refill_time: 3_600_000,
        }),
        ..config(&path)
    };
    let device = Console::open(&limited).unwrap();
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    for _ in 0..4 {
        guest.queues[1].add(&[Buffer::Readable(0, 40)]);
    }
    for _ in 0..3 {
        guest.kick().unwrap();
    }
    assert_eq!(guest.queues[1].take_used().len(), 2);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 80);
    assert_eq!(metrics.rate_limiter_throttled_events.get(), 1);
}

#[test]
fn what_the_host_refuses_is_counted_and_the_guest_goes_on() {
    let (device, reader) = console();
    let metrics = device.metrics();
    drop(reader);
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let head = guest.queues[1].add(&[Buffer::Readable(0, 100)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used(), [(head, 0)]);
    assert_eq!(metrics.tx_dropped_bytes.get(), 100);
    assert_eq!(metrics.tx_bytes_count.get(), 0);
}

#[test]
fn a_chain_with_something_to_write_is_refused_whole() {
    let (device, reader) = console();
    let metrics = device.metrics();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    let head = guest.queues[1].add(&[Buffer::Readable(0, 8), Buffer::Writable(0x1000, 8)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used(), [(head, 0)]);
    assert_eq!(metrics.tx_malformed.get(), 1);
    assert!(read(&reader).is_empty());
}

#[test]
fn buffers_for_input_stay_with_the_device() {
    let (device, _reader) = console();
    let mut guest = FakeGuest::running(Box::new(device), 0);
    guest.queues[0].add(&[Buffer::Writable(0, 8)]);
    guest.kick().unwrap();
    assert!(guest.queues[0].take_used().is_empty());
}

#[test]
fn output_allocates_nothing() {
    let (mut device, reader) = console();
    let mut bench = Bench::new(&mut device, 0);
    let chain = [Buffer::Readable(0x1000, 64), Buffer::Readable(0x2000, 64)];
    bench.drivers[1].add(&chain);
    bench.allocations_of(KICK.0);
    bench.drivers[1].add(&chain);
    assert_eq!(bench.allocations_of(KICK.0), 0);
    assert_eq!(bench.drivers[1].take_used().len(), 2);
    assert_eq!(read(&reader).len(), 256);
}

device_suite!(Box::new(on(UnixStream::pair().unwrap().1)));
