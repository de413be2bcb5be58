//! Rings and chains, as they should be and as they should not.

use proptest::prelude::*;

use super::*;
use crate::testing::{Buffer, FakeDriver, guest_memory};
use crate::virtio::chain::Fault;

const MEMORY: usize = 0x10_0000;
const BASE: u64 = 0x8_0000;
const SIZE: u16 = 8;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const IS_INDIRECT: u16 = 4;

struct Pair {
    driver: FakeDriver,
    queue: Queue,
    chain: Chain,
}

fn pair(features: u64) -> Pair {
    let memory = guest_memory(MEMORY);
    let driver = FakeDriver::new(&memory, BASE, SIZE);
    let queue = Queue::new(memory, driver.state(), features).unwrap();
    let chain = queue.new_chain();
    Pair {
        driver,
        queue,
        chain,
    }
}

impl Pair {
    /// Pops one head, gives it back with length 0, and says what was wrong with it.
    fn fault(&mut self) -> Option<Fault> {
        let done = self.queue.pop(&mut self.chain).unwrap().unwrap();
        let is_empty = self.chain.readable.is_empty() && self.chain.writable.is_empty();
        assert_eq!(is_empty, self.chain.fault().is_some());
        self.queue.give_back(done, 0).unwrap();
        assert_eq!(self.driver.take_used().len(), 1);
        self.chain.fault()
    }

    fn describe_and_publish(&mut self, descriptors: &[(u64, u32, u16, u16)]) {
        for (index, &(address, len, flags, next)) in (0..).zip(descriptors) {
            self.driver.describe(index, address, len, flags, next);
        }
        self.driver.publish(0);
    }
}

#[test]
fn heads_return_once_with_their_lengths() {
    let mut pair = pair(0);
    let first = pair.driver.add(&[Buffer::Readable(0x100, 8)]);
    let second = pair
        .driver
        .add(&[Buffer::Readable(0x200, 8), Buffer::Writable(0x300, 16)]);
    let one = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    assert_eq!(pair.chain.readable.len(), 8);
    let two = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    assert_eq!(pair.chain.writable.len(), 16);
    assert!(pair.queue.pop(&mut pair.chain).unwrap().is_none());
    pair.queue.give_back(two, 16).unwrap();
    pair.queue.give_back(one, 0).unwrap();
    assert_eq!(pair.driver.take_used(), [(second, 16), (first, 0)]);
    assert_eq!(pair.queue.in_flight(), 0);
}

#[test]
fn index_wraps_around() {
    let mut pair = pair(0);
    for _ in 0..70_000u32 {
        pair.driver.add(&[Buffer::Writable(0x100, 1)]);
        let done = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
        pair.queue.give_back(done, 1).unwrap();
        assert_eq!(pair.driver.take_used().len(), 1);
    }
}

#[test]
fn head_that_is_put_back_is_popped_again() {
    let mut pair = pair(0);
    pair.driver.add(&[Buffer::Readable(0x100, 8)]);
    let done = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    pair.queue.put_back(done);
    assert_eq!(pair.queue.in_flight(), 0);
    assert!(pair.queue.pop(&mut pair.chain).unwrap().is_some());
}

#[test]
fn chains_add_up() {
    let mut pair = pair(0);
    pair.driver.add(&[Buffer::Writable(0x100, 8)]);
    pair.driver.add(&[Buffer::Readable(0x200, 8)]);
    pair.driver.add(&[Buffer::Writable(0x300, 8)]);
    let _one = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    let _two = pair.queue.pop_more(&mut pair.chain).unwrap().unwrap();
    let _three = pair.queue.pop_more(&mut pair.chain).unwrap().unwrap();
    assert_eq!(pair.chain.writable.len(), 16);
    assert_eq!(pair.chain.readable.len(), 8);
    assert_eq!(pair.chain.fault(), None);
}

