//! Where this crate meets the kernel and raw memory: everything unsafe that a device needs.
//!
//! * [`event`]: events as descriptors that can be lent;
//! * [`poll`]: whether a file descriptor would block;
//! * [`segments`]: guest memory as the kernel's vectored calls take it;
//! * [`tap`]: tap devices;
//! * [`uring`]: the io_uring that drives share;
//! * [`vhost`]: the host kernel's network back end.

// UNSAFETY: vectored system calls take raw addresses, and guest memory cannot be a Rust slice because the
// guest writes it at any moment.
#![expect(unsafe_code)]

#[cfg(test)]
pub mod alloc;
pub mod event;
pub mod poll;
pub mod segments;
pub mod tap;
pub mod uring;
pub mod vhost;

use std::io;

/// Runs a system call again as long as a signal interrupts it.
///
/// `call` returns what the system call returned: a count, or -1 with `errno` set.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
