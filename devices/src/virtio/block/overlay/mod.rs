//! A copy-on-write layer over a disk that nobody writes.
//!
//! One file of our own format (`layout`, `header`, `bitmap`). A block that the guest wrote lies in the overlay, in
//! its place; all others are read from below. Writing a part of a block copies the rest from below first.
//!
//! Below is the base, or a chain of overlays that were sealed, one on the other, and then the base (`layers`). A
//! running drive's overlay is sealed by `restack`, and another takes its place.
//!
//! ```text
//!  write:  copy what the block's edges lack -> data -> bit in memory
//!  flush:  sync (data is durable) -> bits to the file -> sync
//! ```
//!
//! So at any moment a block on the disk is the base's or one whose data is whole: a crash loses nothing that was
//! flushed and shows nothing that was never written. A driver that does not flush gets its bits written at once: they
//! survive the monitor's end, as its data does in the host's page cache, and like it not the host's.

mod bitmap;
mod blocks;
mod error;
mod flush;
mod header;
mod identity;
mod layers;
mod layout;
mod open;
mod restack;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use error::OverlayError;
pub use layers::{MAX_LAYERS, Stack};
pub use open::LockWait;
pub use restack::{Restack, Which};

use self::bitmap::Bitmap;
use self::header::Header;
use self::layers::{Below, Found};
use self::layout::Layout;
use super::file::SERIAL_LEN;
use super::medium::Medium;
use super::request::{Disk, Range};
use crate::sys::segments::Segments;

/// Bytes copied from below at once.
const COPY_LEN: usize = 4096;

/// An open overlay, locked against others, on what is below it.
#[derive(Debug)]
pub struct Overlay<M: Medium = Arc<File>> {
    // Fixed configuration.
    header: Box<Header>,
    layout: Layout,
    can_punch: bool,
    serial: [u8; SERIAL_LEN],
    // Runtime glue.
    below: Below,
    medium: M,
    bitmap: Bitmap,
    /// Bits go to the file with their data; see above.
    is_write_through: AtomicBool,
    /// Where the file is, when it is new.
    directory: Option<File>,
    /// Its name there is durable.
    is_named: AtomicBool,
    /// The file lacks bits that should have gone with their data: the host had no room.
    is_behind: AtomicBool,
    /// A sync failed. What the host lost then it does not tell again, so no later flush can be trusted.
    is_broken: AtomicBool,
    /// Blocks copied from below, since it was last asked.
    copied: AtomicU64,
}

/// Which file has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The overlay.
    Top,
    /// A sealed one below it, counted from the newest.
    Layer(usize),
    /// The base.
    Base,
}

/// Where bytes of the disk are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Which file.
    pub(super) from: Holder,
    /// Byte of that file.
    pub(super) at: u64,
    /// Bytes that lie there, one after the other.
    pub(super) len: usize,
}

impl<M: Medium> Overlay<M> {
    /// Length and access.
    pub(super) fn disk(&self) -> Disk {
        Disk {
            len: self.layout.disk_len(),
            ..Disk::default()
        }
    }

    /// The block that is copied at once, bytes.
    pub(super) fn block_len(&self) -> u32 {
        self.layout.block_len()
    }

    /// Space in the middle of it can be given back to the host.
    pub(super) fn can_punch(&self) -> bool {
        self.can_punch
    }

    /// What GET_ID answers: the overlay's numbers. The base may have many drives.
    pub(super) fn serial(&self) -> &[u8; SERIAL_LEN] {
        &self.serial
    }

    /// The file with the guest's writes.
    pub(super) fn medium(&self) -> &M {
        &self.medium
    }

    /// The file with what lies below it, in `place`.
    pub(super) fn file_below(&self, place: Holder) -> &Arc<File> {
        let layer = match place {
            Holder::Layer(index) => self.below.layers.get(index),
            Holder::Top | Holder::Base => None,
        };
        layer.map_or(&self.below.base, |layer| &layer.file)
    }

    /// Blocks copied from below since this was last asked.
    pub(super) fn take_copied(&self) -> u64 {
        self.copied.swap(0, Ordering::Relaxed)
    }

