//! The driver's half of one queue.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::GuestMemory;
use crate::virtio::queue::QueueState;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One descriptor's buffer.
#[derive(Clone, Copy, Debug)]
pub enum Buffer {
    /// The device reads `.1` bytes at `.0`.
    Readable(u64, u32),
    /// The device writes `.1` bytes at `.0`.
    Writable(u64, u32),
}

/// Lays a queue out in guest memory and plays the driver: as it should be, or otherwise.
#[derive(Debug)]
pub struct FakeDriver {
    memory: Arc<GuestMemory>,
    state: QueueState,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

impl FakeDriver {
    /// Bytes a queue of `size` takes, rounded up to pages.
    #[must_use]
    pub fn footprint(size: u16) -> u64 {
        (u64::from(size) * 26 + 64).next_multiple_of(0x1000)
    }

    /// A queue of `size` entries at `base`, all zero.
    #[must_use]
    pub fn new(memory: &Arc<GuestMemory>, base: u64, size: u16) -> Self {
        let entries = u64::from(size);
        let available_ring = base + 16 * entries;
        let used_ring = (available_ring + 6 + 2 * entries).next_multiple_of(4);
        Self {
            memory: Arc::clone(memory),
            state: QueueState {
                size,
                is_ready: true,
                descriptor_table: base,
                available_ring,
                used_ring,
                next_available: 0,
                next_used: 0,
            },
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    /// What the transport is told.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.state
    }

    /// Starts over, as after a reset.
    pub fn reset(&mut self) {
        let size = self.state.size;
        *self = Self::new(&self.memory.clone(), self.state.descriptor_table, size);
        let len = usize::try_from(Self::footprint(size) - 64).expect("a few pages");
        let zeros = vec![0; len];
        let base = GuestAddress(self.state.descriptor_table);
        let written = self.memory.write_slice(&zeros, base);
        written.expect("the queue lies in guest memory");
    }

    /// Chains `buffers` and makes them available. Returns the head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            let next = (index + 1) % self.state.size;
            let chained = if position + 1 < buffers.len() {
                NEXT
            } else {
                0
            };
            match *buffer {
                Buffer::Readable(at, len) => self.describe(index, at, len, chained, next),
                Buffer::Writable(at, len) => self.describe(index, at, len, chained | WRITE, next),
            }
            self.next_descriptor = next;
        }
        self.publish(head);
        head
    }

    /// Writes one descriptor, whatever it says.
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.state.descriptor_table + 16 * u64::from(index);
        self.put(at, address);
        self.put(at + 8, len);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    /// Makes `head` available, whatever it is.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.state.size);
        self.put(self.state.available_ring + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(self.next_available);
    }

    /// Writes the available index, whatever it says.
    pub fn set_available_index(&self, index: u16) {
        self.put(self.state.available_ring + 2, index);
    }

    /// Writes the available ring's flags.
    pub fn set_available_flags(&self, flags: u16) {
        self.put(self.state.available_ring, flags);
    }

    /// Asks for an interrupt when the used index passes `index` (with an event index).
    pub fn set_used_event(&self, index: u16) {
        let offset = 4 + 2 * u64::from(self.state.size);
        self.put(self.state.available_ring + offset, index);
    }

    /// The available index that the device wants a kick for (with an event index).
    #[must_use]
    pub fn available_event(&self) -> u16 {
        let offset = 4 + 8 * u64::from(self.state.size);
        self.get(self.state.used_ring + offset)
    }

    /// The used ring's flags.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.get(self.state.used_ring)
    }

    /// Heads that came back since this was last asked, with their lengths.
    pub fn take_used(&mut self) -> Vec<(u16, u32)> {
        let index: u16 = self.get(self.state.used_ring + 2);
        let mut used = Vec::new();
        while self.next_used != index {
            let slot = u64::from(self.next_used % self.state.size);
            let at = self.state.used_ring + 4 + 8 * slot;
            let head = u16::try_from(self.get::<u32>(at)).expect("a head is a descriptor's index");
            used.push((head, self.get(at + 4)));
            self.next_used = self.next_used.wrapping_add(1);
        }
        used
    }

    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        let written = self.memory.write_obj(value, GuestAddress(at));
        written.expect("the queue lies in guest memory");
    }

    fn get<T: vm_memory::ByteValued>(&self, at: u64) -> T {
        let read = self.memory.read_obj(GuestAddress(at));
        read.expect("the queue lies in guest memory")
    }
}