#[test]
fn a_malformed_chain_adds_nothing() {
    let mut pair = pair(0);
    pair.driver.add(&[Buffer::Writable(0x100, 8)]);
    pair.driver
        .add(&[Buffer::Writable(0x200, 8), Buffer::Writable(u64::MAX, 8)]);
    let _one = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    let _two = pair.queue.pop_more(&mut pair.chain).unwrap().unwrap();
    assert_eq!(pair.chain.fault(), Some(Fault::OutsideMemory));
    assert_eq!(pair.chain.writable.len(), 8);
}

#[test]
fn loops_are_too_long() {
    let mut pair = pair(0);
    pair.describe_and_publish(&[(0x100, 8, NEXT, 1), (0x100, 8, NEXT, 0)]);
    assert_eq!(pair.fault(), Some(Fault::TooLong));
}

#[test]
fn chain_may_be_as_long_as_the_queue() {
    let mut pair = pair(0);
    pair.driver
        .add(&[Buffer::Readable(0x100, 1); SIZE as usize]);
    assert_eq!(pair.fault(), None);
}

#[test]
fn next_outside_the_table_is_malformed() {
    let mut pair = pair(0);
    pair.describe_and_publish(&[(0x100, 8, NEXT, SIZE)]);
    assert_eq!(pair.fault(), Some(Fault::NextOutsideTable));
}

