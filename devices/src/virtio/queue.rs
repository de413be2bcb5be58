//! One split virtqueue (virtio 1.2 §2.7), from the device's side.
//!
//! ```text
//!  driver --available ring: head--> pop() --> Chain + Completion --> the device works
//!    ^                                             |
//!    +------used ring: head, length---------- give_back()
//! ```
//!
//! A [`Completion`] stands for a head that the device holds; giving it back consumes it, so each head returns
//! exactly once. Nothing here allocates after the first requests, and nothing a driver writes can make it
//! panic or read outside guest memory: chains that break the rules are given back like others (see
//! [`Chain`]), rings that make no sense are a [`QueueError`].
//!
//! Memory order: the driver's writes to descriptors and buffers are seen because the available index is loaded
//! with `Acquire` (§2.7.13.3); ours to buffers and the used element are seen before the used index, stored
//! with `Release` (§2.7.14). Notification suppression is a store followed by a load of what the other side
//! stores, so a full fence stands between the two (§2.7.13.4.1).

#![deny(clippy::arithmetic_side_effects)]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT,
    VRING_USED_F_NO_NOTIFY,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::chain::{Chain, Table};
use super::device::QueueError;
use crate::GuestMemory;

/// The largest queue there is (virtio 1.2 §2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Offset of `idx` in both rings (virtio 1.2 §2.7.6, §2.7.8).
const RING_INDEX: u64 = 2;
/// Offset of the elements in both rings.
const RING_ELEMENTS: u64 = 4;
/// Size of an available ring's element.
const AVAILABLE_ELEMENT: u64 = 2;
/// Size of a used ring's element: id and length.
const USED_ELEMENT: u64 = 8;
/// Size of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Size of the event index behind the elements of both rings.
const EVENT: u64 = 2;

/// All that a queue is between two runs: what the driver set up, and how far each side came. Format
/// `virtqueue` v1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Entries, a power of two, 1..=32768.
    pub size: u16,
    /// The driver set it up and enabled it.
    pub is_ready: bool,
    /// Descriptor table, 16-byte aligned.
    pub descriptor_table: u64,
    /// Available ring, 2-byte aligned.
    pub available_ring: u64,
    /// Used ring, 4-byte aligned.
    pub used_ring: u64,
    /// Index of the next head to pop, modulo 2^16.
    pub next_available: u16,
    /// Index of the next head to give back, modulo 2^16.
    pub next_used: u16,
}

/// A split virtqueue, owned by a worker while the device runs.
#[derive(Debug)]
pub struct Queue {
    // Fixed configuration.
    has_event_idx: bool,
    has_indirect: bool,
    // Runtime glue.
    memory: Arc<GuestMemory>,
    /// The driver's index when it was last read; heads up to here can be popped without looking again.
    available_end: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled: u16,
    /// Heads that were popped and not yet given back.
    in_flight: u16,
    // Guest-visible state: all of it, and nothing else.
    state: QueueState,
}

/// A head that the device holds.
#[derive(Debug)]
#[must_use = "a head that is not given back is lost to the driver"]
pub struct Completion {
    head: u16,
}

impl Queue {
    /// A queue as the driver set it up, with the features it accepted.
    ///
    /// # Errors
    /// When an enabled queue's size, alignment or place is impossible.
    pub fn new(
        memory: Arc<GuestMemory>,
        state: QueueState,
        features: u64,
    ) -> Result<Self, QueueError> {
        if state.is_ready {
            state.check(&memory)?;
        }
        Ok(Self {
            has_event_idx: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            has_indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            memory,
            available_end: state.next_available,
            signalled: state.next_used,
            in_flight: 0,
            state,
        })
    }

