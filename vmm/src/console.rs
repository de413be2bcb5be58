//! The guest's serial console: on this process's standard input and output, or in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::process;

/// Standard output, for the guest to write on.
///
/// # Errors
/// When it is closed.
pub(crate) fn output() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

/// The file or FIFO at `path`, made if it is missing, for the guest to write on from its start.
///
/// # Errors
/// The host's.
pub(crate) fn open_output(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        // A FIFO opened for both needs no reader yet.
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // Nor may a terminal become this process's own.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    Ok(file.into())
}

/// Standard input, for the guest to read, if it is a terminal or a pipe; the terminal is made raw. Whoever ends
/// the process restores it. The terminal of a process in the background is somebody else's: to read or change it
/// would stop the process (termios(4), `SIGTTIN` and `SIGTTOU`).
pub(crate) fn input() -> Option<OwnedFd> {
    let input = io::stdin().as_fd().try_clone_to_owned().ok()?;
    if io::stdin().is_terminal() {
        if process::is_in_background() {
            tracing::warn!(
                "this process is in the background: the guest gets no input from the terminal"
            );
            return None;
        }
        if let Err(error) = process::make_raw() {
            tracing::warn!("the terminal stays as it is, keys arrive by the line: {error}");
        }
        return Some(input);
    }
    let file = File::from(input);
    let is_pipe = file.metadata().ok()?.file_type().is_fifo();
    is_pipe.then(|| file.into())
}
