//! ELF kernels: what to put where, and where to enter.
//!
//! [`Plan::read`] looks at headers only and checks every number against the file and the guest's memory; [`Plan::load`]
//! then copies segments without a question left. The checks are ours because a kernel image is somebody else's file:
//! segments must lie in the first RAM region, above our boot tables, and apart from each other.
//!
//! Spec: System V ABI, "Object Files" and "Program Loading"; PVH note: Xen `public/elfnote.h`,
//! `XEN_ELFNOTE_PHYS32_ENTRY`.

use std::io::{self, Read, Seek, SeekFrom};

use devices::GuestMemory;
use linux_loader::elf::{
    EM_X86_64, ET_DYN, ET_EXEC, Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE,
};
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    ReadVolatile,
};

use crate::arch::x86_64::layout::HIGH_MEMORY_START;
use crate::arch::x86_64::regs::IDENTITY_MAP_END;

/// First bytes of an ELF file.
pub const MAGIC: [u8; 4] = *b"\x7fELF";
/// Most program headers a kernel can have; Linux has 5.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Longest note segment looked through; Linux has under 1 KiB.
const MAX_NOTES_BYTES: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit PVH entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Why an ELF file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Shorter than its own headers say, or unreadable.
    #[error("cannot read {what}; the file may be cut short, copy or build it again")]
    Read {
        /// Which part.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Not 64 bits.
    #[error(
        "it is a 32-bit ELF file and only 64-bit kernels boot here; build the kernel for x86_64"
    )]
    Not64Bit,
    /// For another machine.
    #[error(
        "it is an ELF file for another machine (e_machine {machine}, byte order {data}); build the kernel for x86_64"
    )]
    Machine {
        /// `e_machine`: 62 is x86_64.
        machine: u16,
        /// `EI_DATA`: 1 is little-endian.
        data: u8,
    },
    /// An object file or a core dump.
    #[error(
        "it is an ELF file of type {0}, not an executable; use the `vmlinux` that the kernel build leaves at its top"
    )]
    Type(u16),
    /// Program headers of an unknown shape or number.
    #[error(
        "it has {count} program headers of {size} bytes, expected 1 to {MAX_PROGRAM_HEADERS} of 56; use a linked kernel image"
    )]
    ProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// Nothing to load.
    #[error(
        "it has no loadable segment; use the `vmlinux` that the kernel build leaves at its top"
    )]
    NoSegment,
    /// A segment that takes less memory than it has bytes in the file.
    #[error(
        "segment {index} has {file_len} bytes in the file but takes {memory_len} in memory; the file is damaged"
    )]
    SegmentSizes {
        /// Position in the program header table.
        index: usize,
        /// `p_filesz`.
        file_len: u64,
        /// `p_memsz`.
        memory_len: u64,
    },
    /// A segment beyond the end of the file.
    #[error(
        "segment {index} wants {len} bytes at offset {offset} of a file of {file_len} bytes; the file is cut short, copy or build it again"
    )]
    SegmentPastEnd {
        /// Position in the program header table.
        index: usize,
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        len: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A segment over our tables or outside guest memory.
    #[error(
        "segment {index} wants guest memory {start:#x} to {end:#x}, available is {:#x} to {limit:#x}; give the machine more memory or link the kernel elsewhere", HIGH_MEMORY_START.0
    )]
    SegmentAddress {
        /// Position in the program header table.
        index: usize,
        /// `p_paddr`.
        start: u64,
        /// `p_paddr` + `p_memsz`.
        end: u64,
        /// First address that cannot be used.
        limit: u64,
    },
    /// Two segments in the same place.
    #[error(
        "segments overlap at guest address {at:#x}; the file is damaged or was linked for another loader"
    )]
    SegmentsOverlap {
        /// Where the second begins.
        at: u64,
    },
    /// An entry point outside every segment.
    #[error(
        "its entry point {entry:#x} lies in none of its segments; link the kernel with physical addresses in e_entry or a PVH note"
    )]
    Entry {
        /// The address.
        entry: u64,
    },
    /// A note of the right name without an address in it.
    #[error("its PVH note is {0} bytes long and holds no address; the file is damaged")]
    PvhNote(u32),
    /// Guest memory refused a write that the plan allowed.
    #[error("cannot copy segment {index} into guest memory")]
    Copy {
        /// Position in the program header table.
        index: usize,
        /// What the memory says.
        source: GuestMemoryError,
    },
}

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

