//! Where a linear address leads: the walk that the processor makes through the guest's page tables.
//!
//! The tables are the guest's, so anything may stand in them. A walk reads at most five entries and each of them from
//! guest memory, or says that there is none; nothing is written, not even the accessed bits.
//!
//! Spec: Intel SDM vol. 3, chapter "Paging": 32-bit paging, PAE paging, 4-level paging and 5-level paging.

#![deny(clippy::arithmetic_side_effects)]

use std::fmt;

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

// Control registers, Intel SDM vol. 3 §2.5 and table 2-1.
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

// Bits of an entry, the same at each level and in each mode that has them.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const PAGE_SIZE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// The most address bits that an entry has room for.
const MAX_PHYSICAL_BITS: u32 = 52;

/// The registers that say how addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// How addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingMode {
    /// They are not.
    Off,
    /// Two levels of 4-byte entries.
    Bits32,
    /// Three levels of 8-byte entries.
    Pae,
    /// Four levels: 48 bits.
    FourLevel,
    /// Five levels: 57 bits.
    FiveLevel,
}

/// What a walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// There is a translation.
    Mapped(Mapping),
    /// The upper bits do not repeat the highest one that is translated.
    NotCanonical,
    /// An entry says that there is nothing.
    NotPresent(Entry),
    /// An entry has bits that must be 0.
    Reserved(Entry),
    /// The table of that level is not in guest memory.
    NoTable {
        /// 1 is the last.
        level: u8,
        /// Where the entry should be.
        at: GuestAddress,
    },
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The guest-physical address.
    pub address: GuestAddress,
    /// Bytes of the page; 0 without paging.
    pub page_len: u64,
    /// Each level allows writes.
    pub is_writable: bool,
    /// Each level allows user mode.
    pub is_user: bool,
    /// No level forbids execution.
    pub is_executable: bool,
    /// The address is RAM.
    pub is_memory: bool,
}

/// An entry that ended a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 is the last.
    pub level: u8,
    /// Where it is.
    pub at: GuestAddress,
    /// What stands there.
    pub value: u64,
}

/// Walks the tables that some registers name.
#[derive(Clone, Copy, Debug)]
pub struct PageTables<'a> {
    memory: &'a GuestMemory,
    mode: PagingMode,
    /// CR3.
    root: u64,
    /// Entries of 32-bit paging may be pages of 4 MiB.
    has_large_pages: bool,
    has_no_execute: bool,
    /// Bits of a physical address (MAXPHYADDR), 32 to 52.
    physical_bits: u32,
}

/// What a level of a walk found, besides the next table.
#[derive(Clone, Copy)]
struct Rights {
    is_writable: bool,
    is_user: bool,
    is_executable: bool,
}

impl PagingMode {
    /// The mode that `registers` select.
    #[must_use]
    pub fn of(registers: &PagingRegisters) -> Self {
        if registers.cr0 & CR0_PG == 0 {
            Self::Off
        } else if registers.cr4 & CR4_PAE == 0 {
            Self::Bits32
        } else if registers.efer & EFER_LMA == 0 {
            Self::Pae
        } else if registers.cr4 & CR4_LA57 == 0 {
            Self::FourLevel
        } else {
            Self::FiveLevel
        }
    }

    fn levels(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Bits32 => 2,
            Self::Pae => 3,
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }

    /// Bits of the address that one level translates.
    fn index_bits(self) -> u32 {
        if self == Self::Bits32 { 10 } else { 9 }
    }
}

impl<'a> PageTables<'a> {
    /// The tables in `memory` for a processor with `registers` and physical addresses of `physical_bits` bits
    /// (CPUID 8000_0008H, EAX bits 7..0). A guest may say any number; 32 to 52 make sense.
    #[must_use]
    pub fn new(memory: &'a GuestMemory, registers: &PagingRegisters, physical_bits: u32) -> Self {
        Self {
            memory,
            mode: PagingMode::of(registers),
            root: registers.cr3,
            has_large_pages: registers.cr4 & CR4_PSE != 0,
            has_no_execute: registers.efer & EFER_NXE != 0,
            physical_bits: physical_bits.clamp(32, MAX_PHYSICAL_BITS),
        }
    }

