//! A split virtqueue (virtio 1.2 §2.7), with raw access for kernels that break the rules.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use super::Doorbell;
use crate::clock;

/// Descriptor flags (virtio 1.2 §2.7.5).
pub mod descriptor_flags {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

const MAX_SIZE: usize = 256;
const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;
const VIRTQ_USED_F_NO_NOTIFY: u16 = 1;

#[derive(Debug)]
#[repr(C, align(16))]
struct Descriptor {
    address: AtomicU64,
    len: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}

/// The rings are laid out for the largest size. A smaller queue uses the front of each, so the event
/// fields move: they are the array element after the queue's last.
#[derive(Debug)]
#[repr(C)]
struct AvailableRing {
    flags: AtomicU16,
    index: AtomicU16,
    heads: [AtomicU16; MAX_SIZE + 1],
}

#[derive(Debug)]
#[repr(C, align(4))]
struct UsedRing {
    flags: AtomicU16,
    index: AtomicU16,
    /// Head and length, by turns.
    elements: [[AtomicU32; 2]; MAX_SIZE + 1],
}

/// The memory of one queue, for a static. All of it is atomics: the device is one more thread.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Rings {
    descriptors: [Descriptor; MAX_SIZE],
    available: AvailableRing,
    used: UsedRing,
}

impl Rings {
    /// The largest queue, entries.
    #[expect(clippy::cast_possible_truncation, reason = "256")]
    pub const MAX_SIZE: u16 = MAX_SIZE as u16;

    /// Zeroed rings.
    pub const fn zeroed() -> Self {
        Self {
            descriptors: [const {
                Descriptor {
                    address: AtomicU64::new(0),
                    len: AtomicU32::new(0),
                    flags: AtomicU16::new(0),
                    next: AtomicU16::new(0),
                }
            }; MAX_SIZE],
            available: AvailableRing {
                flags: AtomicU16::new(0),
                index: AtomicU16::new(0),
                heads: [const { AtomicU16::new(0) }; MAX_SIZE + 1],
            },
            used: UsedRing {
                flags: AtomicU16::new(0),
                index: AtomicU16::new(0),
                elements: [const { [AtomicU32::new(0), AtomicU32::new(0)] }; MAX_SIZE + 1],
            },
        }
    }

    pub(super) fn descriptors_address(&self) -> u64 {
        self.descriptors.as_ptr() as u64
    }

    pub(super) fn available_address(&self) -> u64 {
        &raw const self.available as u64
    }

    pub(super) fn used_address(&self) -> u64 {
        &raw const self.used as u64
    }

    /// What a reset device expects to find.
    fn clear(&self) {
        self.available.flags.store(0, Ordering::Relaxed);
        self.available.index.store(0, Ordering::Relaxed);
        self.used.flags.store(0, Ordering::Relaxed);
        self.used.index.store(0, Ordering::Relaxed);
    }
}

/// One piece of a descriptor chain.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub is_device_writable: bool,
}

impl Part {
    /// A piece the device reads.
    pub const fn readable(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            is_device_writable: false,
        }
    }

    /// A piece the device writes.
    pub const fn writable(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            is_device_writable: true,
        }
    }
}

/// A chain the device has given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its head.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub len: u32,
}

/// The driver's side of one queue.
#[derive(Debug)]
pub struct Queue {
    doorbell: Doorbell,
    index: u32,
    rings: &'static Rings,
    size: u16,
    has_event_index: bool,
    free: [u16; MAX_SIZE],
    free_count: usize,
    next_available: u16,
    last_kicked: u16,
    next_used: u16,
    kicks: u64,
}

impl Queue {
    pub(super) fn new(
        doorbell: Doorbell,
        index: u32,
        rings: &'static Rings,
        size: u16,
        has_event_index: bool,
    ) -> Self {
        rings.clear();
        let mut free = [0; MAX_SIZE];
        for (slot, descriptor) in free.iter_mut().zip(0..size) {
            *slot = descriptor;
        }
        let mut queue = Self {
            doorbell,
            index,
            rings,
            size,
            has_event_index,
            free,
            free_count: usize::from(size),
            next_available: 0,
            last_kicked: 0,
            next_used: 0,
            kicks: 0,
        };
        queue.suppress_interrupts();
        queue
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether the device holds no chain.
    pub fn is_idle(&self) -> bool {
        self.free_count == usize::from(self.size)
    }

    /// Asks for no interrupts; a hint (§2.7.7). This is how a queue starts.
    pub fn suppress_interrupts(&mut self) {
        if self.has_event_index {
            self.set_used_event(self.next_used.wrapping_add(0x8000));
        } else {
            self.rings
                .available
                .flags
                .store(VIRTQ_AVAIL_F_NO_INTERRUPT, Ordering::Release);
        }
    }

    /// Asks for an interrupt with the next chain that comes back. Look for used chains once more
    /// after this.
    pub fn request_interrupt(&mut self) {
        if self.has_event_index {
            self.set_used_event(self.next_used);
        } else {
            self.rings.available.flags.store(0, Ordering::Release);
        }
        fence(Ordering::SeqCst);
    }

    /// Makes a chain available without telling the device; returns its head (§2.7.13).
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        crate::check!(
            !parts.is_empty() && parts.len() <= self.free_count,
            "the queue is full"
        );
        let first = self.free_count - parts.len();
        let chain = &self.free[first..self.free_count];
        for (position, (&descriptor, part)) in chain.iter().zip(parts).enumerate() {
            let write = if part.is_device_writable {
                descriptor_flags::WRITE
            } else {
                0
            };
            let (more, next) = match chain.get(position + 1) {
                Some(&next) => (descriptor_flags::NEXT, next),
                None => (0, 0),
            };
            self.write_descriptor(descriptor, *part, write | more, next);
        }
        let head = chain[0];
        self.free_count = first;
        self.publish(head);
        head
    }

