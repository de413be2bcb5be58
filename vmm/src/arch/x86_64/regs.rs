//! The state in which the first vCPU starts, for the two ways into a kernel.
//!
//! PVH enters in 32-bit protected mode without paging (Xen `docs/misc/pvh.pandoc`, "Boot-time layout"); the 64-bit Linux
//! protocol enters in long mode on an identity map (Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot
//! Protocol"). Other vCPUs wait for INIT and SIPI in KVM's reset state and need nothing.

use devices::GuestMemory;
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{
    BOOT_STACK, GDT_START, IDT_START, PD_START, PDPT_START, PML4_START, PVH_START_INFO, ZERO_PAGE,
};

// Control registers, Intel SDM vol. 3 §2.5 and table 2-1.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS bit 1 is always 1; interrupts are off.
const RFLAGS_RESERVED: u64 = 1 << 1;

// Page-table entry bits, Intel SDM vol. 3 table 4-15.
const PTE_PRESENT: u64 = 1 << 0;
const PTE_WRITABLE: u64 = 1 << 1;
const PDE_PAGE_SIZE: u64 = 1 << 7;

/// Task state segment. Never reloaded, so the second half that long mode would read need not exist.
const BOOT_TSS: u16 = 0x08;
/// `__BOOT_CS` of the Linux protocol.
const BOOT_CS: u16 = 0x10;
/// `__BOOT_DS` of the Linux protocol.
const BOOT_DS: u16 = 0x18;
const GDT_ENTRIES: usize = 4;

// Access byte of a descriptor without the S and DPL bits, Intel SDM vol. 3 §3.4.5.1 and table 3-2.
const TYPE_CODE: u8 = 0xb; // execute, read, accessed
const TYPE_DATA: u8 = 0x3; // read, write, accessed
const TYPE_TSS_BUSY: u8 = 0xb;

/// First address that the page tables of the 64-bit Linux protocol do not map.
pub const IDENTITY_MAP_END: u64 = 1 << 30;

/// How the first instruction of a kernel expects the processor to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootMode {
    /// 32-bit protected mode, paging off, `ebx` = start info.
    Pvh,
    /// Long mode, first GiB mapped onto itself, `rsi` = zero page.
    Linux64,
}

/// General registers of the first vCPU.
#[must_use]
pub fn boot_regs(mode: BootMode, entry: GuestAddress) -> kvm_regs {
    let common = kvm_regs {
        rip: entry.0,
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    };
    match mode {
        BootMode::Pvh => kvm_regs {
            rbx: PVH_START_INFO.0,
            ..common
        },
        BootMode::Linux64 => kvm_regs {
            rsp: BOOT_STACK.0,
            rbp: BOOT_STACK.0,
            rsi: ZERO_PAGE.0,
            ..common
        },
    }
}

/// Turns `sregs`, as KVM reports them after creating the vCPU, into those of the first vCPU.
///
/// The tables they refer to are written by [`write_boot_tables`].
pub fn set_boot_sregs(mode: BootMode, sregs: &mut kvm_sregs) {
    let code = segment(BOOT_CS, TYPE_CODE, mode);
    let data = segment(BOOT_DS, TYPE_DATA, mode);
    sregs.cs = code;
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.tr = task_segment();
    sregs.gdt.base = GDT_START.0;
    sregs.gdt.limit = table_limit(GDT_ENTRIES);
    sregs.idt.base = IDT_START.0;
    sregs.idt.limit = table_limit(1);
    match mode {
        BootMode::Pvh => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
        BootMode::Linux64 => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = PML4_START.0;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
    }
}

/// FPU state after `FNINIT`, with SSE exceptions masked (Intel SDM vol. 1 §8.1.5, §11.6.4).
#[must_use]
pub fn boot_fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    }
}

/// Writes GDT and IDT, and for long mode the page tables, to where [`set_boot_sregs`] points.
///
/// # Errors
/// Guest memory ends below the tables.
pub fn write_boot_tables(memory: &GuestMemory, mode: BootMode) -> Result<(), GuestMemoryError> {
    let gdt: [u64; GDT_ENTRIES] = [
        0,
        descriptor(&task_segment()),
        descriptor(&segment(BOOT_CS, TYPE_CODE, mode)),
        descriptor(&segment(BOOT_DS, TYPE_DATA, mode)),
    ];
    write_entries(memory, GDT_START, &gdt)?;
    write_entries(memory, IDT_START, &[0])?;
    match mode {
        BootMode::Pvh => Ok(()),
        BootMode::Linux64 => write_page_tables(memory),
    }
}

