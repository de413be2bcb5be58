//! Where everything lies in the guest's physical address space.
//!
//! ```text
//! 0            0x9fc00      0xe0000  1 MiB          3 GiB       4 GiB      256 GiB     512 GiB
//! | boot tables | system area | RSDP  | kernel … RAM | MMIO 32   | RAM      | MMIO 64   | RAM, hotplug
//! ```
//!
//! Low memory is the first boot stage's scratch space: what lies below [`SYSTEM_START`] may be overwritten by the guest
//! as soon as it has read it. What lies in the system area stays reserved, so that the guest can read it at any time.

use devices::legacy::ioapic;
use vm_memory::GuestAddress;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Boot GDT (Intel SDM vol. 3 §3.5.1).
pub const GDT_START: GuestAddress = GuestAddress(0x500);
/// Boot IDT: one empty entry.
pub const IDT_START: GuestAddress = GuestAddress(0x520);
/// `hvm_start_info` (Xen `public/arch-x86/hvm/start_info.h`).
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// `hvm_modlist_entry` array: the initrd, if any.
pub const PVH_MODULE_LIST: GuestAddress = GuestAddress(0x6040);
/// `hvm_memmap_table_entry` array, for a guest entered by PVH.
pub const PVH_MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
/// `boot_params`, for a guest entered by the 64-bit Linux protocol (Linux `Documentation/arch/x86/zero-page.rst`).
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Initial stack pointer of the 64-bit Linux protocol.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Top-level page table of the 64-bit Linux protocol.
pub const PML4_START: GuestAddress = GuestAddress(0x9000);
/// Page-directory-pointer table.
pub const PDPT_START: GuestAddress = GuestAddress(0xa000);
/// Page directory: maps the first GiB onto itself.
pub const PD_START: GuestAddress = GuestAddress(0xb000);
/// Kernel command line, terminated by NUL.
pub const CMDLINE_START: GuestAddress = GuestAddress(0x2_0000);
/// Bytes reserved for the command line, with its NUL.
pub const CMDLINE_MAX_SIZE: usize = 2048;

/// System area: MP table at its start, ACPI tables after it, single pages from its end down. Ordinary memory that the memory map reserves.
pub const SYSTEM_START: GuestAddress = GuestAddress(0x9_fc00);
/// First byte after the system area.
pub const SYSTEM_END: GuestAddress = RSDP_START;
/// ACPI root pointer, where a BIOS has it (ACPI 6.5 §5.2.5.1).
pub const RSDP_START: GuestAddress = GuestAddress(0xe_0000);
/// First byte of high memory; kernels are loaded here or above.
pub const HIGH_MEMORY_START: GuestAddress = GuestAddress(0x10_0000);

/// 32-bit MMIO gap: no RAM from here up to 4 GiB.
pub const MMIO32_START: GuestAddress = GuestAddress(3 * GIB);
/// First byte after the 32-bit MMIO gap.
pub const MMIO32_END: GuestAddress = GuestAddress(4 * GIB);
/// Boot timer: one page.
pub const BOOT_TIMER_START: GuestAddress = MMIO32_START;
/// Window for virtio-mmio devices and 32-bit PCI BARs.
pub const MMIO_DEVICES_START: GuestAddress = GuestAddress(0xc000_1000);
/// First byte after the device window.
pub const MMIO_DEVICES_END: GuestAddress = ECAM_START;
/// Bytes one virtio-mmio device takes.
pub const MMIO_DEVICE_SIZE: u64 = 0x1000;
/// PCI configuration space by memory (PCI Firmware 3.3 §4.1.2).
pub const ECAM_START: GuestAddress = GuestAddress(0xeec0_0000);
/// Bytes reserved for configuration space: 256 buses.
pub const ECAM_SIZE: u64 = 256 * MIB;
/// I/O APIC registers (82093AA §3.0).
pub const IOAPIC_START: GuestAddress = GuestAddress(0xfec0_0000);
/// Input pins of the I/O APIC: GSI 0..=23.
pub const IOAPIC_PINS: u32 = ioapic::PINS as u32;
/// Local APIC registers (Intel SDM vol. 3 §11.4.1).
pub const LAPIC_START: GuestAddress = GuestAddress(0xfee0_0000);
/// Three pages that KVM uses on hosts without unrestricted guests (KVM API 4.36 `KVM_SET_TSS_ADDR`).
pub const KVM_TSS_START: GuestAddress = GuestAddress(0xfffb_d000);
/// 64-bit MMIO gap, for PCI BARs.
pub const MMIO64_START: GuestAddress = GuestAddress(256 * GIB);
/// First byte after the 64-bit MMIO gap.
pub const MMIO64_END: GuestAddress = GuestAddress(512 * GIB);
/// End of the address space that x86_64 can ever address physically: 52 bits (Intel SDM vol. 3 §4.1.4).
const ADDRESS_SPACE_END: u64 = 1 << 52;

