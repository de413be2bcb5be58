//! Memory of this process that a guest can be given.

use std::any::Any;

use vm_memory::GuestAddress;

/// What a guest may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
    /// Read and write it, as all RAM is: what it writes can be logged.
    Ram,
}

/// Memory for one slot. Holding one proves that the range is mapped, and stays so as long as this lives.
pub struct SlotMemory {
    pub(super) start: GuestAddress,
    pub(super) address: *mut u8,
    pub(super) len: u64,
    pub(super) access: Access,
    /// Unmaps the range when it is dropped, not before.
    pub(super) _owner: Box<dyn Any + Send>,
}

// SAFETY: The mapping belongs to the process, not to a thread; the address is a number for the kernel.
unsafe impl Send for SlotMemory {}

impl SlotMemory {
    /// Where the guest finds it.
    #[must_use]
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// Where this process has it.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What the guest may do with it.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }
}
