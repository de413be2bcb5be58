//! A disk in a file or a block device of the host. Knows no descriptor.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::request::{Disk, SECTOR};
use crate::sys::segments::Segments;

/// Length of a serial number (virtio 1.2 §5.2.6).
pub const SERIAL_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A disk that cannot be had. The words are those existing clients look for; who asked for the disk says so in
/// front of them.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Neither a file nor a back end, or both.
    #[error("Invalid block config.; give `path_on_host`, or `socket` without it")]
    NoBackend,
    /// A part of the interface that this build does not have.
    #[error("{0} is not supported by this build; remove it from the request")]
    NotSupported(&'static str),
    /// The host refused the file.
    #[error(
        "Virtio backend error: Error manipulating the backing file: {error} {}; {}",
        path.display(), remedy(error)
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error(
        "Virtio backend error: {} is neither a regular file nor a block device; give a raw disk image",
        path.display()
    )]
    NotADisk {
        /// Which file.
        path: PathBuf,
    },
    /// Not whole sectors.
    #[error(
        "Virtio backend error: disk image {path} is {len} bytes, not a multiple of 512; run `truncate -s %512 {path}` to fill its last sector",
        path = path.display()
    )]
    Ragged {
        /// Which file.
        path: PathBuf,
        /// Its length, bytes.
        len: u64,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    disk: Disk,
    serial: [u8; SERIAL_LEN],
}

impl DiskFile {
    /// Opens a raw image or a block device, for writing too unless `is_read_only`.
    ///
    /// # Errors
    /// [`DiskError`] says what to do.
    pub fn open(path: &Path, is_read_only: bool) -> Result<Self, DiskError> {
        let fail = |error| DiskError::Open {
            path: path.to_owned(),
            error,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!is_read_only)
            // A FIFO without a writer would otherwise never open.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(fail(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk {
                path: path.to_owned(),
            });
        }
        // The metadata of a block device says nothing of its length.
        let len = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if !len.is_multiple_of(SECTOR) {
            return Err(DiskError::Ragged {
                path: path.to_owned(),
                len,
            });
        }
        Ok(Self {
            file,
            disk: Disk { len, is_read_only },
            serial: serial(&metadata),
        })
    }

    /// Length and access.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// What GET_ID answers.
    #[must_use]
    pub fn serial(&self) -> &[u8; SERIAL_LEN] {
        &self.serial
    }

    /// Fills `into` from byte `at` on.
    ///
    /// # Errors
    /// The host's, or that the file ended early because something cut it.
    pub fn read(&self, at: u64, into: &mut Segments) -> io::Result<()> {
        each_part(at, into, |part, at| part.read_at(&self.file, at))
    }

    /// Stores `from` at byte `at` on.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, at: u64, from: &mut Segments) -> io::Result<()> {
        each_part(at, from, |part, at| part.write_at(&self.file, at))
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Calls `step`, which consumes what it moved, until all of `segments` was moved.
fn each_part(
    mut at: u64,
    segments: &mut Segments,
    mut step: impl FnMut(&mut Segments, u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !segments.is_empty() {
        match step(segments, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved => at = at.saturating_add(moved as u64),
        }
    }
    Ok(())
}

/// Device, special device and inode numbers of the file in decimal, cut or padded to 20 bytes: the same file
/// has the same serial number on every start.
fn serial(metadata: &Metadata) -> [u8; SERIAL_LEN] {
    let text = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    let mut serial = [0; SERIAL_LEN];
    for (byte, digit) in serial.iter_mut().zip(text.bytes()) {
        *byte = digit;
    }
    serial
}

/// What a user can do about a file that does not open.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path, as the jailed process sees it",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let the process's user read and write it, or set `is_read_only`"
        }
        io::ErrorKind::IsADirectory => "give a raw disk image",
        _ => "check the file",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn error_of(path: &Path, is_read_only: bool) -> String {
        DiskFile::open(path, is_read_only).unwrap_err().to_string()
    }

    #[test]
    fn missing_file_names_path_cause_and_remedy() {
        let text = error_of(Path::new("/nowhere/disk"), false);
        let cause = "Error manipulating the backing file: No such file or directory (os error 2) /nowhere/disk; check";
        assert!(text.contains(cause), "{text}");
    }

    #[test]
    fn directory_is_refused_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        for is_read_only in [false, true] {
            let text = error_of(directory.path(), is_read_only);
            assert!(text.contains("Is a directory (os error 21)"), "{text}");
        }
    }

    #[test]
    fn device_that_is_no_disk_is_refused() {
        let text = error_of(Path::new("/dev/null"), false);
        assert!(text.contains("neither a regular file"), "{text}");
    }

    #[test]
    fn image_that_is_not_whole_sectors_is_refused_with_the_remedy() {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&[0; 1000]).unwrap();
        let text = error_of(image.path(), false);
        let path = image.path().display();
        assert!(text.contains("is 1000 bytes"), "{text}");
        assert!(text.contains(&format!("truncate -s %512 {path}")), "{text}");
    }

    #[test]
    fn serial_is_the_files_numbers() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let open = DiskFile::open(image.path(), true).unwrap();
        let metadata = image.as_file().metadata().unwrap();
        let text = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
        let shown = std::str::from_utf8(open.serial()).unwrap();
        assert_eq!(shown.trim_end_matches('\0'), &text[..text.len().min(20)]);
    }
}