    /// Where `linear` leads.
    #[must_use]
    pub fn walk(&self, linear: u64) -> Walk {
        let linear = match self.mode {
            PagingMode::FourLevel if !is_canonical(linear, 48) => return Walk::NotCanonical,
            PagingMode::FiveLevel if !is_canonical(linear, 57) => return Walk::NotCanonical,
            PagingMode::FourLevel | PagingMode::FiveLevel => linear,
            PagingMode::Off | PagingMode::Bits32 | PagingMode::Pae => linear & u64::from(u32::MAX),
        };
        let mut table = self.root & self.root_mask();
        let mut rights = Rights {
            is_writable: true,
            is_user: true,
            is_executable: true,
        };
        for level in (1..=self.mode.levels()).rev() {
            let at = GuestAddress(table.wrapping_add(self.entry_offset(linear, level)));
            let Some(value) = self.read(at) else {
                return Walk::NoTable { level, at };
            };
            let entry = Entry { level, at, value };
            if value & PRESENT == 0 {
                return Walk::NotPresent(entry);
            }
            if value & self.reserved(level, value) != 0 {
                return Walk::Reserved(entry);
            }
            if !self.is_root_of_pae(level) {
                rights.is_writable &= value & WRITABLE != 0;
                rights.is_user &= value & USER != 0;
                rights.is_executable &= value & self.no_execute() == 0;
            }
            table = self.frame(level, value);
            if level == 1 || self.is_page(level, value) {
                let len = self.len_mapped(level);
                return self.mapped(table, linear, len, rights);
            }
        }
        self.mapped(0, linear, 0, rights)
    }

    fn mapped(&self, frame: u64, linear: u64, page_len: u64, rights: Rights) -> Walk {
        let offset = linear & page_len.wrapping_sub(1);
        let address = GuestAddress(frame | offset);
        Walk::Mapped(Mapping {
            address,
            page_len,
            is_writable: rights.is_writable,
            is_user: rights.is_user,
            is_executable: rights.is_executable,
            is_memory: self.memory.address_in_range(address),
        })
    }

    /// The bits of CR3 that are the address of the first table.
    fn root_mask(&self) -> u64 {
        let all = self.address_mask();
        match self.mode {
            PagingMode::Off => 0,
            PagingMode::Bits32 => all & 0xffff_f000,
            PagingMode::Pae => all & 0xffff_ffe0,
            PagingMode::FourLevel | PagingMode::FiveLevel => all & !0xfff,
        }
    }

    fn address_mask(&self) -> u64 {
        low_bits(self.physical_bits)
    }

    /// Bytes between the start of the table of `level` and the entry for `linear`.
    fn entry_offset(&self, linear: u64, level: u8) -> u64 {
        let bits = self.mode.index_bits();
        let index = (linear >> self.shift(level)) & low_bits(bits);
        // The first table of PAE paging has 4 entries, which the 32 bits of an address see to.
        index
            << if self.mode == PagingMode::Bits32 {
                2
            } else {
                3
            }
    }

    /// Bits of an address below those that `level` translates.
    fn shift(&self, level: u8) -> u32 {
        let below = u32::from(level).saturating_sub(1);
        self.mode
            .index_bits()
            .saturating_mul(below)
            .saturating_add(12)
    }

    /// Bytes that an entry of `level` maps when it is a page.
    fn len_mapped(&self, level: u8) -> u64 {
        low_bits(self.shift(level)).wrapping_add(1)
    }

    fn read(&self, at: GuestAddress) -> Option<u64> {
        if self.mode == PagingMode::Bits32 {
            let entry: u32 = self.memory.read_obj(at).ok()?;
            return Some(entry.into());
        }
        self.memory.read_obj(at).ok()
    }

    /// An entry of the first table of PAE paging has no rights, and other reserved bits.
    fn is_root_of_pae(&self, level: u8) -> bool {
        self.mode == PagingMode::Pae && level == 3
    }

