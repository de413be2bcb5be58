//! What a drive keeps its bytes in. Knows no descriptor.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use vm_config::Drive;

use super::file::{DiskError, DiskFile, SERIAL_LEN};
use super::overlay::{Holder, LockWait, Overlay, Stack};
use super::request::{Disk, Range};
use crate::sys::segments::Segments;

/// A raw disk, or overlays over one.
#[derive(Debug)]
pub enum Backend {
    /// A raw image or a block device.
    File(DiskFile),
    /// A copy-on-write layer over one.
    Overlay(Overlay),
}

/// Where bytes of the disk lie in a file, for who moves them without this type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) file: &'a Arc<File>,
    /// Byte of the file.
    pub(super) at: u64,
    /// Bytes that lie there, one after the other, or more than were asked for.
    pub(super) len: usize,
}

impl Backend {
    /// Opens what `drive` names.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the drive and what to do.
    pub fn open(drive: &Drive, wait: LockWait) -> Result<Self, DiskError> {
        let path = drive.path_on_host.as_ref().ok_or(DiskError::NoBackend)?;
        let is_read_only = drive.is_read_only.unwrap_or(false);
        let Some(overlay_path) = &drive.overlay_path else {
            if !drive.lower_overlay_paths.is_empty() {
                return Err(DiskError::NoTopOverlay);
            }
            return Ok(Self::File(DiskFile::open(path, is_read_only)?));
        };
        if is_read_only {
            return Err(DiskError::ReadOnlyOverlay);
        }
        let refuse = |path: &PathBuf| {
            let path = path.clone();
            |why| DiskError::Overlay { path, why }
        };
        let base = DiskFile::open(path, true)?;
        let mut stack = Stack::on(&base, path).map_err(refuse(overlay_path))?;
        for lower in &drive.lower_overlay_paths {
            stack.push(lower, wait).map_err(refuse(lower))?;
        }
        let overlay = Overlay::open(overlay_path, stack, wait);
        Ok(Self::Overlay(overlay.map_err(refuse(overlay_path))?))
    }

    /// The overlay, if it is one.
    pub(super) fn overlay(&self) -> Option<&Overlay> {
        match self {
            Self::File(_) => None,
            Self::Overlay(overlay) => Some(overlay),
        }
    }

    /// A driver begins, that flushes or does not.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn begin(&self, is_flushed: bool) -> io::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Overlay(overlay) => overlay.set_write_through(!is_flushed),
        }
    }

    /// Length and access.
    #[must_use]
    pub fn disk(&self) -> Disk {
        match self {
            Self::File(file) => file.disk(),
            Self::Overlay(overlay) => overlay.disk(),
        }
    }

    /// The block that is best read and written at once, bytes, a power of two from a sector on.
    #[must_use]
    pub fn block_len(&self) -> u32 {
        match self {
            Self::File(file) => file.block_len(),
            Self::Overlay(overlay) => overlay.block_len(),
        }
    }

    /// Space in the middle of it can be given back to the host.
    #[must_use]
    pub fn can_punch(&self) -> bool {
        match self {
            Self::File(file) => file.can_punch(),
            Self::Overlay(overlay) => overlay.can_punch(),
        }
    }

    /// What GET_ID answers.
    #[must_use]
    pub fn serial(&self) -> &[u8; SERIAL_LEN] {
        match self {
            Self::File(file) => file.serial(),
            Self::Overlay(overlay) => overlay.serial(),
        }
    }

    /// Fills `into` from byte `at` on.
    ///
    /// # Errors
    /// The host's, or that the file ended early because something cut it.
    pub fn read(&self, at: u64, into: &mut Segments) -> io::Result<()> {
        match self {
            Self::File(file) => file.read(at, into),
            Self::Overlay(overlay) => overlay.read(at, into),
        }
    }

    /// Stores `from` at byte `at` on.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, at: u64, from: &mut Segments) -> io::Result<()> {
        match self {
            Self::File(file) => file.write(at, from),
            Self::Overlay(overlay) => overlay.write(at, from),
        }
    }

    /// Gives the space of `range` back to the host; it reads as zero then.
    ///
    /// # Errors
    /// The host's; `Unsupported` where the file has no holes.
    pub fn punch(&self, range: Range) -> io::Result<()> {
        match self {
            Self::File(file) => file.punch(range),
            Self::Overlay(overlay) => overlay.zero(range, false),
        }
    }

    /// Makes `range` read as zero and keeps its space.
    ///
    /// # Errors
    /// The host's.
    pub fn zero(&self, range: Range) -> io::Result<()> {
        match self {
            Self::File(file) => file.zero(range),
            Self::Overlay(overlay) => overlay.zero(range, true),
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Overlay(overlay) => overlay.flush(),
        }
    }

    /// Where the first of the `len` bytes from `at` on are read.
    pub(super) fn read_place(&self, at: u64, len: usize) -> Place<'_> {
        match self {
            Self::File(disk) => Place {
                file: disk.file(),
                at,
                len,
            },
            Self::Overlay(overlay) => {
                let source = overlay.source(at, len);
                Place {
                    file: match source.from {
                        Holder::Top => overlay.medium(),
                        below => overlay.file_below(below),
                    },
                    at: source.at,
                    len: source.len,
                }
            }
        }
    }

    /// Where the bytes from `at` on are written, in one piece.
    pub(super) fn write_place(&self, at: u64) -> Place<'_> {
        let (file, at) = match self {
            Self::File(disk) => (disk.file(), at),
            Self::Overlay(overlay) => (overlay.medium(), overlay.target(at)),
        };
        Place {
            file,
            at,
            len: usize::MAX,
        }
    }
}
