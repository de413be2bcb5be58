//! What can be wrong with an ELF kernel.

use std::io;

use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::GuestMemoryError;

use super::headers::MAX_PROGRAM_HEADERS;
use crate::arch::x86_64::layout::HIGH_MEMORY_START;

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

impl Explain for ElfError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::SegmentAddress { .. } => FaultCode::KernelDoesNotFit,
            Self::Read { .. }
            | Self::Not64Bit
            | Self::Machine { .. }
            | Self::Type(_)
            | Self::ProgramHeaders { .. }
            | Self::NoSegment
            | Self::SegmentSizes { .. }
            | Self::SegmentPastEnd { .. }
            | Self::SegmentsOverlap { .. }
            | Self::Entry { .. }
            | Self::PvhNote(_) => FaultCode::KernelInvalid,
            Self::Copy { .. } => FaultCode::InternalError,
        })
    }
}
