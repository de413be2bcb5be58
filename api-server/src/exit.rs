//! The one way out of the process, and what it takes along.
//!
//! The API socket is removed and the terminal gets its settings back, whether the end is orderly, a signal or
//! a panic.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing::{error, info};
use vmm::metrics::METRICS;

/// The API socket, once it is ours.
static SOCKET: OnceLock<PathBuf> = OnceLock::new();

/// Listens at `path`, and removes it on the way out.
///
/// # Errors
/// When `path` exists or cannot be made.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    let _ = SOCKET.set(path.to_owned());
    Ok(listener)
}

/// Removes the socket and restores the terminal. Safe in a signal handler: it takes no lock and allocates
/// nothing (a socket's path is short, so the standard library converts it on the stack).
pub(crate) fn clean_up() {
    if let Some(path) = SOCKET.get() {
        let _ = std::fs::remove_file(path);
    }
    vmm::process::restore();
}

/// Writes the last log line, cleans up and ends the process.
pub(crate) fn leave(code: u8) -> ! {
    match code {
        0 => info!("Firecracker exiting successfully. exit_code=0"),
        _ => error!("Firecracker exiting with error. exit_code={code}"),
    }
    METRICS.flush_at_end();
    clean_up();
    vmm::process::exit(code);
}
