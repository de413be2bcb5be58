//! bzImage kernels: unpacked here where that is possible, else left to unpack themselves.
//!
//! ```text
//! 0      0x1f1           (setup_sects+1)*512          +payload_offset        +payload_length
//! | boot | setup header … | self-unpacking code        | packed vmlinux, len  | code, data
//!                           loaded at 1 MiB, entered +0x200                     when it unpacks itself
//! ```
//!
//! Unpacking on the host spares the boot the guest's unpacker and yields an ELF file that PVH can enter. It also
//! means that the kernel runs where it was linked: no address-space randomisation of the kernel itself, as with any
//! `vmlinux`.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::elf::{self, ElfError, Plan, StreamError};
use super::kernel::LoadedKernel;
use super::linux::{BOOT_FLAG, HEADER_MAGIC};
use super::unpack::Packing;
use crate::arch::x86_64::layout::HIGH_MEMORY_START;
use crate::arch::x86_64::regs::{BootMode, IDENTITY_MAP_END};

/// Offset of the setup header in the file.
const HEADER_OFFSET: usize = 0x1f1;
/// The header ends this far from its start, plus the byte at 0x201 (the displacement of a short jump).
const HEADER_LEN_BASE: usize = 0x202 - HEADER_OFFSET;
const SECTOR: u64 = 512;
/// `setup_sects` for images that say 0.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// Protocol 2.12: the first with `xloadflags`.
const MIN_VERSION: u16 = 0x020c;
/// `loadflags`: the code belongs at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: there is a 64-bit entry at +0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: the initrd may lie anywhere.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
const ENTRY_64_OFFSET: u64 = 0x200;
/// The payload's last bytes: the length of what is packed (Linux `scripts/Makefile.lib`, `size_append`).
const LENGTH_FIELD: u64 = 4;

/// Why a file cannot be loaded as a bzImage.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// The system refuses to read it.
    #[error("cannot read the file; check that it is a regular file")]
    Read(#[source] io::Error),
    /// Neither this nor ELF.
    #[error(
        "the file is neither an ELF vmlinux nor a bzImage (it begins with \"{}\"); point kernel_image_path at a kernel",
        start.escape_ascii()
    )]
    NotAKernel {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// No 64-bit entry.
    #[error(
        "the image does not provide a 64-bit entry point (boot protocol {:#x}, xloadflags {flags:#x}); use a kernel of Linux 3.8 or later built for x86_64",
        version
    )]
    No64BitEntry {
        /// Boot protocol version, major in the high byte.
        version: u16,
        /// `xloadflags`.
        flags: u16,
    },
    /// Shorter than its header says.
    #[error(
        "the header promises {wanted} bytes and the file has {len}; it is cut short, copy or build it again"
    )]
    Cut {
        /// Where the promised part ends.
        wanted: u64,
        /// Length of the file.
        len: u64,
    },
    /// Guest memory is too small.
    #[error(
        "the kernel needs guest memory up to {needed:#x} and can use it up to {limit:#x}; give the machine more memory"
    )]
    DoesNotFit {
        /// First byte after what it needs.
        needed: u64,
        /// First byte it cannot use.
        limit: u64,
    },
    /// The packed kernel is damaged.
    #[error("its {packing:?} payload does not unpack; the file is damaged, copy or build it again")]
    Damaged {
        /// How it is packed.
        packing: Packing,
        /// What the unpacker says.
        source: io::Error,
    },
    /// The packed kernel is not as long as it should be.
    #[error(
        "its payload unpacks to {found} bytes or more where {announced} are announced; the file is damaged, copy or build it again"
    )]
    Length {
        /// What came out.
        found: u64,
        /// What the image says of itself.
        announced: u64,
    },
    /// What was packed is an ELF file that cannot be loaded.
    #[error("the vmlinux inside cannot be loaded")]
    Elf(#[source] ElfError),
    /// Guest memory refused a write that was checked.
    #[error("cannot copy the kernel into guest memory")]
    Copy(#[source] GuestMemoryError),
}

impl Explain for BzImageError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Elf(inner) => return FaultKind::Inner(inner),
            Self::DoesNotFit { .. } => FaultCode::KernelDoesNotFit,
            Self::Read(_)
            | Self::NotAKernel { .. }
            | Self::No64BitEntry { .. }
            | Self::Cut { .. }
            | Self::Damaged { .. }
            | Self::Length { .. } => FaultCode::KernelInvalid,
            Self::Copy(_) => FaultCode::InternalError,
        })
    }
}

/// Loads the bzImage in `file` into fresh guest memory.
///
/// # Errors
/// [`BzImageError`]: what is wrong with the file, or that the guest's memory is too small for it.
pub fn load(memory: &GuestMemory, file: &mut File) -> Result<LoadedKernel, BzImageError> {
    let ram_end = elf::first_region_end(memory);
    let image = Image::read(file)?;
    match image.unpack(memory, file, ram_end)? {
        Some(plan) => Ok(LoadedKernel {
            setup_header: Some(image.header),
            ..LoadedKernel::from_plan(&plan, ram_end)
        }),
        None => image.load_packed(memory, file, ram_end),
    }
}

/// A checked setup header.
struct Image {
    header: setup_header,
    file_len: u64,
}

