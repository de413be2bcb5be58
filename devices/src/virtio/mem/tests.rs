//! Requests, granted and otherwise, and what devices may touch after them.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};

use super::request::RESPONSE_LEN;
use super::*;
use crate::GuestMemory;
use crate::memory::{Blocks, GuestRegion};
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};

const START: u64 = 1 << 32;
const BLOCK: u64 = MIB;
const SLOT: u64 = 4 * MIB;
const LEN: u64 = 8 * MIB;

const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x2000;
const BUFFERS: [Buffer; 2] = [Buffer::Readable(REQUEST, 24), Buffer::Writable(ANSWER, 10)];

/// What was asked, for which bytes.
type Asked = (&'static str, Range<u64>);

/// What the source was asked, and whether it refuses.
#[derive(Clone, Default)]
struct FakeSource {
    asked: Arc<Mutex<Vec<Asked>>>,
    is_refusing: Arc<AtomicBool>,
}

impl FakeSource {
    fn note(&self, what: &'static str, range: Range<u64>) -> io::Result<()> {
        self.asked.lock().unwrap().push((what, range));
        match self.is_refusing.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => Ok(()),
        }
    }

    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl BlockSource for FakeSource {
    fn plug(&mut self, range: Range<u64>) -> io::Result<()> {
        self.note("plug", range)
    }

    fn unplug(&mut self, range: Range<u64>) -> io::Result<()> {
        self.note("unplug", range)
    }
}

fn mem_with(blocks: &Arc<Blocks>, source: &FakeSource) -> Mem {
    Mem::new(Region {
        start: GuestAddress(START),
        slot_size: SLOT,
        blocks: Arc::clone(blocks),
        source: Box::new(source.clone()),
    })
}

fn mem() -> Box<Mem> {
    Box::new(mem_with(&Blocks::new(BLOCK, LEN), &FakeSource::default()))
}

device_suite!(mem());

/// A guest with the region in its memory, whose host requests `size_mib`.
fn guest(size_mib: u32) -> (FakeGuest, FakeSource) {
    let blocks = Blocks::new(BLOCK, LEN);
    let source = FakeSource::default();
    let map = |start, len: u64| {
        let len = usize::try_from(len).unwrap();
        GuestRegionMmap::from_range(GuestAddress(start), len, None).unwrap()
    };
    let regions = vec![
        map(0, 4 * MIB).into(),
        GuestRegion::of_blocks(map(START, LEN), Arc::clone(&blocks)),
    ];
    let memory = Arc::new(GuestMemory::from_regions(regions).unwrap());
    let mut mem = mem_with(&blocks, &source);
    mem.request(size_mib).unwrap();
    let mut guest = FakeGuest::with_memory(Box::new(mem), memory);
    guest.start(2);
    (guest, source)
}

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u8 = 0;
const NACK: u8 = 1;
const BUSY: u8 = 2;
const ERROR: u8 = 3;

/// Asks for `count` blocks from `START + at` on; the answer's type and state.
fn ask(guest: &mut FakeGuest, kind: u16, at: u64, count: u16) -> (u8, u8) {
    put_request(guest, kind, START.wrapping_add(at), count);
    guest.poke(ANSWER, &[0x55; RESPONSE_LEN]);
    guest.queues[0].add(&BUFFERS);
    guest.kick().unwrap();
    let used = guest.queues[0].take_used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].1, 10);
    let answer = guest.peek(ANSWER, RESPONSE_LEN);
    (answer[0], answer[8])
}

fn put_request(guest: &FakeGuest, kind: u16, address: u64, count: u16) {
    guest.poke(REQUEST, &u64::from(kind).to_le_bytes());
    guest.poke(REQUEST + 8, &address.to_le_bytes());
    guest.poke(REQUEST + 16, &u64::from(count).to_le_bytes());
}