impl Segment {
    /// First byte after it. Cannot overflow: [`Plan::read`] checked it.
    fn end(&self) -> u64 {
        self.start.0.saturating_add(self.memory_len)
    }
}

impl Plan {
    /// Reads and checks the headers of `image` for a guest whose first RAM region ends at `ram_end`.
    ///
    /// # Errors
    /// [`ElfError`]: what is wrong with the file, or that the guest's memory is too small for it.
    pub fn read(image: &mut (impl Read + Seek), ram_end: u64) -> Result<Self, ElfError> {
        let file_len = at(image, SeekFrom::End(0), "the end of the file")?;
        let headers = read_program_headers(image)?;
        let segments = check_segments(&headers.programs, file_len, ram_end)?;
        let entry = match find_pvh_entry(image, &headers.programs, file_len)? {
            Some(address) => ElfEntry::Pvh(address),
            None => ElfEntry::Linux64(GuestAddress(headers.entry)),
        };
        let plan = Self { segments, entry };
        plan.check_entry()?;
        Ok(plan)
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
            at(image, SeekFrom::Start(segment.offset), "a segment")?;
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

    /// The entry point lies in a segment, and the 64-bit entry's identity map reaches the whole kernel.
    fn check_entry(&self) -> Result<(), ElfError> {
        let (ElfEntry::Pvh(entry) | ElfEntry::Linux64(entry)) = self.entry;
        let inside = |s: &&Segment| (s.start.0..s.end()).contains(&entry.0);
        if !self.segments.iter().any(|s| inside(&s)) {
            return Err(ElfError::Entry { entry: entry.0 });
        }
        if matches!(self.entry, ElfEntry::Pvh(_)) {
            return Ok(());
        }
        match self.segments.iter().find(|s| s.end() > IDENTITY_MAP_END) {
            Some(segment) => Err(segment.misplaced(IDENTITY_MAP_END)),
            None => Ok(()),
        }
    }
}

impl Segment {
    fn misplaced(&self, limit: u64) -> ElfError {
        ElfError::SegmentAddress {
            index: self.index,
            start: self.start.0,
            end: self.end(),
            limit,
        }
    }
}

/// First address after the RAM region that holds address 0.
pub(super) fn first_region_end(memory: &GuestMemory) -> u64 {
    memory
        .find_region(GuestAddress(0))
        .map_or(0, GuestMemoryRegion::len)
}

struct Headers {
    entry: u64,
    programs: Vec<Elf64_Phdr>,
}

/// Seeks, and returns the position.
fn at(image: &mut impl Seek, to: SeekFrom, what: &'static str) -> Result<u64, ElfError> {
    image
        .seek(to)
        .map_err(|source| ElfError::Read { what, source })
}

fn read_struct<T: ByteValued + Default>(
    image: &mut impl Read,
    what: &'static str,
) -> Result<T, ElfError> {
    let mut value = T::default();
    image
        .read_exact(value.as_mut_slice())
        .map_err(|source| ElfError::Read { what, source })?;
    Ok(value)
}

fn read_program_headers(image: &mut (impl Read + Seek)) -> Result<Headers, ElfError> {
    at(image, SeekFrom::Start(0), "the ELF header")?;
    let header: Elf64_Ehdr = read_struct(image, "the ELF header")?;
    check_header(&header)?;
    at(
        image,
        SeekFrom::Start(header.e_phoff),
        "the program headers",
    )?;
    let programs = (0..header.e_phnum)
        .map(|_| read_struct(image, "the program headers"))
        .collect::<Result<_, _>>()?;
    Ok(Headers {
        entry: header.e_entry,
        programs,
    })
}

/// Class, machine, type and table shape (ABI "ELF Header").
fn check_header(header: &Elf64_Ehdr) -> Result<(), ElfError> {
    const CLASS_64: u8 = 2;
    const DATA_LITTLE: u8 = 1;
    let [_, _, _, _, class, data, ..] = header.e_ident;
    if class != CLASS_64 {
        return Err(ElfError::Not64Bit);
    }
    if header.e_machine != EM_X86_64 || data != DATA_LITTLE {
        return Err(ElfError::Machine {
            machine: header.e_machine,
            data,
        });
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(ElfError::Type(header.e_type));
    }
    let count = header.e_phnum;
    let has_size = usize::from(header.e_phentsize) == size_of::<Elf64_Phdr>();
    if !has_size || count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(ElfError::ProgramHeaders {
            count,
            size: header.e_phentsize,
        });
    }
    Ok(())
}

