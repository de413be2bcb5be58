//! The terminal on standard input: raw while a guest has the console, as it was on every way out.

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// The attributes to go back to.
static ORIGINAL: OnceLock<libc::termios> = OnceLock::new();

/// Puts the terminal on standard input, if it is one, into raw mode: every key goes to the guest.
///
/// # Errors
/// When the terminal refuses.
pub fn make_raw() -> io::Result<()> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: `attributes` has room for the struct that the call fills.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, attributes.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The call above succeeded, so the struct is filled.
    let attributes = unsafe { attributes.assume_init() };
    let mut raw = *ORIGINAL.get_or_init(|| attributes);
    // SAFETY: Changes fields of a struct we own.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    // Output stays processed: the log shares the terminal and ends its lines with `\n` alone.
    raw.c_oflag = attributes.c_oflag;
    set(&raw)
}

/// Puts the terminal back as it was. Does nothing when it was never changed. Safe in a signal handler.
pub fn restore() {
    if let Some(original) = ORIGINAL.get() {
        // Nothing can be done about a terminal that is gone.
        let _ = set(original);
    }
}

fn set(attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: `attributes` is a valid struct; the call only reads it. Async-signal-safe (POSIX).
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, attributes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