    /// What is to be saved of it. Heads that are still held would be lost: a worker gives them back, or puts
    /// them back, before it stops.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.state
    }

    /// The driver enabled it; one that is not ready has no heads.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.is_ready
    }

    /// Heads that were popped and not yet given back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// A chain to pop into.
    #[must_use]
    pub fn new_chain(&self) -> Chain {
        Chain::new(&self.memory)
    }

    /// Takes the next head, and fills `chain` with its buffers in place of what it held. `None` when the
    /// driver has no more.
    ///
    /// # Errors
    /// When the available ring makes no sense.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Option<Completion>, QueueError> {
        chain.clear();
        self.pop_more(chain)
    }

    /// Takes the next head like [`Queue::pop`]; when the driver has no more, asks it for a kick. `None`: it will kick for
    /// the next. A turn calls this until then, or until its share is used up; then the worker kicks itself.
    ///
    /// # Errors
    /// As [`Queue::pop`] and [`Queue::enable_kicks`].
    pub fn pop_or_wait(&mut self, chain: &mut Chain) -> Result<Option<Completion>, QueueError> {
        loop {
            let popped = self.pop(chain)?;
            if popped.is_some() || !self.enable_kicks()? {
                return Ok(popped);
            }
        }
    }

    /// Takes the next head, and adds its buffers behind those in `chain`.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub fn pop_more(&mut self, chain: &mut Chain) -> Result<Option<Completion>, QueueError> {
        let Some(head) = self.next_head()? else {
            return Ok(None);
        };
        self.state.next_available = self.state.next_available.wrapping_add(1);
        self.in_flight = self.in_flight.saturating_add(1);
        let table = Table {
            address: GuestAddress(self.state.descriptor_table),
            len: self.state.size,
            may_be_indirect: self.has_indirect,
        };
        chain.append(&self.memory, table, head);
        Ok(Some(Completion { head }))
    }

    /// Gives a head back, with `len` bytes written from the start of its writable buffers
    /// (virtio 1.2 §2.7.8).
    ///
    /// # Errors
    /// When the used ring is no longer in guest memory.
    pub fn give_back(&mut self, done: Completion, len: u32) -> Result<(), QueueError> {
        self.give_back_all([(done, len)])
    }

    /// Gives heads back at once: the driver sees all of them or none.
    ///
    /// # Errors
    /// When the used ring is no longer in guest memory.
    pub fn give_back_all(
        &mut self,
        all: impl IntoIterator<Item = (Completion, u32)>,
    ) -> Result<(), QueueError> {
        for (Completion { head }, len) in all {
            let slot = u64::from(self.slot(self.state.next_used));
            let offset = RING_ELEMENTS.saturating_add(slot.saturating_mul(USED_ELEMENT));
            let (id, length) = (self.used(offset), self.used(offset.saturating_add(4)));
            self.store(u32::from(head).to_le(), id, Ordering::Relaxed)?;
            self.store(len.to_le(), length, Ordering::Relaxed)?;
            self.state.next_used = self.state.next_used.wrapping_add(1);
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let index = self.state.next_used.to_le();
        self.store(index, self.used(RING_INDEX), Ordering::Release)
    }

    /// Undoes the latest [`Queue::pop`] that was not undone: the head will be popped again.
    pub fn put_back(&mut self, done: Completion) {
        let Completion { head: _ } = done;
        self.state.next_available = self.state.next_available.wrapping_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Goes on where another process left off: it popped heads up to `next_available`, and wrote into the used ring how
    /// far it gave them back.
    ///
    /// # Errors
    /// When the used ring is not in guest memory.
    pub fn take_over(&mut self, next_available: u16) -> Result<(), QueueError> {
        if self.state.is_ready {
            let index = self.load(self.used(RING_INDEX), Ordering::Acquire)?;
            self.state.next_used = u16::from_le(index);
            self.state.next_available = next_available;
            self.available_end = next_available;
            self.signalled = self.state.next_used;
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back since this was last asked
    /// (virtio 1.2 §2.7.7.2).
    ///
    /// # Errors
    /// When the available ring is no longer in guest memory.
    pub fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        let (new, old) = (self.state.next_used, self.signalled);
        if new == old {
            return Ok(false);
        }
        self.signalled = new;
        // The used index must be visible before the driver's wish is read; see the module's text.
        fence(Ordering::SeqCst);
        if self.has_event_idx {
            let event = u16::from_le(self.load(self.used_event(), Ordering::Relaxed)?);
            Ok(has_crossed(event, new, old))
        } else {
            let flags = u16::from_le(self.load(self.available(0), Ordering::Relaxed)?);
            Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver for a kick when it adds a head. True when it already has: then no kick may come, and
    /// the caller pops again (virtio 1.2 §2.7.10).
    ///
    /// # Errors
    /// When a ring is no longer in guest memory, or the available ring makes no sense.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        if !self.state.is_ready {
            return Ok(false);
        }
        if self.has_event_idx {
            let next = self.state.next_available.to_le();
            self.store(next, self.available_event(), Ordering::Relaxed)?;
        } else {
            self.store(0u16, self.used(0), Ordering::Relaxed)?;
        }
        // The wish must be visible before the index is read again; see the module's text.
        fence(Ordering::SeqCst);
        Ok(self.next_head()?.is_some())
    }

    /// Tells the driver that kicks are not needed until [`Queue::enable_kicks`].
    ///
    /// # Errors
    /// When the used ring is no longer in guest memory.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        // With an event index there is nothing to write: the driver passed the index that was asked for.
        if self.state.is_ready && !self.has_event_idx {
            let flags = 1u16.to_le();
            const { assert!(VRING_USED_F_NO_NOTIFY == 1) };
            self.store(flags, self.used(0), Ordering::Relaxed)?;
        }
        Ok(())
    }

    /// The head at `next_available`, if the driver put one there.
    fn next_head(&mut self) -> Result<Option<u16>, QueueError> {
        if !self.state.is_ready {
            return Ok(None);
        }
        let next = self.state.next_available;
        if self.available_end == next {
            let index = self.load(self.available(RING_INDEX), Ordering::Acquire)?;
            self.available_end = u16::from_le(index);
        }
        let waiting = self.available_end.wrapping_sub(next);
        if waiting == 0 {
            return Ok(None);
        }
        // A head is either waiting or held, and there are no more heads than entries.
        if waiting > self.state.size.saturating_sub(self.in_flight) {
            return Err(QueueError::AvailableIndex);
        }
        let slot = u64::from(self.slot(next)).saturating_mul(AVAILABLE_ELEMENT);
        let element = self.available(RING_ELEMENTS.saturating_add(slot));
        let head = u16::from_le(self.load(element, Ordering::Relaxed)?);
        if head >= self.state.size {
            return Err(QueueError::Head);
        }
        Ok(Some(head))
    }

    /// The ring slot of a free-running index; sizes are powers of two.
    fn slot(&self, index: u16) -> u16 {
        index & self.state.size.wrapping_sub(1)
    }

    fn available(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.state.available_ring.saturating_add(offset))
    }

    fn used(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.state.used_ring.saturating_add(offset))
    }

    /// Where the driver says which used index it wants an interrupt for (virtio 1.2 §2.7.6).
    fn used_event(&self) -> GuestAddress {
        let elements = u64::from(self.state.size).saturating_mul(AVAILABLE_ELEMENT);
        self.available(RING_ELEMENTS.saturating_add(elements))
    }

    /// Where the device says which available index it wants a kick for (virtio 1.2 §2.7.8).
    fn available_event(&self) -> GuestAddress {
        let elements = u64::from(self.state.size).saturating_mul(USED_ELEMENT);
        self.used(RING_ELEMENTS.saturating_add(elements))
    }

    /// Fields are aligned, and mappings are whole pages: a field never lies in two.
    fn load(&self, at: GuestAddress, order: Ordering) -> Result<u16, QueueError> {
        let field = self.memory.get_slice(at, size_of::<u16>());
        let field = field.map_err(|_| QueueError::OutsideMemory)?;
        field.load(0, order).map_err(|_| QueueError::OutsideMemory)
    }

    fn store<T: vm_memory::AtomicAccess>(
        &self,
        value: T,
        at: GuestAddress,
        order: Ordering,
    ) -> Result<(), QueueError> {
        let field = self.memory.get_slice(at, size_of::<T>());
        let field = field.map_err(|_| QueueError::OutsideMemory)?;
        let stored = field.store(value, 0, order);
        stored.map_err(|_| QueueError::OutsideMemory)
    }
}

