//! ELF kernels: what to put where, and where to enter.
//!
//! Headers are read and checked against the file and the guest's memory first; then segments are copied, from a file
//! straight into guest memory ([`load_file`]) or from a stream on its way out of an unpacker ([`load_stream`]). The
//! checks are ours because a kernel image is somebody else's file: segments must lie in the first RAM region, above
//! our boot tables, and apart from each other.
//!
//! Spec: System V ABI, "Object Files" and "Program Loading"; PVH note: Xen `public/elfnote.h`,
//! `XEN_ELFNOTE_PHYS32_ENTRY`.

mod error;
mod headers;
mod notes;
mod stream;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

pub use error::ElfError;
use headers::Headers;
pub use stream::{StreamError, load_stream};

use crate::arch::x86_64::regs::IDENTITY_MAP_END;

/// First bytes of an ELF file.
pub const MAGIC: [u8; 4] = *b"\x7fELF";

/// A stretch of the file, and the guest memory it belongs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position in the program header table.
    pub index: usize,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Where it goes.
    pub start: GuestAddress,
    /// Bytes in memory; what the file does not fill stays zero.
    pub memory_len: u64,
}

/// How to enter an ELF kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfEntry {
    /// 32-bit PVH entry, from the note.
    Pvh(GuestAddress),
    /// 64-bit Linux entry: `e_entry`.
    Linux64(GuestAddress),
}

/// A checked ELF file: where its parts go and where to enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By rising address, apart from each other, all inside the first RAM region.
    pub segments: Vec<Segment>,
    /// Where to enter.
    pub entry: ElfEntry,
}

/// Loads the ELF kernel in `file` into fresh (zeroed) guest memory.
///
/// # Errors
/// [`ElfError`]: what is wrong with the file, or that the guest's memory is too small for it.
pub fn load_file(memory: &GuestMemory, file: &mut File) -> Result<Plan, ElfError> {
    let plan = Plan::read(file, first_region_end(memory))?;
    plan.load(memory, file)?;
    Ok(plan)
}

impl Segment {
    /// First byte after it in memory. Cannot overflow: `headers` checked it.
    fn end(&self) -> u64 {
        self.start.0.saturating_add(self.memory_len)
    }

    /// First byte after it in the file. Cannot overflow: `headers` checked it.
    fn file_end(&self) -> u64 {
        self.offset.saturating_add(self.file_len)
    }

    fn misplaced(&self, limit: u64) -> ElfError {
        ElfError::SegmentAddress {
            index: self.index,
            start: self.start.0,
            end: self.end(),
            limit,
        }
    }
}

impl Plan {
    /// Reads and checks the headers of `image` for a guest whose first RAM region ends at `ram_end`.
    ///
    /// # Errors
    /// [`ElfError`]: what is wrong with the file, or that the guest's memory is too small for it.
    pub fn read(image: &mut (impl Read + Seek), ram_end: u64) -> Result<Self, ElfError> {
        let file_len = headers::at(image, SeekFrom::End(0), "the end of the file")?;
        let headers = Headers::read(image)?;
        let segments = headers.segments(file_len, ram_end)?;
        let pvh = notes::find_pvh_entry(&headers.programs, |offset, len| {
            headers::at(image, SeekFrom::Start(offset), "the notes")?;
            let mut notes = Vec::new();
            let read = image.take(len).read_to_end(&mut notes);
            let what = "the notes";
            read.map_err(|source| ElfError::Read { what, source })?;
            Ok(notes)
        })?;
        Self::new(segments, pvh, headers.entry)
    }

    /// The entry point must lie in a segment, and the 64-bit entry's identity map must reach the whole kernel.
    fn new(
        segments: Vec<Segment>,
        pvh: Option<GuestAddress>,
        entry: u64,
    ) -> Result<Self, ElfError> {
        let address = pvh.map_or(entry, |pvh| pvh.0);
        let holds_entry = |s: &Segment| (s.start.0..s.end()).contains(&address);
        if !segments.iter().any(holds_entry) {
            return Err(ElfError::Entry { entry: address });
        }
        let entry = match pvh {
            Some(pvh) => ElfEntry::Pvh(pvh),
            None => ElfEntry::Linux64(GuestAddress(entry)),
        };
        let beyond = segments.iter().find(|s| s.end() > IDENTITY_MAP_END);
        match (entry, beyond) {
            (ElfEntry::Linux64(_), Some(segment)) => Err(segment.misplaced(IDENTITY_MAP_END)),
            _ => Ok(Self { segments, entry }),
        }
    }

    /// Copies the segments of `image`, the file this plan was read from, into fresh (zeroed) guest memory.
    ///
    /// # Errors
    /// [`ElfError::Copy`] when the file shrank since.
    pub fn load<F>(&self, memory: &GuestMemory, image: &mut F) -> Result<(), ElfError>
    where
        F: Read + Seek + ReadVolatile,
    {
        for segment in &self.segments {
            headers::at(image, SeekFrom::Start(segment.offset), "a segment")?;
            let index = segment.index;
            let failed = |source| ElfError::Copy { index, source };
            let len = usize::try_from(segment.file_len).unwrap_or(usize::MAX);
            memory
                .read_exact_volatile_from(segment.start, image, len)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// First byte that the kernel occupies.
    #[must_use]
    pub fn start(&self) -> GuestAddress {
        self.segments.first().map_or(GuestAddress(0), |s| s.start)
    }

    /// First byte after the kernel, its zeroed memory included.
    #[must_use]
    pub fn end(&self) -> GuestAddress {
        GuestAddress(self.segments.last().map_or(0, Segment::end))
    }
}

/// First address after the RAM region that holds address 0.
pub(super) fn first_region_end(memory: &GuestMemory) -> u64 {
    memory
        .find_region(GuestAddress(0))
        .map_or(0, GuestMemoryRegion::len)
}

#[cfg(test)]
pub(super) mod tests;
