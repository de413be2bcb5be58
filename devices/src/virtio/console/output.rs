//! The host's end of a console: a file, FIFO or terminal. Knows no descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vm_config::{Explain, FaultCode, FaultKind};

use crate::sys::segments::Segments;

/// A console that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The host refused the file.
    #[error(
        "cannot open {path:?} for the guest's console; check output_path as this process sees it"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

impl Explain for ConsoleError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Open { .. } => FaultCode::ConsoleFile,
        })
    }
}

/// Where output goes. It says `WouldBlock` rather than block.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// It can be full, and the kernel tells when it is not any more (epoll(7)).
    can_be_full: bool,
}

impl Output {
    /// Opens `path`, made if it is missing, to write behind what it holds. A FIFO needs no reader yet.
    ///
    /// # Errors
    /// [`ConsoleError`] says what to do.
    pub fn open(path: &Path) -> Result<Self, ConsoleError> {
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        opened
            .and_then(Self::new)
            .map_err(|source| ConsoleError::Open {
                path: path.to_owned(),
                source,
            })
    }

    /// Writes to `file`, which does not block.
    fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let can_be_full = kind.is_fifo() || kind.is_socket() || file.is_terminal();
        Ok(Self { file, can_be_full })
    }

    /// What tells that there is room again.
    pub(super) fn watched(&self) -> Option<RawFd> {
        self.can_be_full.then(|| self.file.as_raw_fd())
    }

    /// Another handle on the same file.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            can_be_full: self.can_be_full,
        })
    }

    /// Writes the front of `bytes`, at most `max`, and takes what was written off the front. Returns how much.
    pub(super) fn write(&self, bytes: &mut Segments, max: usize) -> io::Result<usize> {
        match bytes.write_stream(self.file.as_fd(), max)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// One end of a pair of sockets.
    #[cfg(test)]
    pub(super) fn fake(end: std::os::unix::net::UnixStream) -> Self {
        end.set_nonblocking(true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(end));
        Self::new(file).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn a_file_is_made_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let output = Output::open(&path).unwrap();
        assert_eq!(output.watched(), None);
        (&output.file).write_all(b"one").unwrap();
        let mut again = Output::open(&path).unwrap();
        again.file.rewind().unwrap();
        (&again.file).write_all(b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
    }

    #[test]
    fn devices_that_never_fill_are_not_watched() {
        let null = Output::open(Path::new("/dev/null")).unwrap();
        assert_eq!(null.watched(), None);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let why = Output::open(folder.path()).unwrap_err().to_string();
        assert!(why.contains(folder.path().to_str().unwrap()), "{why}");
        assert!(why.contains("output_path"), "{why}");
    }
}