/// Block size, node, start, region, usable, plugged, requested.
fn config(guest: &FakeGuest) -> [u64; 7] {
    [0, 8, 16, 24, 32, 40, 48].map(|at| {
        let low = u64::from(guest.read(0x100 + at));
        low | u64::from(guest.read(0x104 + at)) << 32
    })
}

#[test]
fn blocks_come_and_go_and_the_configuration_tells() {
    let (mut guest, source) = guest(3);
    assert_eq!(config(&guest), [BLOCK, 0, START, LEN, SLOT, 0, 3 * MIB]);
    assert_eq!(ask(&mut guest, STATE, 0, 4), (ACK, 1));
    assert_eq!(ask(&mut guest, PLUG, BLOCK, 2), (ACK, 0));
    assert_eq!(config(&guest)[5], 2 * MIB);
    assert_eq!(source.take(), [("plug", BLOCK..3 * BLOCK)]);
    assert_eq!(ask(&mut guest, STATE, BLOCK, 2), (ACK, 0));
    assert_eq!(ask(&mut guest, STATE, 0, 2), (ACK, 2));
    assert_eq!(ask(&mut guest, UNPLUG, BLOCK, 1), (ACK, 0));
    assert_eq!(source.take(), [("unplug", BLOCK..2 * BLOCK)]);
    assert_eq!(ask(&mut guest, STATE, BLOCK, 2), (ACK, 2));
    assert_eq!(config(&guest)[4..], [SLOT, MIB, 3 * MIB]);
}

#[test]
fn what_breaks_a_rule_is_an_error_and_changes_nothing() {
    let (mut guest, source) = guest(4);
    assert_eq!(ask(&mut guest, PLUG, BLOCK, 1), (ACK, 0));
    source.take();
    for kind in [PLUG, UNPLUG, STATE] {
        for (at, count) in [
            (1, 1),
            (BLOCK / 2, 1),
            (0, 0),
            (4 * BLOCK, 1),
            (3 * BLOCK, 2),
            (0, u16::MAX),
            (BLOCK.wrapping_neg(), 1),
            (u64::MAX, 1),
            (u64::MAX - START, u16::MAX),
        ] {
            assert_eq!(
                ask(&mut guest, kind, at, count).0,
                ERROR,
                "{kind} {at:#x} {count}"
            );
        }
    }
    assert_eq!(ask(&mut guest, PLUG, BLOCK, 1).0, ERROR, "twice");
    assert_eq!(ask(&mut guest, PLUG, 0, 2).0, ERROR, "over another");
    assert_eq!(ask(&mut guest, UNPLUG, 0, 2).0, ERROR, "more than there is");
    assert_eq!(ask(&mut guest, 7, 0, 1).0, ERROR, "unknown");
    assert_eq!(source.take(), []);
    assert_eq!(config(&guest)[5], BLOCK);
}

#[test]
fn no_more_than_is_requested_is_granted() {
    let (mut guest, source) = guest(2);
    assert_eq!(ask(&mut guest, PLUG, 0, 3), (NACK, 0));
    assert_eq!(ask(&mut guest, PLUG, 0, 2), (ACK, 0));
    assert_eq!(ask(&mut guest, PLUG, 2 * BLOCK, 1), (NACK, 0));
    assert_eq!(source.take(), [("plug", 0..2 * BLOCK)]);
}

#[test]
fn a_host_without_memory_is_busy_and_nothing_is_plugged() {
    let (mut guest, source) = guest(2);
    source.is_refusing.store(true, Ordering::Relaxed);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), (BUSY, 0));
    assert_eq!(ask(&mut guest, STATE, 0, 1), (ACK, 1));
    source.is_refusing.store(false, Ordering::Relaxed);
    assert_eq!(ask(&mut guest, PLUG, 0, 1), (ACK, 0));
    source.is_refusing.store(true, Ordering::Relaxed);
    assert_eq!(ask(&mut guest, UNPLUG, 0, 1), (ACK, 0));
    assert_eq!(ask(&mut guest, STATE, 0, 1), (ACK, 1));
}

