//! The file or FIFO that lines go to. It never waits, and a line is cut only by the end of the process.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where lines go.
pub(super) struct Sink {
    target: File,
    /// The part of the line in the buffer that the target did not take yet.
    rest: Range<usize>,
}

impl Sink {
    /// For reading too, so that a FIFO without a reader can be opened and does not break. Never truncated: lines go
    /// where the writer stands, from the start.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let target = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        Ok(Self::new(target))
    }

    fn new(target: File) -> Self {
        Self { target, rest: 0..0 }
    }

    /// Writes what is left of the line in `buffer`, if the target took a part of it. False when some still is.
    pub(super) fn finish(&mut self, buffer: &[u8]) -> bool {
        while let Some(rest) = buffer
            .get(self.rest.clone())
            .filter(|rest| !rest.is_empty())
        {
            match self.target.write(rest) {
                Ok(len) if len > 0 => self.rest.start += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// Writes the line of `len` bytes in `buffer`, of which the target may take a part now and the rest at the next
    /// [`Sink::finish`]. False, and nothing of it is written, when it takes none.
    pub(super) fn write(&mut self, buffer: &[u8], len: usize) -> bool {
        self.rest = 0..len;
        if self.finish(buffer) || self.rest.start > 0 {
            return true;
        }
        self.rest = 0..0;
        false
    }
}