#[test]
fn buffers_outside_memory_are_malformed() {
    for (address, len) in [
        (MEMORY as u64, 1),
        (MEMORY as u64 - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (0, u32::MAX),
    ] {
        let mut pair = pair(0);
        pair.describe_and_publish(&[(address, len, WRITE, 0)]);
        assert_eq!(pair.fault(), Some(Fault::OutsideMemory), "{address:#x}");
    }
}

#[test]
fn empty_buffers_are_malformed() {
    let mut pair = pair(0);
    pair.describe_and_publish(&[(0x100, 0, 0, 0)]);
    assert_eq!(pair.fault(), Some(Fault::EmptyBuffer));
}

#[test]
fn readable_after_writable_is_malformed() {
    let mut pair = pair(0);
    pair.describe_and_publish(&[(0x100, 8, WRITE | NEXT, 1), (0x100, 8, 0, 0)]);
    assert_eq!(pair.fault(), Some(Fault::ReadableAfterWritable));
}

#[test]
fn overlapping_buffers_are_the_drivers_business() {
    let mut pair = pair(0);
    pair.describe_and_publish(&[
        (0x100, 8, NEXT, 1),
        (0x104, 8, NEXT | WRITE, 2),
        (0x100, 8, WRITE, 0),
    ]);
    assert_eq!(pair.fault(), None);
}

#[test]
fn indirect_table_is_read_when_negotiated() {
    let mut pair = pair(INDIRECT);
    let table = FakeDriver::new(&guest_table(&pair), 0x4000, 4);
    table.describe(0, 0x100, 8, NEXT, 2);
    table.describe(2, 0x200, 16, WRITE, 0);
    // Behind a plain descriptor, and with a write flag that says nothing (virtio 1.2 §2.7.5.3.2).
    pair.describe_and_publish(&[(0x300, 4, NEXT, 1), (0x4000, 48, IS_INDIRECT | WRITE, 0)]);
    assert_eq!(pair.fault(), None);
    assert_eq!(pair.chain.readable.len(), 12);
    assert_eq!(pair.chain.writable.len(), 16);
}

fn guest_table(pair: &Pair) -> Arc<GuestMemory> {
    Arc::clone(&pair.queue.memory)
}

#[test]
fn indirect_that_breaks_a_rule_is_malformed() {
    let cases = [
        (0, (0x4000, 16, IS_INDIRECT)),
        (INDIRECT, (0x4000, 16, IS_INDIRECT | NEXT)),
        (INDIRECT, (0x4000, 24, IS_INDIRECT)),
        (INDIRECT, (0x4000, 0, IS_INDIRECT)),
        (INDIRECT, (0x4000, 16 * 0x1_0000, IS_INDIRECT)),
    ];
    for (features, (address, len, flags)) in cases {
        let mut pair = pair(features);
        pair.describe_and_publish(&[(address, len, flags, 0)]);
        assert_eq!(pair.fault(), Some(Fault::Indirect), "{len} {flags}");
    }
}

#[test]
fn nested_indirect_is_malformed() {
    let mut pair = pair(INDIRECT);
    let table = FakeDriver::new(&guest_table(&pair), 0x4000, 4);
    table.describe(0, 0x4000, 16, IS_INDIRECT, 0);
    pair.describe_and_publish(&[(0x4000, 16, IS_INDIRECT, 0)]);
    assert_eq!(pair.fault(), Some(Fault::Indirect));
}

#[test]
fn index_that_runs_away_is_an_error() {
    let mut pair = pair(0);
    pair.driver.set_available_index(SIZE + 1);
    let popped = pair.queue.pop(&mut pair.chain);
    assert_eq!(popped.unwrap_err(), QueueError::AvailableIndex);
}

#[test]
fn more_heads_than_entries_is_an_error() {
    let mut pair = pair(0);
    for _ in 0..SIZE {
        pair.driver.add(&[Buffer::Readable(0x100, 1)]);
        let _held = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
    }
    pair.driver.add(&[Buffer::Readable(0x100, 1)]);
    let popped = pair.queue.pop(&mut pair.chain);
    assert_eq!(popped.unwrap_err(), QueueError::AvailableIndex);
}

#[test]
fn head_outside_the_table_is_an_error() {
    let mut pair = pair(0);
    pair.driver.publish(SIZE);
    let popped = pair.queue.pop(&mut pair.chain);
    assert_eq!(popped.unwrap_err(), QueueError::Head);
}

#[test]
fn queue_that_is_not_ready_has_no_heads() {
    let queue = Queue::new(guest_memory(0x1000), QueueState::default(), 0);
    let mut queue = queue.unwrap();
    let mut chain = queue.new_chain();
    assert!(queue.pop(&mut chain).unwrap().is_none());
    assert!(!queue.enable_kicks().unwrap());
    assert!(!queue.needs_interrupt().unwrap());
    queue.disable_kicks().unwrap();
}

#[test]
fn impossible_rings_are_refused() {
    let memory = guest_memory(MEMORY);
    let good = FakeDriver::new(&memory, BASE, SIZE).state();
    let bad = [
        (QueueState { size: 0, ..good }, QueueError::Size),
        (QueueState { size: 7, ..good }, QueueError::Size),
        (
            QueueState {
                descriptor_table: BASE + 8,
                ..good
            },
            QueueError::Alignment,
        ),
        (
            QueueState {
                available_ring: BASE + 1,
                ..good
            },
            QueueError::Alignment,
        ),
        (
            QueueState {
                used_ring: BASE + 2,
                ..good
            },
            QueueError::Alignment,
        ),
        (
            QueueState {
                used_ring: MEMORY as u64 - 68,
                ..good
            },
            QueueError::OutsideMemory,
        ),
        (
            QueueState {
                descriptor_table: u64::MAX - 15,
                ..good
            },
            QueueError::OutsideMemory,
        ),
    ];
    for (state, error) in bad {
        let refused = Queue::new(Arc::clone(&memory), state, 0).unwrap_err();
        assert_eq!(refused, error, "{state:?}");
    }
    let last = QueueState {
        used_ring: MEMORY as u64 - 72,
        ..good
    };
    let last = QueueState {
        used_ring: last.used_ring & !3,
        ..last
    };
    assert!(Queue::new(memory, last, 0).is_ok());
}

#[test]
fn interrupt_follows_the_drivers_flag() {
    let mut pair = pair(0);
    for (flags, wanted) in [(0, true), (1, false), (0, true)] {
        pair.driver.set_available_flags(flags);
        pair.driver.add(&[Buffer::Readable(0x100, 1)]);
        let done = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
        pair.queue.give_back(done, 0).unwrap();
        assert_eq!(pair.queue.needs_interrupt().unwrap(), wanted);
        assert!(!pair.queue.needs_interrupt().unwrap());
    }
}

#[test]
fn interrupt_comes_when_the_event_index_is_passed() {
    let mut pair = pair(EVENT_IDX);
    // The flag says nothing then (virtio 1.2 §2.7.7.2).
    pair.driver.set_available_flags(1);
    pair.driver.set_used_event(2);
    for wanted in [false, false, true, false] {
        pair.driver.add(&[Buffer::Readable(0x100, 1)]);
        let done = pair.queue.pop(&mut pair.chain).unwrap().unwrap();
        pair.queue.give_back(done, 0).unwrap();
        assert_eq!(pair.queue.needs_interrupt().unwrap(), wanted);
    }
}

#[test]
fn kicks_are_asked_for_by_flag_or_by_index() {
    let mut flags = pair(0);
    flags.queue.disable_kicks().unwrap();
    assert_eq!(flags.driver.used_flags(), 1);
    flags.queue.enable_kicks().unwrap();
    assert_eq!(flags.driver.used_flags(), 0);

    let mut index = pair(EVENT_IDX);
    index.driver.add(&[Buffer::Readable(0x100, 1)]);
    let _held = index.queue.pop(&mut index.chain).unwrap().unwrap();
    assert!(!index.queue.enable_kicks().unwrap());
    assert_eq!(index.driver.available_event(), 1);
    assert_eq!(index.driver.used_flags(), 0);
}

#[test]
fn head_that_arrived_before_kicks_were_asked_for_is_reported() {
    let mut pair = pair(EVENT_IDX);
    assert!(!pair.queue.enable_kicks().unwrap());
    pair.driver.add(&[Buffer::Readable(0x100, 1)]);
    assert!(pair.queue.enable_kicks().unwrap());
}

proptest! {
    #[test]
    fn crossing_is_whether_event_lies_in_the_half_open_range(event: u16, old: u16, moved in 1..=u16::MAX) {
        let new = old.wrapping_add(moved);
        let lies_inside = event.wrapping_sub(old) < moved;
        prop_assert_eq!(has_crossed(event, new, old), lies_inside);
    }

    #[test]
    fn any_descriptors_are_survived(
        descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), 0..8u16, 0..10u16), 8),
        near in prop::collection::vec(any::<bool>(), 8),
        features in prop::sample::select(vec![0, INDIRECT, EVENT_IDX]),
    ) {
        let mut pair = pair(features);
        for (index, (descriptor, near)) in (0..).zip(descriptors.iter().zip(near)) {
            let (address, len, flags, next) = *descriptor;
            let (address, len) = if near { (address % 0x10_1000, len % 0x2000) } else { (address, len) };
            pair.driver.describe(index, address, len, flags, next);
        }
        for head in 0..SIZE {
            pair.driver.publish(head);
            pair.fault();
        }
        prop_assert_eq!(pair.queue.in_flight(), 0);
    }

    #[test]
    fn any_rings_are_refused_or_survived(
        size: u16, descriptor_table in 0..0x11_0000u64, available_ring in 0..0x11_0000u64,
        used_ring in 0..0x11_0000u64, next_available: u16, next_used: u16,
    ) {
        let state = QueueState {
            size: size.checked_next_power_of_two().unwrap_or(size), is_ready: true,
            descriptor_table: descriptor_table & !15, available_ring: available_ring & !1,
            used_ring: used_ring & !3, next_available, next_used,
        };
        if let Ok(mut queue) = Queue::new(guest_memory(MEMORY), state, 0) {
            let mut chain = queue.new_chain();
            while let Ok(Some(done)) = queue.pop(&mut chain) {
                queue.give_back(done, 0).unwrap();
                queue.needs_interrupt().unwrap();
            }
        }
    }
}
