//! One descriptor chain: what a driver hands over with one head (virtio 1.2 §2.7.5).
//!
//! A chain is walked once, when its head is popped, and every range in it is checked then. One that breaks a
//! rule arrives empty, with its [`Fault`]: no request fits in an empty chain, so a device refuses it in the
//! same place, and gives it back in the same way, as one that is merely too short.

#![deny(clippy::arithmetic_side_effects)]

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::GuestMemory;
pub use crate::sys::segments::Segments;
use crate::sys::segments::{Mark, PushError};

/// The buffers of one head, in order; a worker keeps it and reuses its storage.
#[derive(Debug)]
pub struct Chain {
    /// What the driver wrote for the device.
    pub readable: Segments,
    /// Where the device writes.
    pub writable: Segments,
    fault: Option<Fault>,
}

/// What a driver must not do with descriptors, and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// More descriptors than the queue has, which a loop always is (virtio 1.2 §2.7.5.1).
    TooLong,
    /// A `next` beyond the table.
    NextOutsideTable,
    /// A buffer or an indirect table that is not all guest memory.
    OutsideMemory,
    /// A buffer of no bytes.
    EmptyBuffer,
    /// A readable buffer behind a writable one (virtio 1.2 §2.7.4.2).
    ReadableAfterWritable,
    /// An indirect descriptor that was not negotiated, is nested, chained, or not whole descriptors long
    /// (virtio 1.2 §2.7.5.3.1).
    Indirect,
}

/// Where descriptors are, and what may be in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub address: GuestAddress,
    /// Descriptors in the table.
    pub len: u16,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated and this is not an indirect table.
    pub may_be_indirect: bool,
}

/// A descriptor as it lies in memory (virtio 1.2 §2.7.5), little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Chain {
    /// An empty chain over `memory`.
    #[must_use]
    pub fn new(memory: &Arc<GuestMemory>) -> Self {
        Self {
            readable: Segments::new(Arc::clone(memory)),
            writable: Segments::new(Arc::clone(memory)),
            fault: None,
        }
    }

    /// Which rule the head broke that was popped last; the chain does not hold it then.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Forgets the buffers and keeps the storage.
    pub fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.fault = None;
    }

    /// Adds the buffers that start at descriptor `head`, or none of them and the fault.
    pub(super) fn append(&mut self, memory: &GuestMemory, table: Table, head: u16) {
        let marks = (self.readable.mark(), self.writable.mark());
        self.fault = self.walk(memory, table, head, marks.1).err();
        if self.fault.is_some() {
            self.readable.go_back(marks.0);
            self.writable.go_back(marks.1);
        }
    }

    fn walk(
        &mut self,
        memory: &GuestMemory,
        mut table: Table,
        head: u16,
        writable: Mark,
    ) -> Result<(), Fault> {
        // A chain is never longer than the queue, wherever its descriptors are (virtio 1.2 §2.7.5.3.1).
        let mut left = table.len;
        let mut index = head;
        loop {
            let descriptor = table.descriptor(memory, index)?;
            let is_chained = descriptor.has(VRING_DESC_F_NEXT);
            if descriptor.has(VRING_DESC_F_INDIRECT) {
                table = descriptor.indirect_table(table)?;
                index = 0;
                continue;
            }
            left = left.checked_sub(1).ok_or(Fault::TooLong)?;
            self.push(&descriptor, writable)?;
            if !is_chained {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn push(&mut self, descriptor: &Descriptor, writable: Mark) -> Result<(), Fault> {
        if descriptor.len == 0 {
            return Err(Fault::EmptyBuffer);
        }
        let list = if descriptor.has(VRING_DESC_F_WRITE) {
            &mut self.writable
        } else if self.writable.is_at(writable) {
            &mut self.readable
        } else {
            return Err(Fault::ReadableAfterWritable);
        };
        let pushed = list.push(GuestAddress(descriptor.address), descriptor.len);
        pushed.map_err(|error| match error {
            PushError::OutsideMemory => Fault::OutsideMemory,
            PushError::TooLong => Fault::TooLong,
        })
    }
}

impl Table {
    fn descriptor(&self, memory: &GuestMemory, index: u16) -> Result<Descriptor, Fault> {
        if index >= self.len {
            return Err(Fault::NextOutsideTable);
        }
        let offset = u64::from(index).saturating_mul(size_of::<Descriptor>() as u64);
        let address = self.address.0.checked_add(offset);
        let address = GuestAddress(address.ok_or(Fault::OutsideMemory)?);
        let mut descriptor = Descriptor::new_zeroed();
        let bytes = descriptor.as_mut_bytes();
        match memory.get_slice(address, bytes.len()) {
            Ok(place) => {
                place.copy_to(bytes);
            }
            // In two mappings, or in none.
            Err(_) => memory
                .read_slice(bytes, address)
                .map_err(|_| Fault::OutsideMemory)?,
        }
        Ok(descriptor.to_native())
    }
}

impl Descriptor {
    fn has(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }

    fn to_native(self) -> Self {
        Self {
            address: u64::from_le(self.address),
            len: u32::from_le(self.len),
            flags: u16::from_le(self.flags),
            next: u16::from_le(self.next),
        }
    }

    /// The table that this descriptor, found in `within`, points to. The write flag says nothing here
    /// (virtio 1.2 §2.7.5.3.2).
    fn indirect_table(&self, within: Table) -> Result<Table, Fault> {
        const DESCRIPTOR_LEN: u32 = 16;
        const { assert!(size_of::<Descriptor>() == DESCRIPTOR_LEN as usize) };
        let is_whole = self.len > 0 && self.len.is_multiple_of(DESCRIPTOR_LEN);
        if !within.may_be_indirect || self.has(VRING_DESC_F_NEXT) || !is_whole {
            return Err(Fault::Indirect);
        }
        let len = self.len.checked_div(DESCRIPTOR_LEN);
        let len = len.and_then(|len| u16::try_from(len).ok());
        Ok(Table {
            address: GuestAddress(self.address),
            len: len.ok_or(Fault::Indirect)?,
            may_be_indirect: false,
        })
    }
}
