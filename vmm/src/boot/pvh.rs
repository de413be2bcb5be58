//! PVH start info: what a kernel entered by PVH is told.
//!
//! Spec: Xen `public/arch-x86/hvm/start_info.h`, version 1.

use devices::GuestMemory;
use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::BootInfo;
use crate::arch::x86_64::layout::{PVH_MEMORY_MAP, PVH_MODULE_LIST, PVH_START_INFO};

/// Writes start info, module list and memory map to their places of `layout`.
///
/// # Errors
/// Guest memory ends below them.
pub fn write_start_info(memory: &GuestMemory, info: &BootInfo<'_>) -> Result<(), GuestMemoryError> {
    let entries =
        u32::try_from(info.memory_map.len()).expect("a memory map has a handful of entries");
    let mut start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: info.cmdline.0,
        rsdp_paddr: info.rsdp.0,
        memmap_paddr: PVH_MEMORY_MAP.0,
        memmap_entries: entries,
        ..hvm_start_info::default()
    };
    if let Some(initrd) = info.initrd {
        start_info.nr_modules = 1;
        start_info.modlist_paddr = PVH_MODULE_LIST.0;
        let module = hvm_modlist_entry {
            paddr: initrd.start.0,
            size: initrd.len,
            ..hvm_modlist_entry::default()
        };
        memory.write_obj(module, PVH_MODULE_LIST)?;
    }
    write_memory_map(memory, info)?;
    memory.write_obj(start_info, PVH_START_INFO)
}

fn write_memory_map(memory: &GuestMemory, info: &BootInfo<'_>) -> Result<(), GuestMemoryError> {
    let mut at = PVH_MEMORY_MAP.0;
    for range in info.memory_map {
        let entry = hvm_memmap_table_entry {
            addr: range.start.0,
            size: range.len,
            type_: range.kind as u32,
            reserved: 0,
        };
        memory.write_obj(entry, GuestAddress(at))?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::layout::{CMDLINE_START, RSDP_START, memory_map, ram_regions};
    use crate::boot::Initrd;

    fn written(initrd: Option<Initrd>) -> (GuestMemory, hvm_start_info) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let info = BootInfo {
            cmdline: CMDLINE_START,
            initrd,
            rsdp: RSDP_START,
            memory_map: &memory_map(&ram_regions(64)),
        };
        write_start_info(&memory, &info).unwrap();
        let start_info = memory.read_obj(PVH_START_INFO).unwrap();
        (memory, start_info)
    }

    #[test]
    fn start_info_points_at_everything() {
        let (memory, info) = written(None);
        assert_eq!((info.magic, info.version), (0x336e_c578, 1));
        assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (0x2_0000, 0xe_0000));
        assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
        assert_eq!((info.memmap_paddr, info.memmap_entries), (0x7000, 4));
        let high = GuestAddress(0x7000 + 3 * 24);
        let high: hvm_memmap_table_entry = memory.read_obj(high).unwrap();
        assert_eq!((high.addr, high.size, high.type_), (1 << 20, 63 << 20, 1));
    }

    #[test]
    fn an_initrd_is_the_only_module() {
        let (memory, info) = written(Some(Initrd {
            start: GuestAddress(0x20_0000),
            len: 77,
        }));
        assert_eq!((info.nr_modules, info.modlist_paddr), (1, 0x6040));
        let module: hvm_modlist_entry = memory.read_obj(PVH_MODULE_LIST).unwrap();
        assert_eq!((module.paddr, module.size), (0x20_0000, 77));
    }
}
