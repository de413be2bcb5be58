//! What concerns the process as a whole: its terminal and its end.

// UNSAFETY: `_exit` has no safe wrapper.
#![expect(unsafe_code, reason = "process-wide libc calls")]

mod terminal;

pub use terminal::{is_in_background, make_raw, restore};

/// Ends the process at once: the terminal is restored, nothing is unmapped or closed one by one.
///
/// Safe in a signal handler.
pub fn exit(code: u8) -> ! {
    restore();
    // SAFETY: Ends the process without running anything else; async-signal-safe (POSIX).
    unsafe { libc::_exit(i32::from(code)) }
}