/// Maps the first GiB onto itself with 2 MiB pages.
fn write_page_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let table = PTE_PRESENT | PTE_WRITABLE;
    write_entries(memory, PML4_START, &[PDPT_START.0 | table])?;
    write_entries(memory, PDPT_START, &[PD_START.0 | table])?;
    let pages: Vec<u64> = (0..512)
        .map(|page| (page << 21) | table | PDE_PAGE_SIZE)
        .collect();
    write_entries(memory, PD_START, &pages)
}

fn write_entries(
    memory: &GuestMemory,
    at: GuestAddress,
    entries: &[u64],
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    memory.write_slice(&bytes, at)
}

/// Limit of a descriptor table of `entries` 8-byte entries.
fn table_limit(entries: usize) -> u16 {
    u16::try_from(entries * 8 - 1).expect("boot tables have a handful of entries")
}

/// A flat 4 GiB code or data segment.
fn segment(selector: u16, type_: u8, mode: BootMode) -> kvm_segment {
    let is_code = selector == BOOT_CS;
    let is_long_code = is_code && mode == BootMode::Linux64;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!is_long_code),
        s: 1,
        l: u8::from(is_long_code),
        g: 1,
        ..kvm_segment::default()
    }
}

/// A 32-bit or 64-bit busy TSS: VM entry demands one (Intel SDM vol. 3 §26.3.1.2).
fn task_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0x67,
        selector: BOOT_TSS,
        type_: TYPE_TSS_BUSY,
        present: 1,
        ..kvm_segment::default()
    }
}

/// The in-memory form of a segment whose base is 0 (Intel SDM vol. 3 figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn descriptors_are_the_well_known_constants() {
        let code = |mode| descriptor(&segment(BOOT_CS, TYPE_CODE, mode));
        assert_eq!(code(BootMode::Pvh), 0x00cf_9b00_0000_ffff);
        assert_eq!(code(BootMode::Linux64), 0x00af_9b00_0000_ffff);
        let data = segment(BOOT_DS, TYPE_DATA, BootMode::Pvh);
        assert_eq!(descriptor(&data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task_segment()), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn pvh_starts_flat_and_unpaged() {
        let mut sregs = kvm_sregs {
            cr4: 0xffff,
            efer: 0xd01,
            apic_base: 0xfee0_0900,
            ..kvm_sregs::default()
        };
        set_boot_sregs(BootMode::Pvh, &mut sregs);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.limit, sregs.cs.db, sregs.cs.l), (u32::MAX, 1, 0));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        let regs = boot_regs(BootMode::Pvh, GuestAddress(0x100_0000));
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0000, 0x6000, 2));
    }

    #[test]
    fn linux64_starts_in_long_mode_on_the_zero_page() {
        let mut sregs = kvm_sregs::default();
        set_boot_sregs(BootMode::Linux64, &mut sregs);
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.db, sregs.cs.l), (0, 1));
        let regs = boot_regs(BootMode::Linux64, GuestAddress(0x100_0200));
        assert_eq!((regs.rsi, regs.rsp, regs.rbp), (0x7000, 0x8ff0, 0x8ff0));
    }

    #[test]
    fn tables_do_not_touch_each_other() {
        let memory = memory();
        write_boot_tables(&memory, BootMode::Linux64).unwrap();
        let gdt_end = GDT_START.0 + u64::from(table_limit(GDT_ENTRIES)) + 1;
        assert!(gdt_end <= IDT_START.0);
        assert_eq!(
            memory.read_obj::<u64>(GuestAddress(0x510)).unwrap(),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(memory.read_obj::<u64>(PML4_START).unwrap(), 0xa003);
        assert_eq!(memory.read_obj::<u64>(PDPT_START).unwrap(), 0xb003);
        let last: u64 = memory.read_obj(GuestAddress(0xbff8)).unwrap();
        assert_eq!(last, 0x3fe0_0083);
    }
}
