//! ELF headers, read and checked.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::elf::{EM_X86_64, ET_DYN, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
use vm_memory::{ByteValued, GuestAddress};

use super::{ElfError, Segment};
use crate::arch::x86_64::layout::HIGH_MEMORY_START;

/// Most program headers a kernel can have; Linux has 5.
pub(super) const MAX_PROGRAM_HEADERS: u16 = 64;

/// What the rest of an ELF file is understood by.
pub(super) struct Headers {
    /// `e_entry`.
    pub(super) entry: u64,
    /// At most [`MAX_PROGRAM_HEADERS`].
    pub(super) programs: Vec<Elf64_Phdr>,
}

impl Headers {
    pub(super) fn read(image: &mut (impl Read + Seek)) -> Result<Self, ElfError> {
        at(image, SeekFrom::Start(0), "the ELF header")?;
        let header: Elf64_Ehdr = read_struct(image, "the ELF header")?;
        check_header(&header)?;
        let table = "the program headers";
        at(image, SeekFrom::Start(header.e_phoff), table)?;
        let programs = (0..header.e_phnum)
            .map(|_| read_struct(image, table))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            entry: header.e_entry,
            programs,
        })
    }

    /// The segments to load, by rising address, for a file of `file_len` bytes and RAM that ends at `ram_end`.
    pub(super) fn segments(&self, file_len: u64, ram_end: u64) -> Result<Vec<Segment>, ElfError> {
        let mut segments = Vec::new();
        for (index, program) in self.programs.iter().enumerate() {
            if program.p_type == PT_LOAD && program.p_memsz > 0 {
                segments.push(check_segment(index, program, file_len, ram_end)?);
            }
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegment);
        }
        segments.sort_by_key(|segment| segment.start);
        match segments.windows(2).find(|s| s[0].end() > s[1].start.0) {
            Some(pair) => Err(ElfError::SegmentsOverlap {
                at: pair[1].start.0,
            }),
            None => Ok(segments),
        }
    }
}

/// Seeks, and returns the position.
pub(super) fn at(image: &mut impl Seek, to: SeekFrom, what: &'static str) -> Result<u64, ElfError> {
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
