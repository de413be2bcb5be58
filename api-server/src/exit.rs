//! The one way out of the process, and what it takes along.
//!
//! The API socket is removed and the terminal gets its settings back, whether the end is orderly, a signal or
//! a panic.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tracing::{error, info};

static SOCKET: OnceLock<PathBuf> = OnceLock::new();
static TERMINAL: OnceLock<Termios> = OnceLock::new();

/// Listens at `path`, and removes it on the way out.
///
/// # Errors
/// When `path` exists or cannot be made.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    let _ = SOCKET.set(path.to_owned());
    Ok(listener)
}

/// Remembers the settings of the terminal that is standard input, if it is one.
pub(crate) fn remember_terminal() {
    if let Ok(settings) = tcgetattr(rustix::stdio::stdin()) {
        let _ = TERMINAL.set(settings);
    }
}

/// Removes the socket and restores the terminal. Safe to call from a signal handler: it takes no lock and
/// allocates nothing (a socket's path is short, so the standard library converts it on the stack).
pub(crate) fn clean_up() {
    if let Some(path) = SOCKET.get() {
        let _ = std::fs::remove_file(path);
    }
    restore_terminal();
}

fn restore_terminal() {
    let (Some(before), stdin) = (TERMINAL.get(), rustix::stdio::stdin()) else {
        return;
    };
    // Setting it without need would stop a process that runs in the background.
    let is_changed = tcgetattr(stdin).is_ok_and(|now| {
        now.local_modes != before.local_modes || now.input_modes != before.input_modes
    });
    if is_changed {
        let _ = tcsetattr(stdin, OptionalActions::Now, before);
    }
}

/// Writes the last log line, cleans up and ends the process.
pub(crate) fn leave(code: u8) -> ! {
    match code {
        0 => info!("Firecracker exiting successfully. exit_code=0"),
        _ => error!("Firecracker exiting with error. exit_code={code}"),
    }
    clean_up();
    std::process::exit(code.into());
}
