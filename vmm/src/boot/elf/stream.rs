//! An ELF kernel that comes as a stream: it is placed piece by piece, and never held as a whole.

use std::io::{self, BufRead, Cursor, Read};

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::headers::Headers;
use super::{ElfError, MAGIC, Plan, Segment, first_region_end, notes};

/// Headers must lie in this many bytes; Linux has them in the first 344.
const HEAD_LEN: u64 = 4096;

/// Why a stream does not become a kernel.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream itself fails.
    #[error("cannot read the kernel")]
    Read(#[source] io::Error),
    /// It ends early or goes on.
    #[error("the kernel is {found} bytes long or more and {announced} are announced")]
    Length {
        /// Bytes seen.
        found: u64,
        /// Bytes expected.
        announced: u64,
    },
    /// What it carries cannot be loaded.
    #[error(transparent)]
    Elf(ElfError),
}

/// Loads an ELF kernel of exactly `len` bytes from `stream` into fresh (zeroed) guest memory. `None`, with
/// memory untouched: it is not ELF, or not in an order that can be read once.
///
/// # Errors
/// [`StreamError`]: what is wrong with the stream or the kernel, or that the guest's memory is too small for it.
pub fn load_stream(
    memory: &GuestMemory,
    mut stream: impl BufRead,
    len: u64,
) -> Result<Option<Plan>, StreamError> {
    let mut head = Vec::new();
    let head_len = len.min(HEAD_LEN);
    let mut start = stream.by_ref().take(head_len);
    start.read_to_end(&mut head).map_err(StreamError::Read)?;
    if !head.starts_with(&MAGIC) {
        return Ok(None);
    }
    let headers = Headers::read(&mut Cursor::new(&head)).map_err(StreamError::Elf)?;
    let segments = headers
        .segments(len, first_region_end(memory))
        .map_err(StreamError::Elf)?;
    let Some(in_order) = by_offset(&segments) else {
        return Ok(None);
    };
    Placer {
        memory,
        stream: Cursor::new(head).chain(stream),
        at: 0,
        len,
    }
    .place(&in_order)?;
    let pvh = notes::find_pvh_entry(&headers.programs, |offset, len| {
        Ok(loaded_bytes(memory, &in_order, offset, len))
    });
    let plan = pvh.and_then(|pvh| Plan::new(segments, pvh, headers.entry));
    plan.map(Some).map_err(StreamError::Elf)
}

/// Segments with bytes in the file, in file order; `None` when they overlap there.
fn by_offset(segments: &[Segment]) -> Option<Vec<Segment>> {
    let mut sorted = segments.to_vec();
    sorted.retain(|segment| segment.file_len > 0);
    sorted.sort_by_key(|segment| segment.offset);
    let overlap = sorted.windows(2).any(|s| s[0].file_end() > s[1].offset);
    (!overlap).then_some(sorted)
}

/// File bytes that now lie in guest memory; none where no segment holds them.
fn loaded_bytes(memory: &GuestMemory, segments: &[Segment], offset: u64, len: u64) -> Vec<u8> {
    let holds = |s: &&Segment| (s.offset..s.file_end()).contains(&offset);
    let Some(segment) = segments.iter().find(holds) else {
        return Vec::new();
    };
    let len = len.min(segment.file_end() - offset);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let at = GuestAddress(segment.start.0 + (offset - segment.offset));
    match memory.read_slice(&mut bytes, at) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// Moves a stream into guest memory.
struct Placer<'a, S> {
    memory: &'a GuestMemory,
    stream: S,
    /// Bytes consumed.
    at: u64,
    len: u64,
}

impl<S: BufRead> Placer<'_, S> {
    fn place(&mut self, segments: &[Segment]) -> Result<(), StreamError> {
        for segment in segments {
            self.forward(segment.offset - self.at, |_, _| Ok(()))?;
            let (memory, start) = (self.memory, segment.start.0);
            self.forward(segment.file_len, |bytes, done| {
                let copied = memory.write_slice(bytes, GuestAddress(start + done));
                let index = segment.index;
                copied.map_err(|source: GuestMemoryError| ElfError::Copy { index, source })
            })?;
        }
        // To the end, so that the unpacker checks its checksum.
        self.forward(self.len - self.at, |_, _| Ok(()))?;
        if self
            .stream
            .fill_buf()
            .map_err(StreamError::Read)?
            .is_empty()
        {
            return Ok(());
        }
        Err(self.wrong_length(1))
    }

    /// Consumes `len` bytes, handing each piece and its offset to `with`.
    fn forward(
        &mut self,
        len: u64,
        mut with: impl FnMut(&[u8], u64) -> Result<(), ElfError>,
    ) -> Result<(), StreamError> {
        let mut done = 0;
        while done < len {
            let bytes = self.stream.fill_buf().map_err(StreamError::Read)?;
            if bytes.is_empty() {
                return Err(self.wrong_length(0));
            }
            let most = usize::try_from(len - done).unwrap_or(usize::MAX);
            let piece = bytes.len().min(most);
            with(&bytes[..piece], done).map_err(StreamError::Elf)?;
            self.stream.consume(piece);
            done += piece as u64;
            self.at += piece as u64;
        }
        Ok(())
    }

    fn wrong_length(&self, more: u64) -> StreamError {
        StreamError::Length {
            found: self.at + more,
            announced: self.len,
        }
    }
}
