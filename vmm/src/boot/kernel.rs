//! Recognises a kernel image and loads it.
//!
//! | file | how it is entered |
//! |---|---|
//! | ELF with a PVH note | PVH |
//! | ELF without | 64-bit Linux protocol, at `e_entry` |
//! | bzImage packed with LZ4 or gzip | as the ELF file inside |
//! | bzImage packed otherwise | 64-bit Linux protocol, at +0x200; it unpacks itself |

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use vm_config::{Explain, FaultKind};
use vm_memory::GuestAddress;

use super::bzimage::{self, BzImageError};
use super::check_regular;
use super::elf::{self, ElfEntry, ElfError, Plan};
use crate::arch::x86_64::regs::BootMode;

/// Why a kernel cannot be loaded, in the words existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// An ELF file that cannot be loaded.
    #[error(
        "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image"
    )]
    Elf(#[source] ElfError),
    /// Anything else: a bzImage that cannot be loaded, or no kernel at all.
    #[error(
        "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load bzImage kernel image"
    )]
    BzImage(#[source] BzImageError),
}

impl Explain for KernelError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::Elf(inner) => FaultKind::Inner(inner),
            Self::BzImage(inner) => FaultKind::Inner(inner),
        }
    }
}

/// A kernel in guest memory, ready to be entered.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedKernel {
    /// First instruction.
    pub entry: GuestAddress,
    /// The state the processor must be in.
    pub mode: BootMode,
    /// First byte the kernel occupies.
    pub start: GuestAddress,
    /// First byte after it, memory that it clears for itself included. An initrd lies outside `start..end`.
    pub end: GuestAddress,
    /// An initrd must end here or below.
    pub initrd_limit: GuestAddress,
    /// What the zero page of a bzImage begins with.
    pub setup_header: Option<setup_header>,
}

/// Loads the kernel in `file` into fresh guest memory.
///
/// # Errors
/// [`KernelError`]: what is wrong with the file, or that the guest's memory is too small for it.
pub fn load_kernel(memory: &GuestMemory, file: &mut File) -> Result<LoadedKernel, KernelError> {
    let unreadable = |source| KernelError::BzImage(BzImageError::Read(source));
    check_regular(file).map_err(unreadable)?;
    if is_elf(file).map_err(unreadable)? {
        let plan = elf::load_file(memory, file).map_err(KernelError::Elf)?;
        let ram_end = elf::first_region_end(memory);
        Ok(LoadedKernel::from_plan(&plan, ram_end))
    } else {
        bzimage::load(memory, file).map_err(KernelError::BzImage)
    }
}

fn is_elf(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(elf::MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start == elf::MAGIC)
}

impl LoadedKernel {
    /// How to enter the ELF kernel that `plan` put into memory.
    pub(super) fn from_plan(plan: &Plan, ram_end: u64) -> Self {
        let (entry, mode) = match plan.entry {
            ElfEntry::Pvh(entry) => (entry, BootMode::Pvh),
            ElfEntry::Linux64(entry) => (entry, BootMode::Linux64),
        };
        Self {
            entry,
            mode,
            start: plan.start(),
            end: plan.end(),
            initrd_limit: GuestAddress(ram_end),
            setup_header: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::boot::elf::tests::{ENTRY, plain, with_pvh_note};

    fn load(bytes: &[u8]) -> Result<LoadedKernel, KernelError> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        load_kernel(&memory, &mut file)
    }

    #[test]
    fn elf_kernels_are_entered_by_note_or_entry_point() {
        assert_eq!(load(&with_pvh_note()).unwrap().mode, BootMode::Pvh);
        let kernel = load(&plain()).unwrap();
        assert_eq!((kernel.mode, kernel.entry.0), (BootMode::Linux64, ENTRY));
        assert_eq!(kernel.initrd_limit.0, 8 << 20);
    }

    #[test]
    fn errors_carry_the_words_clients_look_for() {
        let mut arm = plain();
        arm[18] = 183;
        let refused = load(&arm).unwrap_err().to_string();
        let phrase = "Kernel Loader: failed to load ELF kernel image";
        assert!(refused.contains(phrase), "{refused}");
        let refused = load(b"just some text").unwrap_err().to_string();
        let phrase = "Kernel Loader: failed to load bzImage kernel image";
        assert!(refused.contains(phrase), "{refused}");
    }
}
