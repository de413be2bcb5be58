//! What concerns the process as a whole: its terminal, its files and its end.

// UNSAFETY: `_exit` has no safe wrapper, nor has what a signal handler is told.
#![expect(unsafe_code, reason = "process-wide libc calls")]

mod files;
mod signal;
mod terminal;

pub use files::remove_at_end;
pub use signal::{Cause, OnSignal, on_signal};
pub use terminal::{is_in_background, make_raw};

/// Puts the terminal back as it was, and removes the files that go with the process.
///
/// Safe in a signal handler: it waits for no lock and allocates nothing.
pub fn restore() {
    files::remove();
    terminal::restore();
}

/// Ends the process at once: the terminal is restored, files that go with the process are removed, nothing is unmapped or closed one by one.
///
/// Safe in a signal handler.
pub fn exit(code: u8) -> ! {
    restore();
    // SAFETY: Ends the process without running anything else; async-signal-safe (POSIX).
    unsafe { libc::_exit(i32::from(code)) }
}
