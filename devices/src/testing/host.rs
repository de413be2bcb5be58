//! What this process may have of the host, for tests that need more than files and memory.

use std::io;

use libc::{EACCES, ENOSYS, EPERM};
use vm_config::BlockEngine;

use crate::virtio::block::SharedRing;

/// What the host gave. `None`, with a line that says so, only where it forbids it to this process: a test that needs it is
/// then skipped, and runs where there is `needed`.
///
/// # Panics
/// When it fails for any other reason.
pub fn unless_forbidden<T>(given: io::Result<T>, needed: &str) -> Option<T> {
    match given {
        Ok(given) => Some(given),
        Err(error) if is_forbidden(&error) => {
            eprintln!("skipped, runs with {needed}: {error}");
            None
        }
        Err(error) => panic!("this host could give {needed}, and does not: {error}"),
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EPERM | EACCES | ENOSYS))
}

/// The engines that a drive can have in this process.
///
/// # Panics
/// When the host gives no io_uring though it is allowed.
#[must_use]
pub fn engines() -> Vec<BlockEngine> {
    let ring = unless_forbidden(
        SharedRing::default().get(),
        "io_uring for the second engine",
    );
    let second = ring.map(|_| BlockEngine::Async);
    [BlockEngine::Sync].into_iter().chain(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_forbidden_is_skipped() {
        assert_eq!(unless_forbidden(Ok(7), "nothing"), Some(7));
        for errno in [EPERM, EACCES, ENOSYS] {
            let refused = Err::<(), _>(io::Error::from_raw_os_error(errno));
            assert_eq!(unless_forbidden(refused, "a right"), None);
        }
    }

    #[test]
    #[should_panic(expected = "could give a queue")]
    fn any_other_failure_fails() {
        let broken = Err::<(), _>(io::Error::from_raw_os_error(libc::EINVAL));
        let _ = unless_forbidden(broken, "a queue");
    }
}
