//! Files that go with the process, on every way out.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The vsock device's socket.
static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes the file at `path` when the process ends, in place of the one it was to remove before.
pub fn remove_at_end(path: Option<PathBuf>) {
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = path;
}

/// Removes it. Waits for no lock: a signal handler may have interrupted its holder. Allocates nothing: a socket's path
/// is short, so the standard library converts it on the stack.
pub(super) fn remove() {
    if let Ok(file) = FILE.try_lock()
        && let Some(path) = file.as_ref()
    {
        // It may be gone already.
        let _ = std::fs::remove_file(path);
    }
}
