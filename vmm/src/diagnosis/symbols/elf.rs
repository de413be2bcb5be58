//! What of an ELF file leads to its symbols.
//!
//! Spec: System V ABI, "ELF Header", "Program Header", "Sections" and "Symbol Table"; structures of 64 bits, little-endian.

#![deny(clippy::arithmetic_side_effects)]

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::NoSymbols;

/// Most program headers that are looked at, as when it is loaded.
const MAX_SEGMENTS: u16 = 64;
/// Most sections that are looked at. A kernel has about 80.
const MAX_SECTIONS: u16 = 4096;

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
pub(super) const CLASS_64_LITTLE: [u8; 2] = [2, 1];
pub(super) const PT_LOAD: u32 = 1;
pub(super) const SHT_SYMTAB: u32 = 2;
pub(super) const SHN_UNDEF: u16 = 0;
/// From here on section numbers mean something else; `SHN_ABS` is among them.
pub(super) const SHN_LORESERVE: u16 = 0xff00;
pub(super) const STT_NOTYPE: u8 = 0;
pub(super) const STT_FUNC: u8 = 2;

/// The file header.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 4],
    pub(super) class: [u8; 2],
    pub(super) _ident: [u8; 10],
    pub(super) _type: u16,
    pub(super) _machine: u16,
    pub(super) _version: u32,
    pub(super) _entry: u64,
    pub(super) program_offset: u64,
    pub(super) section_offset: u64,
    pub(super) _flags: u32,
    pub(super) _header_size: u16,
    pub(super) _program_size: u16,
    pub(super) program_count: u16,
    pub(super) _section_size: u16,
    pub(super) section_count: u16,
    pub(super) _names: u16,
}

/// A program header: a segment.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct Program {
    pub(super) kind: u32,
    pub(super) _flags: u32,
    pub(super) _offset: u64,
    pub(super) linear: u64,
    pub(super) physical: u64,
    pub(super) _file_len: u64,
    pub(super) memory_len: u64,
    pub(super) _align: u64,
}

/// A section header.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct Section {
    pub(super) _name: u32,
    pub(super) kind: u32,
    pub(super) _flags: u64,
    pub(super) _address: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) link: u32,
    pub(super) _info: u32,
    pub(super) _align: u64,
    pub(super) _entry_len: u64,
}

/// A symbol.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) name: u32,
    pub(super) info: u8,
    pub(super) _other: u8,
    pub(super) section: u16,
    pub(super) value: u64,
    pub(super) len: u64,
}

/// What is loaded.
pub(super) fn segments<R: Read + Seek>(
    image: &mut BufReader<R>,
    header: &Header,
) -> Result<Vec<Program>, NoSymbols> {
    let count = header.program_count;
    if count > MAX_SEGMENTS {
        return Err(NoSymbols::TooMany {
            what: "program headers",
            count: count.into(),
        });
    }
    seek(image, header.program_offset)?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let program: Program = read(image)?;
        if program.kind == PT_LOAD {
            segments.push(program);
        }
    }
    Ok(segments)
}

/// The symbol table and the table of its names.
pub(super) fn tables<R: Read + Seek>(
    image: &mut BufReader<R>,
    header: &Header,
) -> Result<(Section, Section), NoSymbols> {
    let count = header.section_count;
    if count > MAX_SECTIONS {
        return Err(NoSymbols::TooMany {
            what: "sections",
            count: count.into(),
        });
    }
    seek(image, header.section_offset)?;
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.push(read::<Section, _>(image)?);
    }
    let symbols = sections.iter().find(|section| section.kind == SHT_SYMTAB);
    let names = symbols.and_then(|symbols| {
        let index = usize::try_from(symbols.link).ok()?;
        sections.get(index)
    });
    match (symbols, names) {
        (Some(symbols), Some(names)) => Ok((*symbols, *names)),
        _ => Err(NoSymbols::Stripped),
    }
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

pub(super) fn seek<R: Read + Seek>(image: &mut BufReader<R>, to: u64) -> io::Result<()> {
    image.seek(SeekFrom::Start(to)).map(drop)
}

pub(super) fn read_at<T: FromBytes + IntoBytes + Default, R: Read + Seek>(
    image: &mut BufReader<R>,
    at: u64,
) -> Result<T, NoSymbols> {
    seek(image, at)?;
    match read(image) {
        // Shorter than a header: nothing that could have one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(NoSymbols::NotElf),
        other => Ok(other?),
    }
}

pub(super) fn read<T: FromBytes + IntoBytes + Default, R: Read>(image: &mut R) -> io::Result<T> {
    let mut value = T::default();
    image.read_exact(value.as_mut_bytes())?;
    Ok(value)
}
