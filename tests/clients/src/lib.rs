//! What a client's microVM needs on the host: a place for its files, and a disk.
//!
//! Each test drives the life of one microVM with one client library, unmodified: configuration, start, pause, the
//! requests of a running machine, a refused request, the end.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of one microVM's files. It goes when this is dropped.
pub struct Files(TempDir);

impl Files {
    /// A fresh directory.
    ///
    /// # Panics
    /// When the host has none.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cloister-client-")
            .tempdir();
        Self(directory.expect("the host has a directory for temporary files"))
    }

    /// The path `name` in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same, as the text that clients take.
    ///
    /// # Panics
    /// When the directory's name is not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }

    /// A disk image of `mib` MiB of zeros.
    ///
    /// # Panics
    /// When the directory takes no file.
    #[must_use]
    pub fn disk(&self, name: &str, mib: u64) -> String {
        let file = std::fs::File::create(self.path(name)).expect("the directory takes a file");
        file.set_len(mib << 20)
            .expect("a sparse file has any length");
        self.text(name)
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

/// `path` as the text that clients take.
///
/// # Panics
/// When it is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> String {
    path.to_str().expect("test paths are ASCII").to_owned()
}
