//! Recognises a kernel image and loads it.
//!
//! | file | how it is entered |
//! |---|---|
//! | ELF with a PVH note | PVH |
//! | ELF without | 64-bit Linux protocol, at `e_entry` |

use std::fs::File;

use devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use vm_memory::GuestAddress;

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
    load_elf(memory, file).map_err(KernelError::Elf)
}

fn load_elf(memory: &GuestMemory, file: &mut File) -> Result<LoadedKernel, ElfError> {
    let ram_end = elf::first_region_end(memory);
    let plan = Plan::read(file, ram_end)?;
    plan.load(memory, file)?;
    Ok(LoadedKernel::from_plan(&plan, ram_end))
}

impl LoadedKernel {
    fn from_plan(plan: &Plan, ram_end: u64) -> Self {
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
