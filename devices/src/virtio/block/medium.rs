//! What a disk needs of the file behind it. Knows no request, and no format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::request::Range;
use crate::sys::segments::Segments;

/// A file, or what plays one in a test.
pub trait Medium {
    /// Fills the first `max` bytes of `into`, or fewer, from byte `at` on, and takes them off its front.
    ///
    /// # Errors
    /// The host's.
    fn read(&self, at: u64, into: &mut Segments, max: usize) -> io::Result<usize>;

    /// Stores the first `max` bytes of `from`, or fewer, at byte `at`, and takes them off its front.
    ///
    /// # Errors
    /// The host's.
    fn write(&self, at: u64, from: &mut Segments, max: usize) -> io::Result<usize>;

    /// Fills all of `into` from byte `at` on.
    ///
    /// # Errors
    /// The host's, or that the file ends before.
    fn read_bytes(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Stores all of `from` at byte `at`.
    ///
    /// # Errors
    /// The host's.
    fn write_bytes(&self, at: u64, from: &[u8]) -> io::Result<()>;

    /// Gives the space of `range` back to the host; it reads as zero then.
    ///
    /// # Errors
    /// The host's; `Unsupported` where the file has no holes.
    fn punch(&self, range: Range) -> io::Result<()>;

    /// Makes `range` read as zero and keeps its space.
    ///
    /// # Errors
    /// The host's.
    fn zero(&self, range: Range) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    fn sync(&self) -> io::Result<()>;

    /// Fills the first `len` bytes of `into`, or all of it, from byte `at` on.
    ///
    /// # Errors
    /// The host's, or that the file ends before.
    fn read_all(&self, at: u64, into: &mut Segments, len: usize) -> io::Result<()> {
        each_part(at, into, len, |part, at, max| self.read(at, part, max))
    }

    /// Stores the first `len` bytes of `from`, or all of it, at byte `at`.
    ///
    /// # Errors
    /// The host's.
    fn write_all(&self, at: u64, from: &mut Segments, len: usize) -> io::Result<()> {
        each_part(at, from, len, |part, at, max| self.write(at, part, max))
    }
}

impl Medium for File {
    fn read(&self, at: u64, into: &mut Segments, max: usize) -> io::Result<usize> {
        into.read_at(self, at, max)
    }

    fn write(&self, at: u64, from: &mut Segments, max: usize) -> io::Result<usize> {
        from.write_at(self, at, max)
    }

    fn read_bytes(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn write_bytes(&self, at: u64, from: &[u8]) -> io::Result<()> {
        self.write_all_at(from, at)
    }

    fn punch(&self, range: Range) -> io::Result<()> {
        allocate(self, FallocateMode::PunchHole, range)
    }

    fn zero(&self, range: Range) -> io::Result<()> {
        match allocate(self, FallocateMode::ZeroRange, range) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => write_zeroes(self, range),
            other => other,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl<M: Medium> Medium for Arc<M> {
    fn read(&self, at: u64, into: &mut Segments, max: usize) -> io::Result<usize> {
        (**self).read(at, into, max)
    }

    fn write(&self, at: u64, from: &mut Segments, max: usize) -> io::Result<usize> {
        (**self).write(at, from, max)
    }

    fn read_bytes(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_bytes(at, into)
    }

    fn write_bytes(&self, at: u64, from: &[u8]) -> io::Result<()> {
        (**self).write_bytes(at, from)
    }

    fn punch(&self, range: Range) -> io::Result<()> {
        (**self).punch(range)
    }

    fn zero(&self, range: Range) -> io::Result<()> {
        (**self).zero(range)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

fn allocate(file: &File, mode: FallocateMode, Range { at, len }: Range) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    fallocate(file, mode, true, at, len)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// What is left where the file system knows no zeroes of its own.
pub(super) fn write_zeroes(
    medium: &impl Medium,
    Range { mut at, mut len }: Range,
) -> io::Result<()> {
    static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
    while len > 0 {
        let count = usize::try_from(len).map_or(ZEROES.len(), |len| len.min(ZEROES.len()));
        medium.write_bytes(at, ZEROES.get(..count).unwrap_or_default())?;
        at = at.saturating_add(count as u64);
        len = len.saturating_sub(count as u64);
    }
    Ok(())
}

/// Calls `step`, which consumes what it moved, until `len` bytes of `segments` were moved.
fn each_part(
    mut at: u64,
    segments: &mut Segments,
    len: usize,
    mut step: impl FnMut(&mut Segments, u64, usize) -> io::Result<usize>,
) -> io::Result<()> {
    let mut left = len.min(segments.len());
    while left > 0 {
        match step(segments, at, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved => {
                at = at.saturating_add(moved as u64);
                left = left.saturating_sub(moved);
            }
        }
    }
    Ok(())
}