impl QueueState {
    /// Size and alignment as virtio 1.2 §2.7 has them, and every byte in guest memory.
    fn check(&self, memory: &GuestMemory) -> Result<(), QueueError> {
        if !self.size.is_power_of_two() || self.size > MAX_QUEUE_SIZE {
            return Err(QueueError::Size);
        }
        let size = u64::from(self.size);
        let around = RING_ELEMENTS.saturating_add(EVENT);
        let ring = |element: u64| size.saturating_mul(element).saturating_add(around);
        let parts = [
            (self.descriptor_table, 16, size.saturating_mul(DESCRIPTOR)),
            (self.available_ring, 2, ring(AVAILABLE_ELEMENT)),
            (self.used_ring, 4, ring(USED_ELEMENT)),
        ];
        for (address, alignment, len) in parts {
            if !address.is_multiple_of(alignment) {
                return Err(QueueError::Alignment);
            }
            let len = usize::try_from(len).map_err(|_| QueueError::OutsideMemory)?;
            if !memory.check_range(GuestAddress(address), len) {
                return Err(QueueError::OutsideMemory);
            }
        }
        Ok(())
    }
}

/// Whether an index moving from `old` to `new` passed `event` (virtio 1.2 §2.7.7.2, `vring_need_event`).
fn has_crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;
