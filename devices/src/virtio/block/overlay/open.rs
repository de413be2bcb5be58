//! Opening an overlay: making one where nothing is, refusing what is something else.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use super::super::file::{DiskFile, can_punch, make_blocking, serial};
use super::super::medium::Medium;
use super::bitmap::Bitmap;
use super::header::{Base, HEADER_LEN, Header};
use super::layout::Layout;
use super::{Overlay, OverlayError};

/// Whether the lock of an overlay is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// A second, which holds the thread up: before a guest runs. A monitor that was killed may hold it that long.
    Second,
    /// Not at all: while a guest runs.
    None,
}

/// How long to wait for an overlay's lock. The kernel ends an io_uring, and what it still writes, a moment after the
/// process that is gone and was waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// A base, as an overlay over it knows it.
struct Identity {
    len: u64,
    base: Base,
    name: String,
}

impl Overlay {
    /// Opens the overlay at `path` over `base`, which is `base_path` and was opened for reading. A file that is missing
    /// or empty becomes an overlay with nothing in it.
    ///
    /// # Errors
    /// [`OverlayError`] says what to do; the file is as it was then.
    pub fn open(
        path: &Path,
        base: &DiskFile,
        base_path: &Path,
        wait: LockWait,
    ) -> Result<Self, OverlayError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A FIFO without a reader would otherwise never open.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(OverlayError::Io)?;
        let metadata = file.metadata().map_err(OverlayError::Io)?;
        let below = base.file().metadata().map_err(OverlayError::Io)?;
        if (metadata.dev(), metadata.ino()) == (below.dev(), below.ino()) {
            return Err(OverlayError::IsBase);
        }
        if !metadata.is_file() {
            return Err(OverlayError::NotAFile);
        }
        make_blocking(&file).map_err(OverlayError::Io)?;
        lock(&file, wait)?;
        let identity = Identity {
            len: base.disk().len,
            base: if below.file_type().is_block_device() {
                Base::Device
            } else {
                Base::File {
                    mtime_s: below.mtime(),
                    mtime_ns: u32::try_from(below.mtime_nsec()).unwrap_or_default(),
                }
            },
            name: name_of(base_path),
        };
        // Looked at with the lock held: nobody else writes it now.
        let (header, is_new) = match file_len(&file)? {
            0 => (make(&file, &identity)?, true),
            len => look(&file, len, &identity)?,
        };
        header.fits(&identity, base_path)?;
        let mut overlay = Self::with(Arc::new(file), Arc::clone(base.file()), header.layout)?;
        overlay.can_punch = can_punch(&overlay.medium, header.layout.file_len());
        overlay.serial = serial(&metadata);
        overlay.directory = is_new.then(|| directory_of(path)).flatten();
        Ok(overlay)
    }
}

impl<M: Medium> Overlay<M> {
    /// An overlay of `layout` in `medium`.
    pub(super) fn with(medium: M, base: Arc<File>, layout: Layout) -> Result<Self, OverlayError> {
        Ok(Self {
            layout,
            can_punch: false,
            serial: Default::default(),
            bitmap: Bitmap::load(&medium, layout)?,
            base,
            medium,
            is_write_through: AtomicBool::new(false),
            directory: None,
            is_named: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            copied: AtomicU64::new(0),
        })
    }
}

/// Makes sure that nobody else writes the file.
fn lock(file: &File, wait: LockWait) -> Result<(), OverlayError> {
    let patience = match wait {
        LockWait::Second => LOCK_PATIENCE,
        LockWait::None => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(OverlayError::InUse),
            Err(TryLockError::Error(error)) => return Err(OverlayError::Io(error)),
        }
    }
}

/// Makes an overlay of an empty file. Ended at any point by the death of the process, it leaves a file that is empty or
/// says that it is not whole; no guest has written to it. The first flush makes it durable, for a start need not wait
/// for a disk.
fn make(file: &File, over: &Identity) -> Result<Header, OverlayError> {
    let mut header = Header {
        is_whole: false,
        layout: Layout::of(over.len).ok_or(OverlayError::TooLarge)?,
        id: [0; 16],
        base: over.base,
        base_name: over.name.clone(),
    };
    rustix::rand::getrandom(&mut header.id, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OverlayError::Io(error.into()))?;
    let written = file
        .write_bytes(0, &header.encode())
        .and_then(|()| file.set_len(header.layout.file_len()))
        .and_then(|()| {
            header.is_whole = true;
            file.write_bytes(0, &header.encode())
        });
    if let Err(error) = written {
        // As it was.
        let _ = file.set_len(0);
        return Err(OverlayError::Io(error));
    }
    Ok(header)
}

/// Reads the header of a file that is not empty. True when it was made anew.
fn look(file: &File, len: u64, over: &Identity) -> Result<(Header, bool), OverlayError> {
    let mut page = [0; HEADER_LEN];
    match file.read_bytes(0, &mut page) {
        // Too short to be one.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(OverlayError::Unknown);
        }
        other => other.map_err(OverlayError::Io)?,
    }
    let would_be = Layout::of(over.len).map(Layout::file_len);
    if page == [0; HEADER_LEN] && would_be == Some(len) {
        return Err(OverlayError::NeverFlushed);
    }
    let header = Header::decode(&page)?;
    if !header.is_whole {
        file.set_len(0).map_err(OverlayError::Io)?;
        return Ok((make(file, over)?, true));
    }
    let expected = header.layout.file_len();
    if len != expected {
        return Err(OverlayError::Length { len, expected });
    }
    Ok((header, false))
}

impl Header {
    /// Whether it is an overlay over this base, by what it knows of it.
    fn fits(&self, over: &Identity, path: &Path) -> Result<(), OverlayError> {
        let has_len = self.layout.disk_len() == over.len;
        if has_len && self.base == over.base {
            return Ok(());
        }
        let path = path.display();
        let remedy = match self.base {
            Base::File { mtime_s, mtime_ns } if has_len => format!(
                "if that is the same image, unchanged, run `touch -d @{mtime_s}.{mtime_ns:09} {path}`; otherwise name the right base, or a new overlay"
            ),
            _ => "name the base it was made over, or a new overlay".to_owned(),
        };
        Err(OverlayError::OtherBase {
            made_over: describe(&self.base_name, self.layout.disk_len(), self.base),
            found: describe(&over.name, over.len, over.base),
            remedy,
        })
    }
}

fn describe(name: &str, len: u64, base: Base) -> String {
    match base {
        Base::File { mtime_s, mtime_ns } => {
            format!("{name:?} of {len} bytes, last changed at {mtime_s}.{mtime_ns:09}")
        }
        Base::Device => format!("device {name:?} of {len} bytes"),
    }
}

/// What a path ends in.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn file_len(file: &File) -> Result<u64, OverlayError> {
    Ok(file.metadata().map_err(OverlayError::Io)?.len())
}

/// Where a new file's name is to be made durable. Where the directory cannot be opened, its file system decides.
fn directory_of(path: &Path) -> Option<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).ok()
}
