//! Files that exist in memory only.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// A regular file that holds `bytes`, to be read from its start.
///
/// # Panics
/// When the host has no memory.
#[must_use]
pub fn holding(bytes: &[u8]) -> File {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("the host has memory");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("the host has memory");
    file.rewind().expect("it is a regular file");
    file
}

/// Where `file` can be opened once more, as long as it is open.
#[must_use]
pub fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
