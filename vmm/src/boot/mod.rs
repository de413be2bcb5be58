//! Puts a kernel, its command line and its initial RAM disk into guest memory, and says how to enter it.
//!
//! [`kernel::load_kernel`] recognises the image, [`bzimage`] unpacks it, [`elf`] places its segments, [`cmdline`] and [`initrd`] add the rest,
//! and [`pvh`] or [`linux`] tells the kernel where it all is. Everything read here comes from a
//! file somebody else made: each number in it is checked before it is used.

#[cfg(target_arch = "x86_64")]
pub mod bzimage;
pub mod cmdline;
#[cfg(target_arch = "x86_64")]
pub mod elf;
pub mod initrd;
#[cfg(target_arch = "x86_64")]
pub mod kernel;
#[cfg(target_arch = "x86_64")]
pub mod linux;
#[cfg(target_arch = "x86_64")]
pub mod pvh;
#[cfg(target_arch = "x86_64")]
pub mod unpack;

use vm_memory::GuestAddress;

use crate::arch::x86_64::layout::MemoryMapEntry;

/// An initial RAM disk in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// First byte.
    pub start: GuestAddress,
    /// Bytes.
    pub len: u64,
}

/// What a kernel is told about the machine, in either boot protocol.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'a> {
    /// The command line, terminated by NUL.
    pub cmdline: GuestAddress,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The ACPI root pointer.
    pub rsdp: GuestAddress,
    /// What lies where.
    pub memory_map: &'a [MemoryMapEntry],
}