    /// Tells the device of new chains if it wants to know (§2.7.10).
    pub fn kick(&mut self) {
        // The index must be visible before the device's wish is read (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        let is_wanted = if self.has_event_index {
            let slot = &self.rings.used.elements[usize::from(self.size)][0];
            let event = slot.load(Ordering::Acquire).to_le_bytes();
            let event = u16::from_le_bytes([event[0], event[1]]);
            let since_event = self.next_available.wrapping_sub(event).wrapping_sub(1);
            since_event < self.next_available.wrapping_sub(self.last_kicked)
        } else {
            self.rings.used.flags.load(Ordering::Acquire) & VIRTQ_USED_F_NO_NOTIFY == 0
        };
        self.last_kicked = self.next_available;
        if is_wanted {
            self.kicks += 1;
            self.notify();
        }
    }

    /// Kicks that the device wanted and got.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Descriptors that no chain uses.
    pub fn room(&self) -> usize {
        self.free_count
    }

    /// Notifies the device whatever the device wants.
    pub fn notify(&self) {
        self.doorbell.ring();
    }

    /// Takes back the next chain the device is done with (§2.7.14).
    pub fn take_used(&mut self) -> Option<Used> {
        let used = self.take_used_raw()?;
        crate::check!(
            used.head < self.size,
            "the device gave back head {}",
            used.head
        );
        let mut descriptor = used.head;
        loop {
            self.free[self.free_count] = descriptor;
            self.free_count += 1;
            let entry = &self.rings.descriptors[usize::from(descriptor)];
            if entry.flags.load(Ordering::Relaxed) & descriptor_flags::NEXT == 0 {
                return Some(used);
            }
            descriptor = entry.next.load(Ordering::Relaxed);
        }
    }

    /// Whether a chain has come back that was not taken yet.
    pub fn has_used(&self) -> bool {
        self.used_index() != self.next_used
    }

    /// Spins until a chain comes back; fails the test if none does.
    pub fn wait_used(&mut self) -> Used {
        let mut used = None;
        clock::spin_until(clock::LONG, || {
            used = self.take_used();
            used.is_some()
        });
        match used {
            Some(used) => used,
            None => crate::fail!("queue {} gave nothing back in time", self.index),
        }
    }

    /// Raw: takes the next used element and keeps its descriptors out of use.
    pub fn take_used_raw(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        let [head, len] = &self.rings.used.elements[usize::from(self.next_used % self.size)];
        let head = head.load(Ordering::Relaxed);
        let len = len.load(Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        Some(Used {
            head: u16::try_from(head).unwrap_or(u16::MAX),
            len,
        })
    }

    /// Raw: fills descriptor `index` of the table.
    pub fn write_descriptor(&self, index: u16, part: Part, flags: u16, next: u16) {
        let descriptor = &self.rings.descriptors[usize::from(index)];
        descriptor.address.store(part.address, Ordering::Relaxed);
        descriptor.len.store(part.len, Ordering::Relaxed);
        descriptor.flags.store(flags, Ordering::Relaxed);
        descriptor.next.store(next, Ordering::Relaxed);
    }

    /// Raw: puts any number into the available ring as the next head.
    pub fn publish(&mut self, head: u16) {
        let slot = usize::from(self.next_available % self.size);
        self.rings.available.heads[slot].store(head, Ordering::Relaxed);
        self.advance_available(1);
    }

    /// Raw: moves the available index without filling the ring.
    pub fn advance_available(&mut self, by: u16) {
        self.next_available = self.next_available.wrapping_add(by);
        self.rings
            .available
            .index
            .store(self.next_available, Ordering::Release);
    }

    /// Raw: chains the device has given back since the queue was set up.
    pub fn used_index(&self) -> u16 {
        self.rings.used.index.load(Ordering::Acquire)
    }

    fn set_used_event(&self, index: u16) {
        self.rings.available.heads[usize::from(self.size)].store(index, Ordering::Release);
    }
}
