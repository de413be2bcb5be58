//! What concerns the process as a whole: its user, its terminal, its end.

// UNSAFETY: calls of libc that have no safe wrapper: terminal attributes and process exit, some of them from
// signal handlers.
#![expect(unsafe_code, reason = "process-wide libc calls")]

mod terminal;

pub use terminal::{make_raw, restore};

/// This process's effective user.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: Takes nothing and cannot fail (POSIX).
    unsafe { libc::geteuid() }
}

/// Ends the process at once: the terminal is restored, nothing is unmapped or closed one by one.
///
/// Safe in a signal handler.
pub fn exit(code: u8) -> ! {
    restore();
    // SAFETY: Ends the process without running anything else; async-signal-safe (POSIX).
    unsafe { libc::_exit(i32::from(code)) }
}