#[test]
fn the_usable_part_grows_by_slots_and_shrinks_when_all_is_unplugged() {
    let mut mem = mem();
    let usable = |mem: &mut Mem| {
        mem.refresh_config();
        u64::from_le_bytes(mem.config_space()[32..40].try_into().unwrap())
    };
    for (size_mib, expected) in [
        (0, 0),
        (1, SLOT),
        (4, SLOT),
        (5, LEN),
        (8, LEN),
        (1, LEN),
        (0, LEN),
    ] {
        mem.request(size_mib).unwrap();
        assert_eq!(usable(&mut mem), expected, "{size_mib}");
    }
    for size_mib in [9, u32::MAX] {
        let bytes = u64::from(size_mib) << 20;
        assert_eq!(mem.request(size_mib), Err(MemError::Size { bytes }));
    }
    mem.request(3).unwrap();
    let mut guest = FakeGuest::running(mem, 2);
    assert_eq!(guest.irq.take(), 0);
    assert_eq!(ask(&mut guest, PLUG, 7 * BLOCK, 1), (ACK, 0));
    assert_eq!(guest.irq.take(), 1);
    assert_eq!(ask(&mut guest, UNPLUG_ALL, 0, 0), (ACK, 0));
    assert_eq!(config(&guest)[4..], [SLOT, 0, 3 * MIB]);
    assert_eq!(guest.read(0x60), 3, "used buffer, and configuration");
}

#[test]
fn devices_reach_what_is_plugged_and_nothing_else() {
    let (mut guest, _) = guest(8);
    let memory = Arc::clone(&guest.memory);
    let at = GuestAddress(START + BLOCK);
    assert!(memory.write_obj(1_u8, at).is_err());
    assert_eq!(ask(&mut guest, PLUG, BLOCK, 1), (ACK, 0));
    memory.write_obj(1_u8, at).unwrap();

    // A chain whose answer lies in what goes with it is still answered; the next such chain is no chain.
    put_request(&guest, UNPLUG, START + BLOCK, 1);
    let inside = [
        Buffer::Readable(REQUEST, 24),
        Buffer::Writable(START + BLOCK, 10),
    ];
    for len in [10, 0] {
        guest.queues[0].add(&inside);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used()[0].1, len);
    }
    assert!(memory.write_obj(1_u8, at).is_err());
}

#[test]
fn requests_without_room_for_an_answer_are_not_done() {
    let (mut guest, source) = guest(8);
    put_request(&guest, PLUG, START, 1);
    for buffers in [
        [Buffer::Readable(REQUEST, 24), Buffer::Writable(ANSWER, 9)],
        [Buffer::Readable(REQUEST, 23), Buffer::Writable(ANSWER, 10)],
    ] {
        guest.queues[0].add(&buffers);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used()[0].1, 0);
    }
    assert_eq!(source.take(), []);
}

#[test]
fn what_is_plugged_stays_when_the_driver_resets_the_device() {
    let (mut guest, source) = guest(2);
    assert_eq!(ask(&mut guest, PLUG, 0, 2), (ACK, 0));
    source.take();
    guest.write(0x70, 0);
    guest.start(2);
    assert_eq!(config(&guest)[5], 2 * BLOCK);
    assert_eq!(ask(&mut guest, STATE, 0, 2), (ACK, 0));
    assert_eq!(source.take(), []);
}

#[test]
fn plugging_allocates_nothing() {
    let mut mem = mem();
    mem.request(8).unwrap();
    let mut bench = Bench::new(&mut *mem, 1 << 32 | 2);
    let mut counts = [0; 3];
    for count in &mut counts {
        bench.drivers[0].add(&BUFFERS);
        *count = bench.allocations_of(0);
    }
    assert_eq!(counts[1..], [0, 0]);
}
