//! What lies below an overlay: sealed overlays one on the other, and the base at the bottom.
//!
//! Nobody writes any of it, so what a block is there never changes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::super::file::{DiskFile, make_blocking};
use super::blocks::Blocks;
use super::header::{Header, State};
use super::identity::{Identity, metadata, numbers};
use super::open::{LockWait, lock_shared, read_header};
use super::{Holder, OverlayError};

/// The most sealed overlays below one that is written.
pub const MAX_LAYERS: usize = 32;

/// A sealed overlay. Read by any number of drives.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) file: Arc<File>,
    pub(super) blocks: Arc<Blocks>,
}

/// All that is below.
#[derive(Clone, Debug)]
pub(super) struct Below {
    /// The newest first.
    pub(super) layers: Vec<Layer>,
    pub(super) base: Arc<File>,
}

/// What follows each other in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) from: Holder,
    /// The block behind the last.
    pub(super) end: u64,
}

impl Below {
    /// Where the blocks from `first` on, before `end`, are that lie in the same place as `first`; `top` is above all.
    /// A word of each layer is looked at once for 64 blocks, and once more for the first.
    pub(super) fn find(&self, top: &Blocks, first: u64, end: u64) -> Found {
        let place = self.place(top, first);
        let mut block = first;
        while block < end {
            let differs = !self.at(place, top, block) >> (block % 64);
            if differs != 0 {
                block = block.saturating_add(differs.trailing_zeros().into());
                break;
            }
            block = (block | 63).saturating_add(1);
        }
        Found {
            from: place,
            end: block.min(end),
        }
    }

    fn place(&self, top: &Blocks, block: u64) -> Holder {
        if top.has(block) {
            return Holder::Top;
        }
        let mut layers = self.layers.iter();
        let place = layers.position(|layer| layer.blocks.has(block));
        place.map_or(Holder::Base, Holder::Layer)
    }

    /// Which of the 64 blocks around `block` lie in `place`.
    fn at(&self, place: Holder, top: &Blocks, block: u64) -> u64 {
        let top = top.word(block);
        let (above, own) = match place {
            Holder::Top => return top,
            Holder::Layer(index) => {
                let own = self.layers.get(index);
                (index, own.map_or(0, |layer| layer.blocks.word(block)))
            }
            Holder::Base => (self.layers.len(), u64::MAX),
        };
        let above = self.layers.iter().take(above);
        own & !above.fold(top, |all, layer| all | layer.blocks.word(block))
    }
}

/// A chain that grows from the base upwards, while it is opened.
#[derive(Debug)]
pub struct Stack {
    below: Below,
    /// What the next overlay is to be made over.
    over: Identity,
    /// Of the newest layer.
    block_len: Option<u32>,
    ids: Vec<[u8; 16]>,
    files: Vec<(u64, u64)>,
}

impl Stack {
    /// The base alone, which is `path` and was opened for reading.
    ///
    /// # Errors
    /// The host's.
    pub fn on(base: &DiskFile, path: &Path) -> Result<Self, OverlayError> {
        let metadata = metadata(base.file())?;
        Ok(Self {
            below: Below {
                layers: Vec::new(),
                base: Arc::clone(base.file()),
            },
            over: Identity::of_base(base.disk().len, &metadata, path),
            block_len: None,
            ids: Vec::new(),
            files: vec![numbers(&metadata)],
        })
    }

    /// Puts the sealed overlay at `path` on top.
    ///
    /// # Errors
    /// [`OverlayError`] says what to do.
    pub fn push(&mut self, path: &Path, wait: LockWait) -> Result<(), OverlayError> {
        if self.below.layers.len() >= MAX_LAYERS {
            return Err(OverlayError::TooDeep);
        }
        let file = open_to_read(path)?;
        let found = metadata(&file)?;
        self.check_file(numbers(&found))?;
        // Who writes to it, and may be about to seal it, has it locked.
        lock_shared(&file, wait)?;
        let header = read_header(&file, found.len())?;
        file.unlock().map_err(OverlayError::Io)?;
        if header.state != State::Sealed {
            return Err(OverlayError::NotSealed);
        }
        header.fits(&self.over)?;
        self.check_blocks(&header)?;
        if self.ids.contains(&header.id) {
            return Err(OverlayError::Twice);
        }
        self.ids.push(header.id);
        self.files.push(numbers(&found));
        self.block_len = Some(header.layout.block_len());
        self.over = Identity::of_overlay(&header, &metadata(&file)?, path);
        let blocks = Arc::new(Blocks::load(&file, header.layout)?);
        let file = Arc::new(file);
        self.below.layers.insert(0, Layer { file, blocks });
        Ok(())
    }

    /// Refuses a file that is in the chain already.
    pub(super) fn check_file(&self, numbers: (u64, u64)) -> Result<(), OverlayError> {
        match self.files.iter().position(|file| *file == numbers) {
            None => Ok(()),
            Some(0) => Err(OverlayError::IsBase),
            Some(_) => Err(OverlayError::Twice),
        }
    }

    /// Refuses an overlay that divides the disk otherwise than the one below.
    pub(super) fn check_blocks(&self, header: &Header) -> Result<(), OverlayError> {
        let found = header.layout.block_len();
        match self.block_len.filter(|below| *below != found) {
            None => Ok(()),
            Some(below) => Err(OverlayError::OtherBlocks { found, below }),
        }
    }

    /// What the overlay on top is to be made over.
    pub(super) fn over(&self) -> &Identity {
        &self.over
    }

    /// All of it, for who is on top.
    pub(super) fn into_below(self) -> Below {
        self.below
    }
}

/// Opens an overlay that is not to be written.
pub(super) fn open_to_read(path: &Path) -> Result<File, OverlayError> {
    let file = OpenOptions::new()
        .read(true)
        // A FIFO without a writer would otherwise never open.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(OverlayError::Io)?;
    if !metadata(&file)?.is_file() {
        return Err(OverlayError::NotAFile);
    }
    make_blocking(&file).map_err(OverlayError::Io)?;
    Ok(file)
}
