//! The MP table, for kernels that do not read ACPI.
//!
//! It lies at the start of the system area: the last KiB of base memory, where such kernels look for it. It promises
//! local APICs and one I/O APIC and nothing older: no IMCR and no ExtINT entry, because no 8259 stands behind
//! them. Every I/O APIC pin is listed as an ISA interrupt of the same number, edge-triggered and active high.
//!
//! Spec: Intel MultiProcessor Specification 1.4, chapter 4.

use devices::GuestMemory;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::layout::{IOAPIC_PINS, IOAPIC_START, LAPIC_START};
use super::system_area::{SystemArea, SystemAreaError};

const SPEC_REVISION_1_4: u8 = 4;
const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOT: u8 = 1 << 1;
/// A processor of family 6; the guest's kernel asks CPUID.
const CPU_SIGNATURE: u32 = 0x600;
/// FPU and local APIC.
const CPU_FEATURES: u32 = 1 << 0 | 1 << 9;
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const ALL_LAPICS: u8 = 0xff;
const ISA_BUS: u8 = 0;

/// §4.1, "MP Floating Pointer Structure". The features say: a configuration table, virtual wire mode.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct FloatingPointer {
    signature: [u8; 4],
    table: U32,
    len_paragraphs: u8,
    revision: u8,
    checksum: u8,
    features: [u8; 5],
}

/// §4.2, "MP Configuration Table Header".
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    len: U16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_table_len: U16,
    entries: U16,
    lapic: U32,
    extended_len: U16,
    extended_checksum: u8,
    reserved: u8,
}

/// §4.3.1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [u8; 8],
}

/// §4.3.2.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Bus {
    kind: u8,
    id: u8,
    name: [u8; 6],
}

/// §4.3.3.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    enabled: u8,
    address: U32,
}

/// §4.3.4 and §4.3.5. Flags 0: polarity and trigger mode as the bus has them.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Interrupt {
    kind: u8,
    interrupt: u8,
    flags: U16,
    bus: u8,
    irq: u8,
    apic: u8,
    pin: u8,
}

/// Writes the table for `vcpu_count` vCPUs. It must be the first in `area`.
///
/// # Errors
/// [`SystemAreaError`]: guest memory ends below it.
pub fn write_mp_table(
    memory: &GuestMemory,
    area: &mut SystemArea,
    vcpu_count: u8,
) -> Result<(), SystemAreaError> {
    let pointer_len = size_of::<FloatingPointer>();
    let start = area.place(memory, &vec![0; pointer_len])?;
    let table = area.place(memory, &configuration_table(vcpu_count))?;
    let pointer = floating_pointer(u32::try_from(table.0).expect("the area lies below 1 MiB"));
    SystemArea::overwrite(memory, start, pointer.as_bytes())
}

fn floating_pointer(table: u32) -> FloatingPointer {
    let mut pointer = FloatingPointer {
        signature: *b"_MP_",
        table: table.into(),
        len_paragraphs: 1,
        revision: SPEC_REVISION_1_4,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(pointer.as_bytes());
    pointer
}

fn configuration_table(vcpu_count: u8) -> Vec<u8> {
    let (entries, count) = entries(vcpu_count);
    let len = size_of::<Header>() + entries.len();
    let mut header = Header {
        signature: *b"PCMP",
        len: u16::try_from(len).expect("at most 255 processors").into(),
        revision: SPEC_REVISION_1_4,
        checksum: 0,
        oem: *b"CLOISTER",
        product: *b"000000000000",
        oem_table: 0.into(),
        oem_table_len: 0.into(),
        entries: count.into(),
        lapic: u32::try_from(LAPIC_START.0).expect("below 4 GiB").into(),
        extended_len: 0.into(),
        extended_checksum: 0,
        reserved: 0,
    };
    header.checksum = checksum(header.as_bytes()).wrapping_add(checksum(&entries));
    let mut table = header.as_bytes().to_vec();
    table.extend_from_slice(&entries);
    table
}

/// The entries, by rising kind as §4.3 demands, and how many there are.
fn entries(vcpu_count: u8) -> (Vec<u8>, u16) {
    let mut bytes = Vec::new();
    let mut count = 0;
    let mut push = |entry: &[u8]| {
        bytes.extend_from_slice(entry);
        count += 1;
    };
    for apic_id in 0..vcpu_count {
        push(processor(apic_id).as_bytes());
    }
    let bus = Bus {
        kind: ENTRY_BUS,
        id: ISA_BUS,
        name: *b"ISA   ",
    };
    push(bus.as_bytes());
    let ioapic = IoApic {
        kind: ENTRY_IOAPIC,
        id: vcpu_count.saturating_add(1),
        version: IOAPIC_VERSION,
        enabled: 1,
        address: u32::try_from(IOAPIC_START.0).expect("below 4 GiB").into(),
    };
    push(ioapic.as_bytes());
    for pin in 0..u8::try_from(IOAPIC_PINS).expect("24 pins") {
        push(interrupt(ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, pin, ioapic.id, pin).as_bytes());
    }
    push(interrupt(ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, ALL_LAPICS, 1).as_bytes());
    (bytes, count)
}

fn processor(apic_id: u8) -> Processor {
    Processor {
        kind: ENTRY_PROCESSOR,
        apic_id,
        apic_version: LAPIC_VERSION,
        flags: CPU_ENABLED | if apic_id == 0 { CPU_BOOT } else { 0 },
        signature: CPU_SIGNATURE.into(),
        features: CPU_FEATURES.into(),
        reserved: [0; 8],
    }
}

fn interrupt(kind: u8, interrupt: u8, irq: u8, apic: u8, pin: u8) -> Interrupt {
    Interrupt {
        kind,
        interrupt,
        flags: 0.into(),
        bus: ISA_BUS,
        irq,
        apic,
        pin,
    }
}

/// What makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn written(vcpu_count: u8) -> (Vec<u8>, Vec<u8>) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_mp_table(&memory, &mut SystemArea::default(), vcpu_count).unwrap();
        let read = |at: u32, len: usize| {
            let mut bytes = vec![0; len];
            memory
                .read_slice(&mut bytes, GuestAddress(at.into()))
                .unwrap();
            bytes
        };
        let pointer = read(0x9_fc00, 16);
        let table = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
        let len = u16::from_le_bytes(read(table + 4, 2).try_into().unwrap());
        (pointer, read(table, len.into()))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_checksums_are_zero() {
        for vcpu_count in [1, 2, 31, 32] {
            let (pointer, table) = written(vcpu_count);
            assert_eq!((&pointer[..4], sum(&pointer)), (&b"_MP_"[..], 0));
            assert_eq!((&table[..4], sum(&table)), (&b"PCMP"[..], 0));
        }
    }

    #[test]
    fn lengths_and_counts_follow_the_vcpus() {
        let (_, table) = written(32);
        assert_eq!(table.len(), 44 + 32 * 20 + 8 + 8 + 24 * 8 + 8);
        assert_eq!(
            u16::from_le_bytes([table[34], table[35]]),
            32 + 1 + 1 + 24 + 1
        );
        assert_eq!(table[44..48], [0, 0, 0x14, 3]);
        assert_eq!(table[64..68], [0, 1, 0x14, 1]);
    }

    #[test]
    fn nothing_promises_an_8259() {
        let (pointer, table) = written(1);
        assert_eq!(pointer[11..], [0; 5], "no IMCR");
        let interrupts = &table[44 + 20 + 8 + 8..];
        assert!(interrupts.chunks(8).all(|entry| entry[1] <= INTERRUPT_NMI));
    }
}
