//! Sealing the overlay of a running drive, and stacking a fresh one on it.
//!
//! ```text
//!  Restack::prepare   the guest runs: the fresh file is made and durable, and says that it is being made
//!  Restack::seal      nothing is in flight: all is durable -> the old header says sealed -> the fresh one names it
//!  Restack::finish    the drive goes on with the fresh overlay
//! ```
//!
//! Whenever the host dies, one of two chains is whole: the old one while its overlay is not sealed, and then the new one,
//! whose fresh overlay has nothing in it until a drive has it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::file::can_punch;
use super::super::medium::Medium;
use super::bitmap::Bitmap;
use super::header::{Header, State};
use super::identity::{Identity, metadata, numbers};
use super::layers::{Layer, MAX_LAYERS, open_to_read};
use super::open::{LockWait, begin, directory_of, lock, open_to_write, read_header};
use super::{Overlay, OverlayError};

/// A seal that is prepared.
#[derive(Debug)]
pub struct Restack {
    /// Of the fresh overlay.
    header: Header,
    file: File,
    bitmap: Bitmap,
    can_punch: bool,
    /// The overlay that is sealed, open to be read.
    below: Arc<File>,
}

/// Which file a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The overlay that the drive has.
    Present,
    /// The one that is to follow.
    Fresh,
}

impl Restack {
    /// Makes a fresh overlay at `path`, for the drive whose overlay is at `present` with `layers` below it.
    ///
    /// # Errors
    /// Which file, and what to do. The drive is as before.
    pub fn prepare(
        present: &Path,
        layers: usize,
        path: &Path,
    ) -> Result<Self, (Which, OverlayError)> {
        let on_present = |why| (Which::Present, why);
        let on_fresh = |why| (Which::Fresh, why);
        if layers >= MAX_LAYERS {
            return Err(on_fresh(OverlayError::TooDeep));
        }
        let below = open_to_read(present).map_err(on_present)?;
        let found = metadata(&below).map_err(on_present)?;
        let old = read_header(&below, found.len()).map_err(on_present)?;
        let over = Identity::of_overlay(&old, &found, present);
        let file = open_to_write(path).map_err(on_fresh)?;
        let fresh = metadata(&file).map_err(on_fresh)?;
        if numbers(&fresh) == numbers(&found) {
            return Err(on_fresh(OverlayError::Own));
        }
        if !fresh.is_file() {
            return Err(on_fresh(OverlayError::NotAFile));
        }
        let header = make_fresh(&file, &old, &over).map_err(on_fresh)?;
        // Of a file system that cannot do this, the file's own sync is all there is.
        let _ = directory_of(path).map(|directory| directory.sync_all());
        // What is written back now needs no time when the guest stands still. A failure is told to the other descriptor.
        let _ = below.sync_data();
        Ok(Self {
            can_punch: can_punch(&file, header.layout.file_len()),
            bitmap: Bitmap::empty(header.layout).map_err(on_fresh)?,
            header,
            file,
            below: Arc::new(below),
        })
    }

    /// Seals `overlay`, with nothing in flight, and has the fresh one name it.
    ///
    /// # Errors
    /// The drive can go on as before.
    pub(in super::super) fn seal(&mut self, overlay: &Overlay) -> Result<(), OverlayError> {
        let (named, its) = (metadata(&self.below)?, metadata(overlay.medium())?);
        if numbers(&named) != numbers(&its) {
            return Err(OverlayError::Moved);
        }
        overlay.seal().map_err(OverlayError::SealFailed)?;
        self.join(overlay).map_err(|error| {
            self.undo(overlay);
            OverlayError::SealFailed(error)
        })
    }

    /// Takes the seal back: the drive goes on with `overlay`, and the fresh one is an empty file.
    pub(in super::super) fn undo(&self, overlay: &Overlay) {
        overlay.unseal();
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!("a fresh overlay that is not used could not be emptied: {error}");
        }
    }

    /// Has the fresh overlay name the one below as it is now that it is sealed.
    fn join(&mut self, overlay: &Overlay) -> io::Result<()> {
        let sealed = self.below.metadata()?;
        let over = Identity::of_overlay(&overlay.header, &sealed, Path::new(""));
        self.header.base = over.base;
        self.header.state = State::Open;
        self.file.write_bytes(0, &self.header.encode())
    }

    /// The fresh overlay on `old`, which was sealed. For the guest it is the same disk.
    pub(in super::super) fn finish(self, old: &Overlay) -> Overlay {
        let mut below = old.below.clone();
        let sealed = Layer {
            file: self.below,
            blocks: Arc::clone(old.bitmap.present()),
        };
        below.layers.insert(0, sealed);
        let mut fresh = Overlay::of(Arc::new(self.file), self.header, below, self.bitmap);
        fresh.can_punch = self.can_punch;
        fresh.serial = old.serial;
        fresh
    }
}

/// Makes an empty file, or one whose making was cut off, a durable overlay that is being made.
fn make_fresh(file: &File, old: &Header, over: &Identity) -> Result<Header, OverlayError> {
    lock(file, LockWait::None)?;
    let len = metadata(file)?.len();
    let is_fresh = len == 0 || read_header(file, len)?.state == State::BeingMade;
    if !is_fresh {
        return Err(OverlayError::NotFresh);
    }
    let mut header = Header::new(over)?;
    header.layout = old.layout;
    let made = file
        .set_len(0)
        .and_then(|()| begin(file, &header))
        .and_then(|()| file.sync_all());
    made.map_err(|error| {
        // As it was.
        let _ = file.set_len(0);
        OverlayError::Io(error)
    })?;
    Ok(header)
}
