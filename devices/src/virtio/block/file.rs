//! A disk in a file or a block device of the host. Knows no descriptor.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;
use vm_config::{Explain, FaultCode, FaultKind};

use super::MAX_QUEUES;
use super::medium::Medium;
use super::overlay::OverlayError;
use super::request::{Disk, Range, SECTOR};
use crate::sys::segments::Segments;
use crate::virtio::vhost_user::VhostUserError;

/// Length of a serial number (virtio 1.2 §5.2.6).
pub const SERIAL_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A disk that cannot be had. The words are those existing clients look for; who asked for the disk says so in
/// front of them.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Neither a file nor a back end, or both.
    #[error("Invalid block config.; give `path_on_host`, or `socket` without it")]
    NoBackend,
    /// A back end, and what it decides itself.
    #[error("Invalid block config.; leave {0} out, or `socket`: the back end decides about it")]
    NotWithSocket(&'static str),
    /// A back end for a microVM whose memory it could not have.
    #[error(
        "Invalid block config.; state a drive with `socket` before the start: guest memory is shared with its back end from the start on"
    )]
    SocketAfterStart,
    /// The back end in another process; part of the message, so not its source.
    #[error("Vhost user backend error: {0}")]
    VhostUser(VhostUserError),
    /// The host's kernel has no io_uring, or not for this process.
    #[error(
        "Virtio backend error: Error initializing the io_engine: io_uring is not available ({0}); use Linux 5.10.51 or later, check /proc/sys/kernel/io_uring_disabled and the process's seccomp filter, or set `io_engine` to `Sync`"
    )]
    NoUring(io::Error),
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
    /// None, or more than there can be.
    #[error("Invalid block config.; num_queues {0} is out of range [1, {MAX_QUEUES}]")]
    Queues(u16),
    /// The overlay over the file.
    #[error("Virtio backend error: overlay {} {why}", path.display())]
    Overlay {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it; part of the message, so not its source.
        why: OverlayError,
    },
    /// An overlay that nobody may write.
    #[error(
        "Invalid block config.; `overlay_path` is for what the guest writes: remove it, or `is_read_only`"
    )]
    ReadOnlyOverlay,
    /// Sealed overlays, and nothing that takes what the guest writes.
    #[error(
        "Invalid block config.; `lower_overlay_paths` are sealed: give an `overlay_path` for what the guest writes"
    )]
    NoTopOverlay,
    /// Other layers below an overlay that was made over those that are there.
    #[error(
        "Invalid block config.; `lower_overlay_paths` changes with `overlay_path` alone, for an overlay belongs to what is below it: give a new `overlay_path` too"
    )]
    LowerAlone,
    /// A seal of what is no overlay.
    #[error(
        "Invalid block config.; the drive has no overlay to seal: give it an `overlay_path` before the start"
    )]
    NothingToSeal,
    /// A seal with nowhere for the guest's next write.
    #[error(
        "Invalid block config.; `seal_overlay` seals the overlay that the drive has: give in `overlay_path` a new file for what the guest writes from then on"
    )]
    SealToNowhere,
    /// A seal that would change what the guest sees.
    #[error(
        "Invalid block config.; with `seal_overlay` the disk stays the same: leave `path_on_host` and `lower_overlay_paths` out"
    )]
    SealOfAnother,
    /// A new base below the overlay of the old one.
    #[error(
        "Invalid block config.; the drive's overlay belongs to the file it has: give a new `overlay_path` with the new `path_on_host`"
    )]
    OverlayOfAnother,
}

impl From<VhostUserError> for DiskError {
    fn from(error: VhostUserError) -> Self {
        Self::VhostUser(error)
    }
}

impl Explain for DiskError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::VhostUser(inner) => return FaultKind::Inner(inner),
            Self::NoBackend
            | Self::NotWithSocket(_)
            | Self::ReadOnlyOverlay
            | Self::NoTopOverlay
            | Self::LowerAlone
            | Self::NothingToSeal
            | Self::SealToNowhere
            | Self::SealOfAnother
            | Self::OverlayOfAnother => FaultCode::DriveBackendInvalid,
            Self::SocketAfterStart => FaultCode::VhostUserPrivateMemory,
            Self::NoUring(_) => FaultCode::IoUringUnavailable,
            Self::Open { .. } | Self::NotADisk { .. } => FaultCode::DriveFile,
            Self::Ragged { .. } => FaultCode::DriveSize,
            Self::Queues(_) => FaultCode::QueueCountInvalid,
            Self::Overlay { .. } => FaultCode::DriveOverlay,
        })
    }
}

