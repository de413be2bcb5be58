//! Events as descriptors that can be lent.

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The event's descriptor, as long as the event.
pub fn lend(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `borrow_raw` wants a descriptor that stays open as long as the result.
    // `event` owns it, closes it when it is dropped, and is borrowed as long.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