    /// Whether a present entry is a page, not a table.
    fn is_page(&self, level: u8, value: u64) -> bool {
        let can_be = match self.mode {
            PagingMode::Off => false,
            PagingMode::Bits32 => level == 2 && self.has_large_pages,
            PagingMode::Pae => level == 2,
            PagingMode::FourLevel | PagingMode::FiveLevel => level == 2 || level == 3,
        };
        level == 1 || (can_be && value & PAGE_SIZE != 0)
    }

    fn no_execute(&self) -> u64 {
        let has_bit = self.mode != PagingMode::Bits32 && self.has_no_execute;
        if has_bit { NO_EXECUTE } else { 0 }
    }

    /// Bits that must be 0 in a present entry (tables "Format of ..." of the chapter).
    fn reserved(&self, level: u8, value: u64) -> u64 {
        let is_large = level > 1 && self.is_page(level, value);
        if self.mode == PagingMode::Bits32 {
            // Bits 20..13 of a large page are bits 39..32 of its address; bit 21 is none.
            let above = low_bits(8) & !low_bits(self.physical_bits.saturating_sub(32));
            return if is_large { 1 << 21 | above << 13 } else { 0 };
        }
        let beyond = low_bits(MAX_PHYSICAL_BITS) & !self.address_mask();
        if self.is_root_of_pae(level) {
            return beyond | !low_bits(MAX_PHYSICAL_BITS) | 0b1_1110_0110;
        }
        let upper = match self.mode {
            PagingMode::Pae => !low_bits(MAX_PHYSICAL_BITS) & !NO_EXECUTE,
            _ => 0,
        };
        let execute = if self.has_no_execute { 0 } else { NO_EXECUTE };
        let inside = if is_large {
            // Bit 12 of a large page is its memory type.
            low_bits(self.shift(level)) & !low_bits(13)
        } else if level > 3 {
            PAGE_SIZE
        } else {
            0
        };
        beyond | upper | execute | inside
    }

    /// The address in a present entry: of a table, or of a page.
    fn frame(&self, level: u8, value: u64) -> u64 {
        let is_large = level > 1 && self.is_page(level, value);
        if self.mode == PagingMode::Bits32 && is_large {
            return (value & 0xffc0_0000) | (value >> 13 & 0xff) << 32;
        }
        let inside = if is_large { self.shift(level) } else { 12 };
        value & self.address_mask() & !low_bits(inside)
    }
}

/// As a person reads it.
impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped(mapping) => mapping.fmt(f),
            Self::NotCanonical => f.write_str("not a canonical address"),
            Self::NotPresent(entry) => write!(f, "not present: {entry}"),
            Self::Reserved(entry) => write!(f, "reserved bits are set: {entry}"),
            Self::NoTable { level, at } => {
                write!(
                    f,
                    "the level {level} table at {:#x} is not in guest memory",
                    at.0
                )
            }
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_memory { "RAM" } else { "no RAM" };
        write!(f, "guest-physical {:#x}, {place}", self.address.0)?;
        if self.page_len == 0 {
            return f.write_str(", paging is off");
        }
        write!(f, ", a page of {} KiB", self.page_len >> 10)?;
        let rights = [
            (self.is_writable, ", writable"),
            (self.is_user, ", user"),
            (!self.is_executable, ", not executable"),
        ];
        rights
            .iter()
            .filter(|(applies, _)| *applies)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, at, value } = self;
        write!(f, "the level {level} entry at {:#x} is {value:#x}", at.0)
    }
}

/// Whether the bits above the lowest `bits` repeat the highest of them.
fn is_canonical(address: u64, bits: u32) -> bool {
    let upper = address & !low_bits(bits.saturating_sub(1));
    upper == 0 || upper == !low_bits(bits.saturating_sub(1))
}

/// The lowest `bits` bits.
fn low_bits(bits: u32) -> u64 {
    1_u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1)
}

#[cfg(test)]
mod tests;