impl Image {
    fn read(file: &mut File) -> Result<Self, BzImageError> {
        let file_len = file.seek(SeekFrom::End(0)).map_err(BzImageError::Read)?;
        let header = read_header(file)?;
        let image = Self { header, file_len };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), BzImageError> {
        let (version, flags) = (self.header.version, self.header.xloadflags);
        let is_high = self.header.loadflags & LOADED_HIGH != 0;
        if version < MIN_VERSION || flags & XLF_KERNEL_64 == 0 || !is_high {
            return Err(BzImageError::No64BitEntry { version, flags });
        }
        let payload_end = self.payload_start() + u64::from(self.header.payload_length);
        let wanted = payload_end.max(self.code_start() + self.code_len());
        if wanted > self.file_len {
            return Err(BzImageError::Cut {
                wanted,
                len: self.file_len,
            });
        }
        Ok(())
    }

    /// Where the part that runs begins in the file.
    fn code_start(&self) -> u64 {
        let sectors = match self.header.setup_sects {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        (u64::from(sectors) + 1) * SECTOR
    }

    /// Its length: `syssize` counts 16 bytes each. A signature may follow.
    fn code_len(&self) -> u64 {
        u64::from(self.header.syssize) * 16
    }

    fn payload_start(&self) -> u64 {
        self.code_start() + u64::from(self.header.payload_offset)
    }

    /// Loads the vmlinux inside; `None`, with memory untouched, when only the guest can unpack it.
    fn unpack(
        &self,
        memory: &GuestMemory,
        file: &mut File,
        ram_end: u64,
    ) -> Result<Option<Plan>, BzImageError> {
        let payload_len = u64::from(self.header.payload_length);
        let Some(packed_len) = payload_len.checked_sub(LENGTH_FIELD) else {
            return Ok(None);
        };
        let start = self.payload_start();
        let magic: [u8; 4] = read_at(file, start)?;
        let Some(packing) = Packing::detect(&magic) else {
            return Ok(None);
        };
        let announced = u64::from(u32::from_le_bytes(read_at(file, start + packed_len)?));
        if announced > ram_end {
            return Err(BzImageError::DoesNotFit {
                needed: HIGH_MEMORY_START.0 + announced,
                limit: ram_end,
            });
        }
        file.seek(SeekFrom::Start(start))
            .map_err(BzImageError::Read)?;
        let vmlinux = packing.unpack(file.take(packed_len));
        elf::load_stream(memory, vmlinux, announced).map_err(|error| match error {
            StreamError::Read(source) => BzImageError::Damaged { packing, source },
            StreamError::Length { found, announced } => BzImageError::Length { found, announced },
            StreamError::Elf(source) => BzImageError::Elf(source),
        })
    }

    fn load_packed(
        &self,
        memory: &GuestMemory,
        file: &mut File,
        ram_end: u64,
    ) -> Result<LoadedKernel, BzImageError> {
        let end = self.runtime_end(ram_end)?;
        file.seek(SeekFrom::Start(self.code_start()))
            .map_err(BzImageError::Read)?;
        let len = usize::try_from(self.code_len()).unwrap_or(usize::MAX);
        memory
            .read_exact_volatile_from(HIGH_MEMORY_START, file, len)
            .map_err(BzImageError::Copy)?;
        Ok(LoadedKernel {
            entry: GuestAddress(HIGH_MEMORY_START.0 + ENTRY_64_OFFSET),
            mode: BootMode::Linux64,
            start: HIGH_MEMORY_START,
            end: GuestAddress(end),
            initrd_limit: GuestAddress(self.initrd_limit(ram_end)),
            setup_header: Some(self.header),
        })
    }

    /// First byte after all that the image uses while it unpacks itself (boot.rst, `init_size`). It runs at
    /// `pref_address` or, when loaded above that, where it was loaded.
    fn runtime_end(&self, ram_end: u64) -> Result<u64, BzImageError> {
        let alignment = u64::from(self.header.kernel_alignment).max(1);
        let aligned = HIGH_MEMORY_START.0.next_multiple_of(alignment);
        let start = aligned.max(self.header.pref_address);
        let needed = start
            .saturating_add(self.header.init_size.into())
            .max(HIGH_MEMORY_START.0 + self.code_len());
        let limit = ram_end.min(IDENTITY_MAP_END);
        if needed > limit {
            return Err(BzImageError::DoesNotFit { needed, limit });
        }
        Ok(needed)
    }

    fn initrd_limit(&self, ram_end: u64) -> u64 {
        if self.header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
            return ram_end;
        }
        ram_end.min(u64::from(self.header.initrd_addr_max) + 1)
    }
}

/// The setup header, with zeros where the image's own header ends early.
fn read_header(file: &mut File) -> Result<setup_header, BzImageError> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(BzImageError::Read)?;
    let wanted = (HEADER_OFFSET + size_of::<setup_header>()) as u64;
    file.take(wanted)
        .read_to_end(&mut start)
        .map_err(BzImageError::Read)?;
    let mut header = setup_header::default();
    let bytes = start
        .split_at_checked(HEADER_OFFSET)
        .map_or(&[][..], |(_, header)| header);
    let displacement = bytes
        .get(0x201 - HEADER_OFFSET)
        .copied()
        .map_or(0, usize::from);
    let len = bytes.len().min(HEADER_LEN_BASE + displacement);
    header.as_mut_slice()[..len].copy_from_slice(&bytes[..len]);
    if header.boot_flag != BOOT_FLAG || header.header != HEADER_MAGIC {
        start.truncate(8);
        return Err(BzImageError::NotAKernel { start });
    }
    Ok(header)
}

fn read_at(file: &mut File, at: u64) -> Result<[u8; 4], BzImageError> {
    let mut bytes = [0; 4];
    file.seek(SeekFrom::Start(at))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(BzImageError::Read)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
