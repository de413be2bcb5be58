//! What a guest can touch: virtio and legacy devices over plain guest memory.
//!
//! Nothing here knows KVM or HTTP. A device reads and writes [`GuestMemory`], raises an
//! [`irq::IrqLine`], and is reached through [`Registers`]; the `vmm` crate supplies all three.

pub mod acpi;
pub mod irq;
pub mod legacy;
mod limiter;
pub mod memory;
pub mod metrics;
pub mod mmds;
pub mod pci;
mod sys;
pub mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: sys::alloc::Counting = sys::alloc::Counting;

pub use memory::GuestMemory;

/// A window of ports or memory-mapped registers that vCPUs access.
///
/// Called from every vCPU thread, so implementations hold their own lock, for one access at a time.
/// `data` is 1 to 8 bytes long (an access across two pages comes in two parts of any length); `offset` is relative to
/// the window. A guest chooses both.
pub trait Registers: Send + Sync {
    /// Fills `data` with the registers at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Stores `data` into the registers at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}
