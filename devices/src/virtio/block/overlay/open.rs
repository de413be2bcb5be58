//! Opening an overlay: making one where nothing is, refusing what is something else.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use super::super::file::{can_punch, make_blocking, serial};
use super::super::medium::Medium;
use super::bitmap::Bitmap;
use super::header::{HEADER_PAGE, Header, State};
use super::identity::{Identity, metadata, numbers};
use super::layers::{Below, Stack};
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

impl Overlay {
    /// Opens the overlay at `path` on `stack`. A file that is missing or empty becomes an overlay with nothing in it.
    ///
    /// # Errors
    /// [`OverlayError`] says what to do; the file is as it was then.
    pub fn open(path: &Path, stack: Stack, wait: LockWait) -> Result<Self, OverlayError> {
        let file = open_to_write(path)?;
        let found = metadata(&file)?;
        stack.check_file(numbers(&found))?;
        if !found.is_file() {
            return Err(OverlayError::NotAFile);
        }
        lock(&file, wait)?;
        // Looked at with the lock held: nobody else writes it now.
        let (header, is_new) = match metadata(&file)?.len() {
            0 => (make(&file, stack.over())?, true),
            len => look(&file, len, stack.over())?,
        };
        if header.state == State::Sealed {
            return Err(OverlayError::Sealed);
        }
        header.fits(stack.over())?;
        stack.check_blocks(&header)?;
        let file_len = header.layout.file_len();
        let mut overlay = Self::with(Arc::new(file), header, stack.into_below())?;
        overlay.can_punch = can_punch(&overlay.medium, file_len);
        overlay.serial = serial(&found);
        overlay.directory = is_new.then(|| directory_of(path)).flatten();
        Ok(overlay)
    }
}

impl<M: Medium> Overlay<M> {
    /// An overlay with this header in `medium`.
    pub(super) fn with(medium: M, header: Header, below: Below) -> Result<Self, OverlayError> {
        let bitmap = Bitmap::load(&medium, header.layout)?;
        Ok(Self::of(medium, header, below, bitmap))
    }

    /// One whose blocks are known.
    pub(super) fn of(medium: M, header: Header, below: Below, bitmap: Bitmap) -> Self {
        Self {
            layout: header.layout,
            header: Box::new(header),
            can_punch: false,
            serial: Default::default(),
            below,
            medium,
            bitmap,
            is_write_through: AtomicBool::new(false),
            directory: None,
            is_named: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            copied: AtomicU64::new(0),
        }
    }
}

/// Opens an overlay to write to, or what is to become one.
pub(super) fn open_to_write(path: &Path) -> Result<File, OverlayError> {
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
    make_blocking(&file).map_err(OverlayError::Io)?;
    Ok(file)
}

/// Makes sure that nobody else writes the file, or reads it as a layer.
pub(super) fn lock(file: &File, wait: LockWait) -> Result<(), OverlayError> {
    until_locked(wait, || file.try_lock())
}

/// Makes sure that nobody writes the file.
pub(super) fn lock_shared(file: &File, wait: LockWait) -> Result<(), OverlayError> {
    until_locked(wait, || file.try_lock_shared())
}

fn until_locked(
    wait: LockWait,
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
) -> Result<(), OverlayError> {
    let patience = match wait {
        LockWait::Second => LOCK_PATIENCE,
        LockWait::None => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    loop {
        match try_lock() {
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
    let mut header = Header::new(over)?;
    let written = begin(file, &header).and_then(|()| {
        header.state = State::Open;
        file.write_bytes(0, &header.encode())
    });
    if let Err(error) = written {
        // As it was.
        let _ = file.set_len(0);
        return Err(OverlayError::Io(error));
    }
    Ok(header)
}

/// Gives an empty file its length and `header`, which says that it is being made.
pub(super) fn begin(file: &File, header: &Header) -> io::Result<()> {
    let mut page = [0; HEADER_PAGE];
    if let Some(place) = page.first_chunk_mut() {
        *place = header.encode();
    }
    file.write_bytes(0, &page)?;
    file.set_len(header.layout.file_len())
}

impl Header {
    /// That of an overlay which is being made.
    pub(super) fn new(over: &Identity) -> Result<Self, OverlayError> {
        let mut id = [0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| OverlayError::Io(error.into()))?;
        Ok(Self {
            state: State::BeingMade,
            layout: Layout::of(over.len).ok_or(OverlayError::TooLarge)?,
            id,
            base: over.base,
            base_name: over.name.clone(),
        })
    }
}

/// Reads the header of a file that is not empty. True when it was made anew.
fn look(file: &File, len: u64, over: &Identity) -> Result<(Header, bool), OverlayError> {
    let page = first_page(file)?;
    let would_be = Layout::of(over.len).map(Layout::file_len);
    if page == [0; HEADER_PAGE] && would_be == Some(len) {
        return Err(OverlayError::NeverFlushed);
    }
    let header = Header::decode(&page)?;
    if header.state == State::BeingMade {
        file.set_len(0).map_err(OverlayError::Io)?;
        return Ok((make(file, over)?, true));
    }
    check_len(&header, len)?;
    Ok((header, false))
}

/// Reads the header of an overlay of `len` bytes that is not to be made anew.
pub(super) fn read_header(file: &File, len: u64) -> Result<Header, OverlayError> {
    let header = Header::decode(&first_page(file)?)?;
    if header.state != State::BeingMade {
        check_len(&header, len)?;
    }
    Ok(header)
}

fn first_page(file: &File) -> Result<[u8; HEADER_PAGE], OverlayError> {
    let mut page = [0; HEADER_PAGE];
    match file.read_bytes(0, &mut page) {
        // Too short to be one.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(OverlayError::Unknown),
        other => other.map(|()| page).map_err(OverlayError::Io),
    }
}

fn check_len(header: &Header, len: u64) -> Result<(), OverlayError> {
    let expected = header.layout.file_len();
    if len == expected {
        Ok(())
    } else {
        Err(OverlayError::Length { len, expected })
    }
}

/// Where a new file's name is to be made durable. Where the directory cannot be opened, its file system decides.
pub(super) fn directory_of(path: &Path) -> Option<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).ok()
}