/// An open disk.
#[derive(Debug)]
pub struct DiskFile {
    file: Arc<File>,
    len: u64,
    is_read_only: bool,
    block_len: u32,
    can_punch: bool,
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
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(!is_read_only);
            // A FIFO without a writer would otherwise never open.
            options.custom_flags(libc::O_NONBLOCK | flags).open(path)
        };
        // Reads by a guest say nothing of the file's use, and noting each of them costs; only the owner may ask for
        // that (open(2), `O_NOATIME`).
        let mut file = match open(libc::O_NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(0),
            opened => opened,
        }
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
        make_blocking(&file).map_err(fail)?;
        // The metadata of a block device says nothing of its length.
        let len = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if !len.is_multiple_of(SECTOR) {
            return Err(DiskError::Ragged {
                path: path.to_owned(),
                len,
            });
        }
        Ok(Self {
            can_punch: kind.is_file() && !is_read_only && can_punch(&file, len),
            len,
            is_read_only,
            block_len: block_len(&metadata),
            serial: serial(&metadata),
            file: Arc::new(file),
        })
    }

    /// The file itself, for who moves data without this type.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Length and access.
    #[must_use]
    pub fn disk(&self) -> Disk {
        Disk {
            len: self.len,
            is_read_only: self.is_read_only,
            ..Disk::default()
        }
    }

    /// The block that the host reads and writes at once, bytes, a power of two from a sector on.
    #[must_use]
    pub fn block_len(&self) -> u32 {
        self.block_len
    }

    /// Space in the middle of it can be given back to the host.
    #[must_use]
    pub fn can_punch(&self) -> bool {
        self.can_punch
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
        self.file.read_all(at, into, usize::MAX)
    }

    /// Stores `from` at byte `at` on.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, at: u64, from: &mut Segments) -> io::Result<()> {
        self.file.write_all(at, from, usize::MAX)
    }

    /// Gives the space of `range` back to the host; it reads as zero then.
    ///
    /// # Errors
    /// The host's; `Unsupported` where the file has no holes.
    pub fn punch(&self, range: Range) -> io::Result<()> {
        self.file.punch(range)
    }

    /// Makes `range` read as zero and keeps its space.
    ///
    /// # Errors
    /// The host's.
    pub fn zero(&self, range: Range) -> io::Result<()> {
        self.file.zero(range)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Takes back `O_NONBLOCK`, which a file was opened with. Before Linux 5.14 io_uring fails every request to such a file
/// that the page cache does not answer at once (`EAGAIN`, `io_prep_rw`), however often it is made again.
pub(super) fn make_blocking(file: &File) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(file, false)?)
}

/// Whether the file system has holes, asked without harm: behind the end there is nothing to lose.
pub(super) fn can_punch(file: &File, len: u64) -> bool {
    let behind = Range {
        at: len,
        len: SECTOR,
    };
    file.punch(behind).is_ok()
}

/// The preferred block of the file; a sector when the host names none that makes sense.
fn block_len(metadata: &Metadata) -> u32 {
    let is_good = |len: &u32| len.is_power_of_two() && (512..=1 << 16).contains(len);
    let len = u32::try_from(metadata.blksize()).ok();
    len.filter(is_good).unwrap_or(512)
}

/// Device, special device and inode numbers of the file in decimal, cut or padded to 20 bytes: the same file
/// has the same serial number on every start.
pub(super) fn serial(metadata: &Metadata) -> [u8; SERIAL_LEN] {
    padded(&format!(
        "{}{}{}",
        metadata.dev(),
        metadata.rdev(),
        metadata.ino()
    ))
}

/// `text` as GET_ID answers it, cut or padded with zeros.
pub(super) fn padded(text: &str) -> [u8; SERIAL_LEN] {
    let mut serial = [0; SERIAL_LEN];
    for (byte, character) in serial.iter_mut().zip(text.bytes()) {
        *byte = character;
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
pub(super) mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::super::medium::write_zeroes;
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

    /// `O_NONBLOCK` in the flags of an open file (proc(5)).
    pub(in super::super) fn is_non_blocking(file: &File) -> bool {
        let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
        let text = std::fs::read_to_string(path).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        flags & libc::O_NONBLOCK != 0
    }

    #[test]
    fn an_image_is_waited_for_by_every_kernel() {
        let image = tempfile::NamedTempFile::new().unwrap();
        for is_read_only in [false, true] {
            let open = DiskFile::open(image.path(), is_read_only).unwrap();
            assert!(!is_non_blocking(&open.file));
        }
    }

    #[test]
    fn ranges_read_as_zero_and_the_rest_stays() {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&[0xaa; 1 << 20]).unwrap();
        let open = DiskFile::open(image.path(), false).unwrap();
        let range = |at, len| Range { at, len };
        if !open.can_punch() {
            eprintln!("skipped, runs where temporary files have holes");
            return;
        }
        open.punch(range(4096, 8192)).unwrap();
        open.zero(range(1 << 16, 512)).unwrap();
        write_zeroes(&*open.file, range(1 << 17, (1 << 17) + 512)).unwrap();
        open.punch(range(0, 0)).unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        for (index, byte) in bytes.into_iter().enumerate() {
            let is_zero = (4096..12288).contains(&index)
                || (1 << 16..(1 << 16) + 512).contains(&index)
                || (1 << 17..(1 << 18) + 512).contains(&index);
            assert_eq!(byte, if is_zero { 0 } else { 0xaa }, "{index}");
        }
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