/// The keyboard's interrupt.
pub const GSI_KEYBOARD: u32 = 1;
/// COM1's interrupt.
pub const GSI_COM1: u32 = 4;
/// First interrupt pin for devices, handed out in attach order.
pub const GSI_DEVICE_FIRST: u32 = 5;
/// Last interrupt pin for devices.
pub const GSI_DEVICE_LAST: u32 = IOAPIC_PINS - 2;
/// Says that something happened that `devices::acpi::events` knows.
pub const GSI_EVENTS: u32 = IOAPIC_PINS - 1;
/// First GSI for message-signalled interrupts.
pub const GSI_MSI_FIRST: u32 = IOAPIC_PINS;
/// Last GSI for message-signalled interrupts (`KVM_MAX_IRQ_ROUTES` - 1).
pub const GSI_MSI_LAST: u32 = 4095;

/// COM1: 8 ports of a 16550A.
pub const COM1_PORT: u16 = 0x3f8;
/// Keyboard controller: data port.
pub const I8042_DATA_PORT: u16 = 0x60;
/// Keyboard controller: status and command port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// PCI configuration by port: address and data (PCI Local Bus 3.0 §3.2.2.3.2).
pub const PCI_CONFIG_PORTS: u16 = 0xcf8;
/// The three ports of `devices::acpi::power`.
pub const POWER_PORTS: u16 = 0x600;
/// The port of `devices::acpi::events`.
pub const EVENTS_PORT: u16 = 0x603;
/// Which PCI slots changed: the 16 ports of `devices::pci::hotplug`.
pub const PCI_HOTPLUG_PORTS: u16 = 0x500;
/// The port of `devices::acpi::panic`.
pub const PANIC_PORT: u16 = 0x604;

/// What Linux adds and removes memory by.
const HOTPLUG_SECTION: u64 = 128 * MIB;

/// Where RAM can lie, as (first byte, first byte after).
const RAM_WINDOWS: [(u64, u64); 3] = [
    (0, MMIO32_START.0),
    (MMIO32_END.0, MMIO64_START.0),
    (MMIO64_END.0, ADDRESS_SPACE_END),
];

/// What a range of the memory map is. Values as in ACPI 6.5 §15 table 15.4, shared by e820 and PVH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Memory the guest may use.
    Ram = 1,
    /// Anything it must leave alone.
    Reserved = 2,
}

/// One range of the memory map that a guest is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// First byte.
    pub start: GuestAddress,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// Splits `mem_size_mib` MiB around the MMIO gaps.
///
/// More than 52 bits can address is cut there; no host can map that much.
#[must_use]
pub fn ram_regions(mem_size_mib: usize) -> Vec<(GuestAddress, u64)> {
    let mut left = u64::try_from(mem_size_mib)
        .unwrap_or(u64::MAX)
        .saturating_mul(MIB);
    let mut regions = Vec::with_capacity(RAM_WINDOWS.len());
    for (start, end) in RAM_WINDOWS {
        let len = left.min(end - start);
        if len > 0 {
            regions.push((GuestAddress(start), len));
        }
        left -= len;
    }
    regions
}

/// The first place for `len` bytes that are no RAM, from `end` (of RAM, or of the place before) on: above 4 GiB
/// and outside the MMIO gap. `None` when there is none.
///
/// On its own boundary of 128 MiB, Linux' unit of memory hotplug (`SECTION_SIZE_BITS`), so that it shares none.
#[must_use]
pub fn place_above_ram(end: u64, len: u64) -> Option<GuestAddress> {
    let mut start = end
        .max(MMIO32_END.0)
        .checked_next_multiple_of(HOTPLUG_SECTION)?;
    if start < MMIO64_END.0 && start.checked_add(len)? > MMIO64_START.0 {
        start = MMIO64_END.0;
    }
    (start.checked_add(len)? <= ADDRESS_SPACE_END).then_some(GuestAddress(start))
}

/// The ranges of addresses that [`place_above_ram`] can give, for RAM that ends at `ram_end`.
pub fn windows_above_ram(ram_end: u64) -> impl Iterator<Item = (u64, u64)> {
    let (_, windows) = RAM_WINDOWS.split_at(1);
    windows
        .iter()
        .map(move |(start, end)| (ram_end.max(*start), *end))
        .filter(|(start, end)| start < end)
}