    /// Fills `into` from byte `at` on.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn read(&self, mut at: u64, into: &mut Segments) -> io::Result<()> {
        while !into.is_empty() {
            let source = self.source(at, into.len());
            if source.len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match source.from {
                Holder::Top => self.medium.read_all(source.at, into, source.len)?,
                below => self
                    .file_below(below)
                    .read_all(source.at, into, source.len)?,
            }
            at = at.saturating_add(source.len as u64);
        }
        Ok(())
    }

    /// Where the first of the `len` bytes from `at` on lie.
    pub(super) fn source(&self, at: u64, len: usize) -> Source {
        let end = at.saturating_add(len as u64).min(self.layout.disk_len());
        let (first, behind) = self.blocks(at, end);
        let found = self.find(first, behind);
        let end = self.layout.start_of(found.end).min(end);
        Source {
            from: found.from,
            at: self.place_in(found.from, at),
            len: usize::try_from(end.saturating_sub(at)).unwrap_or(len),
        }
    }

    /// Where the blocks from `first` on, before `end`, are that lie in the same place as `first`.
    fn find(&self, first: u64, end: u64) -> Found {
        let top = self.bitmap.present();
        if !self.below.layers.is_empty() {
            return self.below.find(top, first, end);
        }
        let run = top.run(first, end);
        Found {
            from: if run.is_present {
                Holder::Top
            } else {
                Holder::Base
            },
            end: run.end,
        }
    }

    /// Where byte `at` of the disk lies in a file. Overlays of one disk are laid out alike.
    fn place_in(&self, from: Holder, at: u64) -> u64 {
        match from {
            Holder::Top | Holder::Layer(_) => self.layout.data_at(at),
            Holder::Base => at,
        }
    }

    /// Where byte `at` is written to.
    pub(super) fn target(&self, at: u64) -> u64 {
        self.layout.data_at(at)
    }

    /// Stores `from` at byte `at` on.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn write(&self, at: u64, from: &mut Segments) -> io::Result<()> {
        let range = Range {
            at,
            len: from.len() as u64,
        };
        self.copy_edges(range)?;
        self.medium.write_all(self.target(at), from, usize::MAX)?;
        self.wrote(range)
    }

    /// Makes `range` read as zero; its space stays, or goes back to the host.
    ///
    /// # Errors
    /// The host's; `Unsupported` when its space cannot go back.
    pub(super) fn zero(&self, range: Range, keeps_space: bool) -> io::Result<()> {
        if range.len == 0 {
            return Ok(());
        }
        self.copy_edges(range)?;
        let target = Range {
            at: self.target(range.at),
            ..range
        };
        if keeps_space {
            self.medium.zero(target)?;
        } else {
            self.medium.punch(target)?;
        }
        self.wrote(range)
    }

    /// The blocks that `range` covers a part of and that the overlay lacks: the first, the last, or none. Empty ranges
    /// for none.
    pub(super) fn edges(&self, range: Range) -> [Range; 2] {
        let end = range.at.saturating_add(range.len);
        let edge = |at: u64, byte: u64| {
            let block = self.layout.block_of(byte);
            let start = self.layout.start_of(block);
            let behind = self.layout.start_of(block.saturating_add(1));
            let is_part =
                range.len > 0 && !self.layout.is_edge(at) && !self.bitmap.present().has(block);
            Range {
                at: start,
                len: if is_part {
                    behind.saturating_sub(start)
                } else {
                    0
                },
            }
        };
        let [first, last] = [edge(range.at, range.at), edge(end, end)];
        // Both may be the same block; copying it twice would do no harm, but cost.
        if first == last {
            return [first, Range { len: 0, ..last }];
        }
        [first, last]
    }

    /// Copies what a write to `range` needs from below, so that the write is all in the overlay.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn copy_edges(&self, range: Range) -> io::Result<()> {
        for edge in self.edges(range) {
            if edge.len > 0 {
                self.copy(edge)?;
                self.copied.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Copies a block from below. Its content does not change, so it may be there at any time.
    fn copy(&self, block: Range) -> io::Result<()> {
        let mut buffer = [0; COPY_LEN];
        let first = self.layout.block_of(block.at);
        let from = self.find(first, first.saturating_add(1)).from;
        let file = self.file_below(from);
        let Range { mut at, mut len } = block;
        while len > 0 {
            let count = usize::try_from(len).map_or(COPY_LEN, |len| len.min(COPY_LEN));
            let part = buffer.get_mut(..count).unwrap_or_default();
            file.read_bytes(self.place_in(from, at), part)?;
            self.medium.write_bytes(self.target(at), part)?;
            at = at.saturating_add(count as u64);
            len = len.saturating_sub(count as u64);
        }
        self.wrote(block)
    }

    /// All of `range` was written, and what its edges lacked was copied before: its blocks are the overlay's from now
    /// on.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn wrote(&self, range: Range) -> io::Result<()> {
        if range.len == 0 {
            return Ok(());
        }
        let (first, behind) = self.blocks(range.at, range.at.saturating_add(range.len));
        let is_news = self.bitmap.set(first, behind);
        if !self.is_write_through.load(Ordering::Relaxed) {
            return Ok(());
        }
        let written = if self.is_behind.load(Ordering::Relaxed) {
            self.bitmap.stage();
            self.bitmap.write_staged(&self.medium)
        } else if is_news {
            self.bitmap.write_through(&self.medium, first, behind)
        } else {
            return Ok(());
        };
        self.is_behind.store(written.is_err(), Ordering::Relaxed);
        written
    }

    /// The blocks that the bytes from `at` on, before `end`, touch: the first, and the one behind the last.
    fn blocks(&self, at: u64, end: u64) -> (u64, u64) {
        let first = self.layout.block_of(at);
        if end <= at {
            return (first, first);
        }
        let last = self.layout.block_of(end.saturating_sub(1));
        (first, last.saturating_add(1))
    }
}

#[cfg(test)]
mod tests;