fn check_segments(
    programs: &[Elf64_Phdr],
    file_len: u64,
    ram_end: u64,
) -> Result<Vec<Segment>, ElfError> {
    let mut segments = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        if program.p_type == PT_LOAD && program.p_memsz > 0 {
            segments.push(check_segment(index, program, file_len, ram_end)?);
        }
    }
    if segments.is_empty() {
        return Err(ElfError::NoSegment);
    }
    segments.sort_by_key(|segment| segment.start);
    let overlap = segments.windows(2).find(|s| s[0].end() > s[1].start.0);
    match overlap {
        Some(pair) => Err(ElfError::SegmentsOverlap {
            at: pair[1].start.0,
        }),
        None => Ok(segments),
    }
}

fn check_segment(
    index: usize,
    program: &Elf64_Phdr,
    file_len: u64,
    ram_end: u64,
) -> Result<Segment, ElfError> {
    let segment = Segment {
        index,
        offset: program.p_offset,
        file_len: program.p_filesz,
        start: GuestAddress(program.p_paddr),
        memory_len: program.p_memsz,
    };
    if segment.file_len > segment.memory_len {
        return Err(ElfError::SegmentSizes {
            index,
            file_len: segment.file_len,
            memory_len: segment.memory_len,
        });
    }
    let file_end = segment.offset.checked_add(segment.file_len);
    if file_end.is_none_or(|end| end > file_len) {
        return Err(ElfError::SegmentPastEnd {
            index,
            offset: segment.offset,
            len: segment.file_len,
            file_len,
        });
    }
    let end = segment.start.0.checked_add(segment.memory_len);
    if segment.start < HIGH_MEMORY_START || end.is_none_or(|end| end > ram_end) {
        return Err(segment.misplaced(ram_end));
    }
    Ok(segment)
}

/// The address in the first PVH note, if there is one.
fn find_pvh_entry(
    image: &mut (impl Read + Seek),
    programs: &[Elf64_Phdr],
    file_len: u64,
) -> Result<Option<GuestAddress>, ElfError> {
    for program in programs.iter().filter(|p| p.p_type == PT_NOTE) {
        let rest = file_len.saturating_sub(program.p_offset);
        let len = program.p_filesz.min(rest).min(MAX_NOTES_BYTES);
        at(image, SeekFrom::Start(program.p_offset), "the notes")?;
        let mut notes = Vec::new();
        image
            .take(len)
            .read_to_end(&mut notes)
            .map_err(|source| ElfError::Read {
                what: "the notes",
                source,
            })?;
        if let Some(entry) = pvh_entry_in(&notes)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes: header, name, descriptor, the latter two padded to 4 bytes (ABI "Note Section").
fn pvh_entry_in(mut notes: &[u8]) -> Result<Option<GuestAddress>, ElfError> {
    while let Some((header, rest)) = notes.split_at_checked(size_of::<Elf64_Nhdr>()) {
        let mut note = Elf64_Nhdr::default();
        note.as_mut_slice().copy_from_slice(header);
        let Some((name, rest)) = split_padded(rest, note.n_namesz) else {
            break;
        };
        let Some((descriptor, rest)) = split_padded(rest, note.n_descsz) else {
            break;
        };
        if note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            let Some(address) = descriptor.first_chunk() else {
                return Err(ElfError::PvhNote(note.n_descsz));
            };
            let entry = u32::from_le_bytes(*address);
            return Ok(Some(GuestAddress(entry.into())));
        }
        notes = rest;
    }
    Ok(None)
}

/// The first `len` bytes, and what follows them and their padding.
fn split_padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (field, _) = bytes.split_at_checked(len)?;
    let padded = len.next_multiple_of(4).min(bytes.len());
    Some((field, &bytes[padded..]))
}

#[cfg(test)]
pub(super) mod tests;
