//! Whether a file descriptor would block.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Reading would not block: there is data, or the other end is gone.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, libc::POLLIN)
}

/// Writing a little would not block, or would fail at once.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, libc::POLLOUT)
}

fn is_ready(fd: BorrowedFd<'_>, events: libc::c_short) -> bool {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: `poll` reads and writes one `pollfd` at the address it is given.
    // 1. `entry` is one, borrowed mutably during the call.
    // 2. A timeout of 0 returns at once, so a signal cannot interrupt it.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    ready == 1
}
