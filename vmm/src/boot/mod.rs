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

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// Opens a kernel or an initrd without ever waiting: a FIFO would, for a writer that may never come. Whether it is
/// a regular file shows when it is loaded.
///
/// # Errors
/// The host's.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Only regular files have an end to load up to: a FIFO may wait for ever, a device such as `/dev/zero` never ends.
pub(crate) fn check_regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is a directory, FIFO, socket or device",
    ))
}