/// The memory map for RAM `regions` (of [`ram_regions`]): e820 for Linux, the same for PVH.
#[must_use]
pub fn memory_map(regions: &[(GuestAddress, u64)]) -> Vec<MemoryMapEntry> {
    let entry = |start: u64, end: u64, kind| MemoryMapEntry {
        start: GuestAddress(start),
        len: end.saturating_sub(start),
        kind,
    };
    let ecam_end = ECAM_START.0 + ECAM_SIZE;
    let mut map = vec![
        entry(0, SYSTEM_START.0, MemoryKind::Ram),
        entry(SYSTEM_START.0, SYSTEM_END.0, MemoryKind::Reserved),
        entry(ECAM_START.0, ecam_end, MemoryKind::Reserved),
    ];
    for (start, len) in regions {
        let end = start.0.saturating_add(*len);
        map.push(entry(
            start.0.max(HIGH_MEMORY_START.0),
            end,
            MemoryKind::Ram,
        ));
    }
    map.retain(|entry| entry.len > 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_region() {
        assert_eq!(ram_regions(128), [(GuestAddress(0), 128 * MIB)]);
        assert_eq!(ram_regions(3072), [(GuestAddress(0), 3 * GIB)]);
    }

    #[test]
    fn memory_splits_at_both_gaps() {
        assert_eq!(
            ram_regions(5 * 1024),
            [(GuestAddress(0), 3 * GIB), (GuestAddress(4 * GIB), 2 * GIB)]
        );
        assert_eq!(
            ram_regions(256 * 1024),
            [
                (GuestAddress(0), 3 * GIB),
                (GuestAddress(4 * GIB), 252 * GIB),
                (GuestAddress(512 * GIB), GIB)
            ]
        );
    }

    #[test]
    fn absurd_memory_stays_addressable() {
        for (start, len) in ram_regions(usize::MAX) {
            assert!(start.0 + len <= ADDRESS_SPACE_END);
        }
        assert_eq!(ram_regions(0), []);
    }

    #[test]
    fn memory_map_lists_ranges_in_the_promised_order() {
        let map: Vec<_> = memory_map(&ram_regions(5 * 1024))
            .iter()
            .map(|e| (e.start.0, e.len, e.kind))
            .collect();
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, MemoryKind::Ram),
                (0x9_fc00, 0x4_0400, MemoryKind::Reserved),
                (0xeec0_0000, 256 * MIB, MemoryKind::Reserved),
                (MIB, 3 * GIB - MIB, MemoryKind::Ram),
                (4 * GIB, 2 * GIB, MemoryKind::Ram),
            ]
        );
    }

    #[test]
    fn places_above_ram_avoid_the_gaps() {
        for (end, len, place) in [
            (128 * MIB, MIB, Some(4 * GIB)),
            (5 * GIB + 1, MIB, Some(5 * GIB + 128 * MIB)),
            (255 * GIB, GIB, Some(255 * GIB)),
            (255 * GIB, 2 * GIB, Some(512 * GIB)),
            (256 * GIB, MIB, Some(512 * GIB)),
            (600 * GIB, MIB, Some(600 * GIB)),
            (4 * GIB, ADDRESS_SPACE_END, None),
            (4 * GIB, u64::MAX, None),
            (u64::MAX, 1, None),
        ] {
            let found = place_above_ram(end, len).map(|start| start.0);
            assert_eq!(found, place, "{end:#x} {len:#x}");
        }
    }

    #[test]
    fn windows_above_ram_leave_out_ram_and_the_gaps() {
        for (ram_end, windows) in [
            (
                GIB,
                &[(4 * GIB, 256 * GIB), (512 * GIB, ADDRESS_SPACE_END)][..],
            ),
            (
                5 * GIB,
                &[(5 * GIB, 256 * GIB), (512 * GIB, ADDRESS_SPACE_END)],
            ),
            (256 * GIB, &[(512 * GIB, ADDRESS_SPACE_END)]),
            (600 * GIB, &[(600 * GIB, ADDRESS_SPACE_END)]),
        ] {
            let found: Vec<_> = windows_above_ram(ram_end).collect();
            assert_eq!(found, windows, "{ram_end:#x}");
        }
    }

    #[test]
    fn one_mebibyte_has_no_high_memory() {
        let map = memory_map(&ram_regions(1));
        assert_eq!(map.len(), 3);
    }
}
